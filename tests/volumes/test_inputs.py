"""Files, folders and patterns: which files a user means."""

from pathlib import Path

import pytest

from distill3d.errors import InputError, SomeFailedError, UserError, for_each
from distill3d.volumes.inputs import expand, name_of, targets_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["b.tif", "a.nii.gz", "a_mask.nii.gz", "b_prob.tif", "c_prob.tif", "b.swc", "notes.txt", ".hidden.tif"]
    for name in [*names, "deep/d.npy", "d[gfp].tif", "empty/x.czi"]:
        Path("s", name).parent.mkdir(exist_ok=True, parents=True)
        Path("s", name).touch()
    return Path("s")


@pytest.mark.parametrize(
    ("places", "meant"),
    [
        (["s"], "a.nii.gz b.tif c_prob.tif d[gfp].tif"),  # c_prob belongs to no stack here
        (["s/b.tif", "s", "./s/b.tif"], "b.tif a.nii.gz c_prob.tif d[gfp].tif"),
        (["s/*"], "a.nii.gz a_mask.nii.gz b.tif b_prob.tif c_prob.tif d[gfp].tif d.npy"),
        (["s/**/*.npy", "s/d[gfp].tif"], "d.npy d[gfp].tif"),
        (["s/missing.tif"], "missing.tif"),
    ],
)
def test_files_folders_and_patterns_stand_for_stacks_each_once(folder, places, meant):
    assert sorted(path.name for path in expand(places)) == sorted(meant.split())
    assert expand(places)[0].name == meant.split()[0]


def test_other_kinds_and_what_belongs_to_a_stack_are_meant_where_asked_for(folder):
    names = [path.name for path in expand(["s"], suffixes=(".swc", ".tif"), others=True)]
    assert names == ["b.swc", "b.tif", "b_prob.tif", "c_prob.tif", "d[gfp].tif"]


def test_a_place_without_stacks_is_refused_and_says_what_lies_there(folder):
    with pytest.raises(InputError, match=r"s/empty: no file .* 1 such as x\.czi are not read") as refused:
        expand(["s/empty", "s/*.tiff", "s/b.tif"])
    assert len(refused.value.lines) == 2
    assert "s/*.tiff: no file matches" in refused.value.lines[1]


def test_outputs_are_named_by_stem_or_by_neuron_and_two_of_a_name_are_refused():
    stacks = [Path("a/x_prob.tif"), Path("a/y.tif")]
    assert targets_of(stacks, Path("out"), ".swc") == {Path("out/x_prob.swc"): stacks[0], Path("out/y.swc"): stacks[1]}
    assert list(targets_of(stacks, Path("out"), ".swc", name_of)) == [Path("out/x.swc"), Path("out/y.swc")]
    with pytest.raises(InputError, match=r"a/y\.tif and b/y\.npy would both become out/y\.swc"):
        targets_of([*stacks, Path("b/y.npy")], Path("out"), ".swc")


@pytest.mark.parametrize(
    ("bad", "kind", "code", "text"),
    [
        ({1}, SomeFailedError, 1, "1 of 3 failed: 1 is bad"),
        ({0, 2}, SomeFailedError, 1, "2 of 3 failed: 0 is bad; 2 is bad"),
        ({0, 1, 2}, InputError, 2, "0 is bad\n1 is bad\n2 is bad"),
    ],
)
def test_what_cannot_be_used_does_not_stop_the_others_and_is_named_at_the_end(bad, kind, code, text):
    def work(item):
        if item in bad:
            raise InputError(f"{item} is bad")
        return item

    done = []
    with pytest.raises(UserError) as failed:
        done.extend(for_each(range(3), work))
    assert done == [item for item in range(3) if item not in bad]
    assert (type(failed.value), failed.value.exit_code, str(failed.value)) == (kind, code, text)
    with pytest.raises(InputError, match=r"^\d is bad$"):
        list(for_each([min(bad)], work))
    assert list(for_each([5, 6], work)) == [5, 6]
