"""Files that lie, and mutations of all formats: refused in one line, soon, and in little memory."""

import gzip
import math
import struct
import tracemalloc

import numpy as np
import psutil
import pytest
import tifffile
from lies import FILES, SHAPE, STACK, fuzz
from typer.testing import CliRunner

from distill3d.cli import app
from distill3d.errors import InputError
from distill3d.evaluation.metrics.tree_errors import tree_pieces
from distill3d.volumes import memory
from distill3d.volumes.raster import rasterize
from distill3d.volumes.swc import read_swc
from distill3d.volumes.volume import read_volume

SHORT, LONG = 100, 10_000


def read_any(path):
    """Read a stack, or a tree, which is then drawn."""
    if ".swc" in path.name:
        rasterize(read_swc(path), SHAPE, allow_outside=True)
    else:
        read_volume(path, allow_blank=True)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_read_or_refused_in_one_line_soon_and_in_little_memory(name, tmp_path):
    faults, count = fuzz(name, read_any, examples=SHORT, folder=tmp_path)
    assert faults == []
    assert count >= SHORT // 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FILES)
def test_ten_thousand_changed_files(name, tmp_path):
    faults, count = fuzz(name, read_any, examples=LONG, folder=tmp_path)
    assert faults == []
    assert count >= LONG


# ---------------------------------------------------------------- one lie each


def chain(path, links, *, order="<", big=False):
    """Write a TIFF of one real page and then pages that are nothing but links, to a place or to the next one."""
    tifffile.imwrite(path, STACK[:1], byteorder=order, bigtiff=big, metadata=None)
    content = bytearray(path.read_bytes())
    count, link, tag, at = ("Q", "Q", 20, 8) if big else ("H", "I", 12, 4)
    first = struct.unpack_from(order + link, content, at)[0]
    n_tags = struct.unpack_from(order + count, content, first)[0]
    end = first + struct.calcsize(order + count) + n_tags * tag
    ifd = bytes(content[first:end])
    last = end
    for to in links:
        here = len(content) + len(content) % 2
        content.extend(b"\0" * (here - len(content)))
        struct.pack_into(order + link, content, last, first if to == "first" else here)
        content += ifd
        last = len(content)
        content += b"\0" * struct.calcsize(link)
    struct.pack_into(order + link, content, last, first)
    path.write_bytes(content)


@pytest.mark.parametrize("links", [[], ["next"], ["next"] * 150], ids=["of one", "of two", "of many"])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", True)])
def test_pages_that_form_a_cycle_are_refused(tmp_path, links, order, big):
    chain(tmp_path / "a.tif", links, order=order, big=big)
    with pytest.raises(InputError, match="leads back to an earlier one") as refused:
        read_volume(tmp_path / "a.tif")
    assert f"page {len(links) + 1} " in str(refused.value)


