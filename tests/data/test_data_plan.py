"""`plan`: right values for fingerprints of many kinds, each with its reason; no file is read."""

import math

import pytest

from distill3d.data.fingerprint import CasePrint, Fingerprint, Machine, RadiusFit, TreePrint
from distill3d.data.plan import plan
from distill3d.data.plan_files import TWINS, texts_of
from distill3d.data.plan_sizes import MEMORY_SHARE, VOXEL_BYTES, sizes_of
from distill3d.errors import InputError

LAPTOP = Machine(memory=16 * 2.0**30)


def tree(own=0.3, four=0.5, **settings):
    fits = (RadiusFit(voxels=None, dice=own, share=0.001), RadiusFit(voxels=4.0, dice=four, share=0.002))
    return TreePrint(**({"units": "voxel", "inside": 1.0, "flip": "fine", "radii": (1.0, 2.0, 3.0), "unusable": 0.0,
                         "fits": fits} | settings))  # fmt: skip


def case(name, **settings):
    defaults = {
        "shape_zyx": (100, 512, 512),
        "tree": tree(),
        "image_hash": f"image {name}",
        "gold_hash": f"gold {name}",
    }
    return CasePrint(name=name, **(defaults | settings))


def planned(*cases, **settings):
    return plan(Fingerprint(folder="/data/axons", cases=cases, **({"machine": LAPTOP} | settings)))


def values(made):
    return {choice.key: choice.value for choice in made.scratch}


def cases(count, **settings):
    return [case(f"n{k:02d}", **settings) for k in range(count)]


@pytest.mark.parametrize(
    ("spacing", "shape", "patch", "strides", "block"),
    [
        ((1.0, 1.0, 1.0), (256, 256, 256), [48, 48, 48], [2, 2, 2, 2, 2], [8, 8, 8]),
        ((3.0, 1.0, 1.0), (76, 512, 512), [24, 64, 64], [1, 1, 2, 2, 2], [4, 8, 8]),
        ((1.5, 0.3, 0.3), (76, 512, 512), [16, 80, 80], [1, 1, 2, 2, 2], [2, 8, 8]),
        ((1.0, 1.0, 1.0), (12, 40, 40), [12, 48, 48], [1, 1, 2, 2, 2], [4, 8, 8]),
        ((1.0, 1.0, 1.0), (1, 512, 512), [1, 352, 352], [1, 1, 1, 1, 2], [1, 8, 8]),
    ],
    ids=["isotropic", "1:3", "1:5", "tiny", "one slice"],
)
def test_a_patch_is_a_cube_in_space_and_slices_are_halved_when_they_are_as_far_apart_as_pixels(
    spacing, shape, patch, strides, block
):
    made = planned(*cases(3, spacing_um=spacing, shape_zyx=shape))
    chosen = values(made)
    assert (chosen["patches.size_zyx"], chosen["student.depth_strides"]) == (patch, strides)
    assert {choice.key: choice.value for choice in made.vit}["student.block_zyx"] == block
    reason = next(choice.reason for choice in made.scratch if choice.key == "patches.size_zyx")
    assert ("padded" in reason) == (shape[1] < patch[1])


def test_what_is_planned_for_the_op_neurons_is_what_was_chosen_by_hand():
    op = [
        case(f"OP_{n}", spacing_um=(3.03, 1.0, 1.0), shape_zyx=(z, 512, 512))
        for n, z in zip("135", (60, 62, 76), strict=True)
    ]
    chosen = values(planned(*op))
    assert chosen["patches.size_zyx"] == [24, 64, 64]
    assert chosen["patches.batch_size"] == 4
    assert chosen["patches.foreground"] == 0.33
    assert chosen["student.depth_strides"] == [1, 1, 2, 2, 2]
    assert (chosen["data.radius"], chosen["data.radius_um"], chosen["optimizer.lr"]) == ("fixed", 4.0, 0.004)


@pytest.mark.parametrize("memory", [2.0**29, 2.0**33, 2.0**36])
@pytest.mark.parametrize("gpu", [False, True])
def test_a_step_fits_into_half_of_the_memory(memory, gpu):
    sizes = sizes_of((300, 2000, 2000), 2.0, Machine(memory=memory, gpu=gpu))
    assert sizes.step_voxels * VOXEL_BYTES <= MEMORY_SHARE * memory
    assert sizes.batch_size >= 2
    assert math.prod(sizes.size_zyx) >= 2**11


@pytest.mark.parametrize(("count", "folds", "training"), [(3, 3, 1), (4, 4, 2), (5, 5, 3), (30, 5, 18)], ids=str)
def test_every_case_tests_once_over_the_folds(count, folds, training):
    made = planned(*cases(count))
    assert (values(made)["data.folds"], values(made)["data.fold"]) == (folds, 0)
    (reason,) = [choice.reason for choice in made.scratch if choice.key == "trainer.steps"]
    assert reason.startswith(f"{training} training stack")


def test_of_two_cases_one_trains_the_other_validates_and_none_is_a_test():
    made = planned(case("b"), case("a[1]"))
    chosen = values(made)
    assert (chosen["data.train"], chosen["data.val"]) == (["a[[]1]"], ["b"])
    assert not {"data.folds", "data.test"} & set(chosen)
    assert "none is left to test" in " ".join(choice.reason for choice in made.scratch)


def test_one_case_is_refused_in_one_line_that_says_what_is_needed():
    with pytest.raises(
        InputError, match=r"a is all that can be trained on; left out: b .broken.; accepted: 2 or more"
    ) as no:
        planned(case("a"), left_out=(("b", "broken"),))
    assert len(no.value.lines) == 1


