"""`distill3d reconstruct`: stacks become trees, whatever lies beside them, whatever was there before."""

import csv
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from distill3d.cli import app
from distill3d.errors import InputError, SomeFailedError
from distill3d.training import networks as networks_module
from distill3d.training import predict_whole as predict_module
from distill3d.training import reconstruct as reconstruct_module
from distill3d.training.networks import networks_of
from distill3d.training.predict import predict_all
from distill3d.training.summary import Summary
from distill3d.types import Prediction
from distill3d.volumes.origin import stated_notes
from distill3d.volumes.prob import read_prob
from distill3d.volumes.swc import read_swc
from distill3d.volumes.volume import Volume, write_volume

SHAPE, SPACING = (16, 32, 64), (2.0, 1.0, 1.0)
GOLD = "1 3 6 16 8 2 -1\n2 3 57 16 8 2 1\n"


class Brightness(torch.nn.Module):
    """A stand-in student that takes what is bright for neuron."""

    def forward(self, image):
        return Prediction(logits=8 * image - 4)


@pytest.fixture
def run(finished_once, monkeypatch):
    """A finished run whose network finds every tube."""
    load = networks_module.load_module

    def bright(path, **_):
        module = load(path)
        module.student = Brightness()
        return module

    monkeypatch.setattr(networks_module, "load_module", bright)
    return finished_once


@pytest.fixture
def predicted(monkeypatch):
    """Shapes of the stacks that were predicted so far; pictures are small ones."""
    shapes, mean_prob = [], predict_module.mean_prob

    def counted(modules, data, **how):
        shapes.append(data.shape)
        return mean_prob(modules, data, **how)

    monkeypatch.setattr(predict_module, "mean_prob", counted)
    for name in ("traced_figure", "tree_figure"):
        monkeypatch.setattr(reconstruct_module, name, lambda path, *_, **__: Image.new("P", (1, 1)).save(path))
    return shapes


def stack(path):
    """One straight neurite, where `GOLD` says."""
    path.parent.mkdir(exist_ok=True)
    mask = np.zeros(SHAPE, bool)
    mask[7:10, 14:19, 6:58] = True
    data = np.random.default_rng(0).integers(0, 20, SHAPE) + 200 * mask
    write_volume(path, Volume(data.astype(np.uint8), SPACING))
    return mask


def reconstruct(*places, run, out, **how):
    done = reconstruct_module.reconstruct(places, networks_of([run]), out=out, **how)
    return [row for row, _ in done]


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("gold", ["none", "tree", "mask"])
def test_a_stack_becomes_a_probability_a_tree_a_picture_and_a_row(run, tmp_path, capsys, gold):
    mask = stack(tmp_path / "s" / "cell.tif")
    if gold == "tree":
        (tmp_path / "s" / "cell.swc").write_text(GOLD)
    if gold == "mask":
        write_volume(tmp_path / "s" / "cell_mask.tif", Volume(mask.astype(np.uint8), SPACING))
    out = tmp_path / "out"
    app(["reconstruct", str(tmp_path / "s"), "--run", str(run), "--out", str(out)], standalone_mode=False)
    assert sorted(path.name for path in out.iterdir()) == [
        "cell.png",
        "cell.swc",
        "cell_3d.html",
        "cell_prob.tif",
        "summary.csv",
    ]
    assert ((read_prob(out / "cell_prob.tif") > 0.5) == mask).mean() > 0.99
    tree = read_swc(out / "cell.swc")
    (row,) = rows(out)
    assert float(row["length_um"]) == pytest.approx(tree.length_um, abs=0.1)
    assert tree.length_um == pytest.approx(51, abs=4)
    assert [row[key] for key in ("shape_zyx", "spacing_zyx_um", "trees", "error")] == ["16x32x64", "2x1x1", "1", ""]
    assert [int(row[key]) for key in ("branches", "tips")] == [len(tree.branch_points), len(tree.tips)]
    scores = {"none": set(), "tree": {"tree_f1", "tree_esa"}, "mask": {"dice", "cldice"}}
    for kind, keys in scores.items():
        assert keys <= set(row) if kind == gold else not keys & set(row)
    assert all(float(row[key]) > 0.9 for key in ("tree_f1", "dice") if key in row)
    page = (out / "cell_3d.html").read_text()
    assert ("gold, found" in page) == (gold == "tree")
    assert stated_notes(out / "cell_3d.html")["made_from"] == stated_notes(out / "cell.swc")["made_from"]
    shown = capsys.readouterr().out
    assert "cell.tif  length 5" in shown
    assert f"summary   {out / 'summary.csv'}" in shown