def test_more_pages_than_a_stack_has_are_refused(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", metadata=None)
    assert read_volume(tmp_path / "a.tif").shape == SHAPE
    monkeypatch.setattr("distill3d.volumes.tiff.MOST_PAGES", SHAPE[0] - 1)
    with pytest.raises(InputError, match="its pages do not end"):
        read_volume(tmp_path / "a.tif")


def _header(path, at, form, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, *values)
    path.write_bytes(content)


def big_nifti(path):
    FILES["a.nii"](path)
    _header(path, 42, "<3h", 30000, 30000, 30000)


def big_packed_nifti(path):
    big_nifti(path.with_name("a.nii"))
    path.write_bytes(gzip.compress(path.with_name("a.nii").read_bytes()))


def big_npy(path):
    np.save(path, STACK)
    path.write_bytes(path.read_bytes().replace(b"(6, 20, 24), }", b"(60000,999,9),}"))


def big_nrrd(path):
    FILES["gzip.nrrd"](path)
    path.write_bytes(path.read_bytes().replace(b"sizes: 24 20 6", b"sizes: 24000 20000 600"))


def big_tiff(path):
    FILES["tiles.tif"](path)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["ImageWidth"].overwrite(60000)
            page.tags["ImageLength"].overwrite(60000)


def big_tile(path):
    FILES["tiles.tif"](path)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["TileWidth"].overwrite(60000)
            page.tags["TileLength"].overwrite(60000)


def many_planes(path):
    FILES["ome.tif"](path)
    about = b'SizeC="1" SizeZ="6" SizeT="1" PhysicalSizeZ="2.0"'
    claim = b'SizeC="9999999999" SizeZ="6" SizeT="1"'
    path.write_bytes(path.read_bytes().replace(about, claim.ljust(len(about))))


def big_pbd(path):
    FILES["a.v3dpbd"](path)
    _header(path, 27, "<4I", 60000, 60000, 60000, 1)


def big_raw(path):
    FILES["a.v3draw"](path)
    _header(path, 27, "<4I", 60000, 60000, 60000, 1)


LIES = {
    "a.nii": big_nifti,
    "a.nii.gz": big_packed_nifti,
    "a.npy": big_npy,
    "a.nrrd": big_nrrd,
    "a.tif": big_tiff,
    "tile.tif": big_tile,
    "ome.tif": many_planes,
    "a.v3dpbd": big_pbd,
    "a.v3draw": big_raw,
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_claims_gigabytes_is_refused_before_they_are_allocated(tmp_path, name):
    LIES[name](tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=name) as refused:
            read_volume(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(refused.value).splitlines()) == 1
    assert peak < 4 * STACK.nbytes * 2 + (2 << 20)


@pytest.mark.parametrize("name", [name for name in FILES if ".swc" not in name])
def test_an_honest_stack_above_the_limit_is_refused_with_its_size(tmp_path, name, monkeypatch):
    FILES[name](tmp_path / name)
    assert read_volume(tmp_path / name).shape == SHAPE
    monkeypatch.setattr(memory, "_chosen", [1000 / 2**30])
    with pytest.raises(InputError, match=r"claims \S+ KiB; accepted: at most 1000 bytes \(--max-gib\)"):
        read_volume(tmp_path / name)


def test_the_limit_is_half_of_the_machine_unless_one_is_chosen(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2.0 * 2**30)
    monkeypatch.setattr(memory, "_chosen", [])
    memory.require_room("a", 2**30)
    with pytest.raises(InputError, match=r"a: claims 1.5 GiB; accepted: at most 1 GiB \(half of this machine's memory"):
        memory.require_room("a", 1.5 * 2**30)
    memory.allow_gib(3.0)
    memory.require_room("a", 1.5 * 2**30)
    memory.allow_gib(None)
    with pytest.raises(InputError, match="half"):
        memory.require_room("a", 1.5 * 2**30)


@pytest.mark.parametrize(
    ("own", "limits", "least"),
    [
        ("0::/\n", {"memory.max": "5000"}, 5000),
        ("0::/job/step\n", {"memory.max": "max", "job/memory.max": "3000", "job/step/memory.max": "4000"}, 3000),
        ("0::/elsewhere/5\n", {"memory.max": "max"}, math.inf),
        ("9:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n", {"memory/a/b/memory.limit_in_bytes": "2000"}, 2000),
        ("4:hugetlb,memory:/docker/5\n", {"memory/memory.limit_in_bytes": "6000"}, 6000),  # seen from inside
        ("4:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "2000", "a/memory.max": "1000"}, math.inf),
        (None, {"memory.max": "5000"}, math.inf),
    ],
)
def test_the_least_limit_of_the_groups_that_hold_the_process_counts(tmp_path, monkeypatch, own, limits, least):
    for name, limit in limits.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{limit}\n")
    if own is not None:
        (tmp_path / "own").write_text(own)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    assert memory._group_bytes() == least
    assert memory.machine_bytes.__wrapped__() == min(least, psutil.virtual_memory().total)


@pytest.mark.parametrize(
    "verb", [("trace", "{}", "--out", "{}.swc"), ("evaluate", "--pred", "{}", "--gold", "{}")], ids=lambda verb: verb[0]
)
def test_a_verb_takes_the_limit(tmp_path, monkeypatch, verb):
    monkeypatch.setattr(memory, "_chosen", [])
    FILES["a.tif"](tmp_path / "a.tif")
    words = [word.format(tmp_path / "a.tif") for word in verb]
    result = CliRunner().invoke(app, [*words, "--max-gib", "1e-6"])
    assert isinstance(result.exception, InputError)
    assert "claims 2.81 KiB; accepted: at most 1.05 KiB (--max-gib)" in str(result.exception)


def bomb(path):
    """16 MiB of blanks in 16 KiB."""
    path.write_bytes(gzip.compress(b"# \n" + b" " * (16 << 20)))


def test_an_archive_is_unpacked_only_as_far_as_there_is_room(tmp_path, monkeypatch):
    bomb(tmp_path / "a.swc.gz")
    monkeypatch.setattr(memory, "_chosen", [(32 << 20) / 2**30])
    with pytest.raises(InputError, match="unpacked"):
        read_swc(tmp_path / "a.swc.gz")


def test_more_data_than_a_packed_header_claims_is_refused(tmp_path):
    FILES["gzip.nrrd"](tmp_path / "a.nrrd")
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"sizes: 24 20 6", b"sizes: 24 20 5"))
    with pytest.raises(InputError, match="more bytes found"):
        read_volume(tmp_path / "a.nrrd")


# ---------------------------------------------------------------- trees that reach far


FAR = "1 1 5 5 2 0.5 -1\n2 3 {x} 5 2 0.5 1\n"


def test_a_node_far_away_is_drawn_as_far_as_the_volume_reaches(tmp_path):
    near, far = tmp_path / "near.swc", tmp_path / "far.swc"
    near.write_text(FAR.format(x=1000))
    far.write_text(FAR.format(x="4e11"))
    tracemalloc.start()
    drawn = rasterize(read_swc(far), SHAPE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn[2, 5, 5:].all()
    assert (drawn == rasterize(read_swc(near), SHAPE)).all()
    assert peak < 1 << 20


def test_a_tree_is_drawn_as_without_the_clip(tmp_path):
    rng = np.random.default_rng(3)
    points = rng.uniform(-40, 60, (30, 3)).round(1)
    rows = [f"{n + 1} 3 {x} {y} {z} {1 + n % 4} {n or -1}" for n, (x, y, z) in enumerate(points)]
    (tmp_path / "a.swc").write_text("\n".join(rows))
    tree = read_swc(tmp_path / "a.swc")
    whole = rasterize(tree, (140, 140, 140), allow_outside=True)
    part = rasterize(tree, SHAPE, allow_outside=True)
    assert part.any()
    assert (part == whole[: SHAPE[0], : SHAPE[1], : SHAPE[2]]).all()


def test_a_place_beyond_any_brain_is_refused(tmp_path):
    (tmp_path / "a.swc").write_text(FAR.format(x="1e13"))
    with pytest.raises(InputError, match=r"line 2 holds a number beyond 1e\+12"):
        read_swc(tmp_path / "a.swc")


def test_a_tree_too_long_to_be_cut_into_pieces_is_refused(tmp_path):
    (tmp_path / "a.swc").write_text(FAR.format(x="9e8"))
    tree = read_swc(tmp_path / "a.swc")
    with pytest.raises(InputError, match=r"its edges, cut into pieces, take 83.8 GiB; accepted"):
        tree_pieces(tree, (1.0, 1.0, 1.0))