def test_stacks_that_the_layout_holds_out_test():
    chosen = values(planned(*cases(5), case("t", held_out=True), layout="nnunet", folds=5))
    assert chosen["data.fractions"] == [0.8, 0.2, 0.0]
    assert "data.folds" not in chosen


def test_folds_of_a_file_are_taken():
    assert values(planned(*cases(6), layout="nnunet", folds=3))["data.folds"] == 3


@pytest.mark.parametrize("dealt", [2, 0, 7])
def test_folds_of_a_file_that_cannot_cross_validate_give_way_to_shares(dealt):
    made = planned(*cases(6), layout="nnunet", folds=dealt)
    assert values(made)["data.fractions"] == [0.6, 0.2, 0.2]
    assert not {"data.folds", "data.fold"} & set(values(made))
    (reason,) = [choice.reason for choice in made.scratch if choice.key == "trainer.steps"]
    assert reason.startswith("4 training stack")


def test_copies_and_what_counts_in_other_units_are_left_out_and_named():
    odd = case("um", tree=tree(units="um"))
    copies = case("image", image_hash="image n00"), case("gold", gold_hash="gold n01")
    made = planned(*cases(4), *copies, odd, left_out=(("broken", "damaged"),), unlabelled=("bare",))
    assert values(made)["data.exclude"] == ["broken", "image", "gold", "um"]
    assert dict(made.left_out) == {
        "broken": "damaged",
        "image": "the same image as n00",
        "gold": "the same gold as n01",
        "um": "its tree counts in um, most others in voxel",
    }
    assert values(made)["data.folds"] == 4
    assert any("neither tree nor mask: bare" in note for note in made.notes)


def test_a_case_with_neurons_that_nobody_traced_is_left_out_where_others_have_none():
    dim = [case(f"dim{k}", tree=tree(covered=0.2)) for k in range(3)]
    clean = [case(f"n{k}", tree=tree(covered=0.9)) for k in range(3)]
    assert [name for name, _ in planned(*clean, case("many", tree=tree(covered=0.3))).left_out] == ["many"]
    made = planned(*dim)
    assert made.left_out == ()
    assert "80% of what is bright is not near its tree" in " ".join(made.notes)


@pytest.mark.parametrize(
    ("trees", "radius", "um"),
    [
        ([tree(own=0.5, four=0.5)] * 3, "file", None),
        ([tree(own=0.3, four=0.5)] * 3, "fixed", 2.0),
        ([tree(own=0.8, four=0.5), *[tree(own=0.3, four=0.4)] * 3], "fixed", 2.0),  # the means are level
        ([tree(own=0.1, four=0.5), *[tree(own=0.5, four=0.5)] * 3], "file", None),
        ([tree(own=0.6, four=0.3), tree(own=0.6, four=0.3), tree(unusable=0.2)], "fixed", 2.0),
        ([tree(own=0.01, four=0.02)] * 3, "file", None),
        ([tree(own=0.0, four=0.02, unusable=1.0)] * 3, "fixed", 1.0),
    ],
    ids=["good", "too thin", "wrong in most", "wrong in one", "one has none", "nothing bright", "neither"],
)
def test_trees_are_drawn_as_thick_as_what_is_bright(trees, radius, um):
    chosen = values(planned(*(case(f"n{k}", tree=each, spacing_um=(1, 0.5, 0.5)) for k, each in enumerate(trees))))
    assert (chosen["data.radius"], chosen.get("data.radius_um")) == (radius, um)


def test_masks_alone_need_no_rule_for_trees():
    chosen = values(planned(*cases(3, tree=None, mask_share=0.05)))
    assert not {"data.radius", "data.flip_y", "data.tree_units"} & set(chosen)
    assert chosen["patches.foreground"] == 0.67


def test_flipped_trees_are_mirrored_and_named():
    (choice,) = [c for c in planned(*cases(3), case("f", tree=tree(flip="flipped"))).scratch if c.key == "data.flip_y"]
    assert choice.value == "auto"
    assert " f:" in choice.reason


def test_mixed_spacing_goes_by_the_median_and_is_said():
    made = planned(*cases(2, spacing_um=(3.0, 1.0, 1.0)), case("x", spacing_um=(1.0, 1.0, 1.0), states_spacing=False))
    assert values(made)["student.depth_strides"] == [1, 1, 2, 2, 2]
    assert any("voxels of 2 sizes: 3x1x1 um (2), 1x1x1 um (1)" in note for note in made.notes)
    assert any("no file states the voxel size of x" in note for note in made.notes)


@pytest.mark.parametrize(("layout", "key", "value"), [("beside", "channel", 1), ("nnunet", "volume", "{stem}_0001")])
def test_of_several_channels_the_one_where_gold_stands_out_is_read(layout, key, value):
    assert values(planned(*cases(3), contrasts=(0.1, 5.0, 0.3), layout=layout))[f"data.{key}"] == value


def test_a_line_of_a_comment_is_at_most_120_columns_wide_whatever_cases_are_called():
    made = planned(*cases(4), left_out=tuple((f"{'long ' * 9}{k}", "no\nline " * 20) for k in range(5)))
    texts = texts_of(made, "axons", command="distill3d init \x1b[31m")
    assert len(texts) == len(TWINS)
    lines = "\n".join(texts).split("\n")
    assert max(len(line) for line in lines if line.lstrip().startswith("#")) <= 120
    assert "\x1b" not in "\n".join(texts)