@pytest.mark.parametrize("bad", ["tree", "mask"])
def test_gold_that_cannot_be_used_leaves_the_other_in_use(run, tmp_path, predicted, bad):
    path = tmp_path / "s" / "cell.tif"
    mask = stack(path).astype(np.uint8)
    path.with_suffix(".swc").write_text("no tree" if bad == "tree" else GOLD)
    write_volume(path.with_name("cell_mask.tif"), Volume(mask[1:] if bad == "mask" else mask, SPACING))
    (row,) = reconstruct(path, run=run, out=tmp_path / "out")
    assert row["warnings"].count("gold is not used") == 1
    assert {key for key in ("tree_f1", "dice") if key in row} == {"dice" if bad == "tree" else "tree_f1"}
    assert all(float(row[key]) > 0.9 for key in ("tree_f1", "dice") if key in row)


def test_what_is_there_stays_and_only_what_is_missing_is_made(run, tmp_path, predicted, monkeypatch):
    stacks, out = [tmp_path / "s" / f"{name}.tif" for name in "ab"], tmp_path / "out"
    for path in stacks:
        stack(path)
    write, killed = reconstruct_module.write_swc, []

    def kill_once(path, *arguments, **how):
        if path.name == "b.swc" and not killed:
            killed.append(path)
            raise KeyboardInterrupt
        write(path, *arguments, **how)

    monkeypatch.setattr(reconstruct_module, "write_swc", kill_once)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(*stacks, run=run, out=out)
    assert [row["file"] for row in rows(out)] == [str(stacks[0])]
    first = {path: path.stat().st_mtime_ns for path in out.glob("*[!v]")}
    assert len(first) == 5
    assert len(reconstruct(*stacks, run=run, out=out)) == len(rows(out)) == 2
    assert len(predicted) == 2
    assert {path: path.stat().st_mtime_ns for path in first} == first
    (out / "a_prob.tif").unlink()
    (out / "b.png").unlink()
    reconstruct(*stacks, run=run, out=out)
    assert len(predicted) == 3
    assert all((out / f"{stem}{end}").is_file() for stem in "ab" for end in ("_prob.tif", ".swc", ".png", "_3d.html"))
    reconstruct(*stacks, run=run, out=out, overwrite=True)
    assert len(predicted) == 5


def test_one_bad_stack_does_not_stop_the_others_and_is_tried_again(run, tmp_path, predicted):
    stacks, out = [tmp_path / "s" / f"{name}.tif" for name in ("a", "bad", "c")], tmp_path / "out"
    for path in stacks:
        stack(path)
    stacks[1].write_bytes(stacks[1].read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(SomeFailedError, match=r"^1 of 3 failed: .*bad\.tif: .*$"):
            reconstruct(*stacks, run=run, out=out)
        assert ["bad.tif" in row["error"] for row in rows(out)] == [False, True, False]
    assert len(predicted) == 2
    stack(stacks[1])
    assert [row.get("error", "") for row in reconstruct(*stacks, run=run, out=out)] == [""] * 3
    assert len(predicted) == 3


def test_other_settings_and_new_gold_are_made_anew_but_not_predicted_without_need(run, tmp_path, predicted):
    path, out = tmp_path / "s" / "a.tif", tmp_path / "out"
    stack(path)
    reconstruct(path, run=run, out=out)
    path.with_suffix(".swc").write_text(GOLD)
    (row,) = reconstruct(path, run=run, out=out)
    assert float(row["tree_f1"]) > 0.9
    assert len(predicted) == 1
    wider = networks_of([run], spacing_um=(2.0, 1.0, 3.0))
    ((row, _),) = reconstruct_module.reconstruct([path], wider, out=out)
    assert float(row["length_um"]) > 140
    assert len(predicted) == 2
    assert "voxels of 2x1x3 um" in row["warnings"]


def test_files_of_others_are_not_replaced_and_gold_never_is(run, tmp_path, predicted):
    path, out = tmp_path / "s" / "a.tif", tmp_path / "out"
    stack(path)
    out.mkdir()
    for name in ("a.png", "a.swc", "a_3d.html", "a_prob.tif"):
        (out / name).write_bytes(b"mine")
        with pytest.raises(InputError, match=rf"{name}: is there and did not come from .*--overwrite"):
            reconstruct(path, run=run, out=out)
        (out / name).unlink()
    gold = path.with_suffix(".swc")
    gold.write_text(GOLD)
    with pytest.raises(InputError, match=r"a\.swc: is the gold tree of .*; accepted: another --out"):
        reconstruct(path, run=run, out=path.parent, overwrite=True)
    assert gold.read_text() == GOLD
    gold.unlink()
    for _ in range(2):  # a tree that was traced here is no gold the next time
        assert "tree_f1" not in reconstruct(path, run=run, out=path.parent)[0]


@pytest.mark.parametrize("text", [b"file,mouse\nmouse1,3\n", b"mouse,age\nm\xfcse,3\n", b""])
def test_a_summary_of_somebody_else_is_not_replaced(run, tmp_path, predicted, text):
    path, summary = tmp_path / "s" / "a.tif", tmp_path / "out" / "summary.csv"
    stack(path)
    summary.parent.mkdir()
    summary.write_bytes(text)
    with pytest.raises(InputError, match=r"summary\.csv: is there and is no summary of stacks; accepted: --overwrite"):
        reconstruct(path, run=run, out=summary.parent)
    assert (summary.read_bytes(), predicted) == (text, [])
    reconstruct(path, run=run, out=summary.parent, overwrite=True)
    assert [row["file"] for row in rows(summary.parent)] == [str(path)]


def put_rows(path, name):
    summary = Summary(path)
    for number in range(20):
        summary.put(f"{name}{number}", {"file": f"{name}{number}.tif", "seconds": "1"})


def test_processes_that_write_one_summary_keep_each_other_s_rows(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        assert [*pool.map(put_rows, [tmp_path / "summary.csv"] * 3, "abc")] == [None] * 3
    assert {row["file"] for row in rows(tmp_path)} == {f"{name}{number}.tif" for name in "abc" for number in range(20)}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_predicted(run, tmp_path, predicted):
    path = tmp_path / "s" / "a.tif"
    stack(path)
    for verb in (reconstruct_module.reconstruct, lambda stacks, networks, out: predict_all(networks, stacks, out=out)):
        with pytest.raises(InputError, match=r"a\.tif/out: cannot be written \(Not a directory\); accepted: another"):
            [*verb([path], networks_of([run]), out=path / "out")]
    assert predicted == []


def test_a_stack_whose_folder_is_gone_is_one_line_though_its_tree_is_there(run, tmp_path, predicted):
    out = tmp_path / "out"
    stack(tmp_path / "s" / "a.tif")
    reconstruct(tmp_path / "s" / "a.tif", run=run, out=out)
    (tmp_path / "s").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"^\S+s/a\.tif: no such file; an image stack is expected$"):
        reconstruct(tmp_path / "s" / "a.tif", run=run, out=out)


def test_a_header_whose_data_are_gone_does_not_stop_the_others_though_its_results_are_there(run, tmp_path, predicted):
    a, b, out = tmp_path / "s" / "a.tif", tmp_path / "s" / "b.nhdr", tmp_path / "out"
    stack(a)
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 64 32 16\nencoding: raw\ndata file: b.raw\n"
    b.write_text(header)
    b.with_suffix(".raw").write_bytes(tifffile.imread(a).tobytes())
    networks = networks_of([run])
    [*predict_all(networks, [b], out=out)]
    b.with_suffix(".raw").unlink()
    with pytest.raises(SomeFailedError, match=r"^1 of 2 failed: \S+b\.nhdr: its data file \S+b\.raw is not there"):
        [*predict_all(networks, [b, a], out=out)]
    with pytest.raises(SomeFailedError, match=r"^1 of 2 failed: \S+b\.nhdr: its data file"):
        reconstruct(b, a, run=run, out=out)
    assert sorted(path.name for path in out.glob("a*")) == ["a.png", "a.swc", "a_3d.html", "a_prob.tif"]


def test_more_foreground_than_a_neuron_has_is_an_error_of_its_stack(run, tmp_path):
    data = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", data)
    with pytest.raises(InputError, match=r"noise\.tif: \S+ % of the volume is foreground"):
        reconstruct(tmp_path / "noise.tif", run=run, out=tmp_path / "out")
    assert (tmp_path / "out" / "noise_prob.tif").is_file()
    assert [row["spacing_zyx_um"] for row in rows(tmp_path / "out")] == ["1x1x1 assumed"]


def made(networks, folder, out, monkeypatch, *, large):
    """Row and products of ``cell.zarr`` in a folder."""
    with monkeypatch.context() as patched:
        if large:
            patched.setattr("distill3d.volumes.parts.LARGE", 1000)
            for whole in (
                "volumes.blocks.StoredBlocks.whole",
                "tracing.trace.trace",
                "evaluation.file_scores.mask_scores",
            ):
                patched.setattr(f"distill3d.{whole}", None)
        ((row, _),) = reconstruct_module.reconstruct([folder / "cell.zarr"], networks, out=out)
    with Image.open(out / "cell.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    texts = ((out / name).read_text().splitlines() for name in ("cell.swc", "cell_3d.html"))
    own = [line for text in texts for line in text if "distill3d_" not in line]
    return {key: row[key] for key in row if key != "seconds"}, own, pixels


@pytest.mark.parametrize("gold", ["none", "tree", "mask", "partly known", "all unknown", "other shape"])
def test_a_large_stack_stays_on_disk_and_gives_the_same(run, tmp_path, monkeypatch, gold):
    monkeypatch.setattr("distill3d.volumes.parts.boxes.__defaults__", ((7, 16, 24),))
    monkeypatch.setattr("distill3d.volumes.prob.CHUNKS", (8, 16, 16))
    monkeypatch.setattr("distill3d.training.predict_large.CHUNKS", (8, 16, 16))
    folder = tmp_path / "s"
    mask = stack(folder / "cell.zarr")
    if gold == "tree":
        (folder / "cell.swc").write_text(GOLD.replace("57 16", "50 20"))
    if gold in {"mask", "partly known"}:
        labels = np.roll(mask, 5, axis=2).astype(np.uint8)
        labels[:, :17, 50:] = 2
    if gold == "all unknown":
        labels = np.full(SHAPE, 2, np.uint8)
    if gold == "other shape":
        labels = np.ones((3, 4, 5), np.uint8)
    if gold not in {"none", "tree"}:
        write_volume(folder / "cell_mask.zarr", Volume(labels, SPACING))
    networks = networks_of([run])
    if "known" in gold:
        networks = replace(networks, gold=replace(networks.gold, unknown_label=2))
    whole = made(networks, folder, tmp_path / "whole", monkeypatch, large=False)
    parted = made(networks, folder, tmp_path / "parted", monkeypatch, large=True)
    assert sorted(path.name for path in (tmp_path / "parted").iterdir()) == [
        "cell.png",
        "cell.swc",
        "cell_3d.html",
        "cell_prob.zarr",
        "summary.csv",
    ]
    assert parted[:2] == whole[:2]
    np.testing.assert_array_equal(parted[2], whole[2])
    scores = {"tree": {"tree_f1"}, "mask": {"dice", "hd95_um"}, "partly known": {"dice", "hd95_um"}}
    assert scores.get(gold, set()) <= set(whole[0])
    assert ("gold is not used" in whole[0]["warnings"]) == (gold in {"all unknown", "other shape"})


def test_a_run_s_tuned_trace_is_used(finished):
    before = networks_of([finished.path]).trace
    finished.tuned.write_text(json.dumps({"best": {"threshold": 0.7, "gap_um": 3.0}}))
    assert networks_of([finished.path]).trace == replace(before, threshold=0.7, gap_um=3.0)
