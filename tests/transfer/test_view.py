"""What the teacher sees is where the student looks: exact places for every axis, offset, flip, turn and resizing."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_teachers import PooledTeacher

from distill3d.config.schema import AugmentConfig, PatchConfig
from distill3d.data.patches import collate, cut
from distill3d.errors import ConfigError
from distill3d.layers.grids import Cells, resample
from distill3d.teachers.cache import Stack
from distill3d.teachers.timm2d import Timm2d, Timm2dConfig
from distill3d.transfer.requests import TeacherRequest, ViewConfig
from distill3d.transfer.view import TeacherView, drawn_slices, map_cells
from distill3d.types import AXES, UNTURNED, Batch, Prediction, Turn

QUIET = AugmentConfig(scale_intensity=0, shift_intensity=0, gamma=0, noise=0, blur=0)
SHAPE = (12, 20, 24)
TURNS = [
    Turn(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def ramp(axis, shape=SHAPE):
    """Volume whose voxels hold their own coordinate along an axis."""
    index = np.arange(shape[axis], dtype=np.float32)
    return np.broadcast_to(index.reshape([-1 if a == axis else 1 for a in range(3)]), shape).copy()


def stack_of(image, name="a", spacing_um=(1.0, 1.0, 1.0)):
    return Stack(name=name, image=lambda: image, sha256=str(hash(image.tobytes())), spacing_um=spacing_um)


def patch_batch(image, origin, size, turn=UNTURNED, name="a", spacing_um=(1.0, 1.0, 1.0)):
    """A patch cut out of a volume and turned as augmentation would."""
    low = [slice(o, o + n) for o, n in zip(origin, size, strict=True)]
    patch = turn.apply(torch.from_numpy(image[tuple(low)]))[None, None].contiguous()
    return Batch(
        image=patch,
        target=torch.zeros_like(patch),
        known=torch.ones_like(patch, dtype=torch.bool),
        spacing_um=torch.tensor([spacing_um]),
        origin_zyx_vox=torch.tensor([list(origin)]),
        cases=(name,),
        turns=(turn,),
    )


def serve(teacher, request, batch, grid, *, image=None, stride=(1, 1, 1), cache=None, step=0):
    stacks = {} if image is None else {"a": stack_of(image, spacing_um=tuple(batch.spacing_um[0].tolist()))}
    view = TeacherView(
        teacher,
        [request],
        stacks=stacks,
        cache=cache or Path("unused"),
        patches=PatchConfig(augment=QUIET, size_zyx=(4, 6, 8)),
    )
    if cache is not None:
        view.fill()
    student = Prediction(logits=batch.image, features={request.grid_of: torch.zeros(1, 1, *grid)})
    return view([request], student=student, batch=batch, stride_zyx=stride, step=step)


def wanted(batch, grid, stride=(1, 1, 1)):
    """Independent route: means of the patch itself over the student's cells."""
    size = batch.image.shape[2:]
    return resample(batch.image[0], source=[Cells.regular(n, 1.0) for n in size], target=map_cells(grid, size, stride))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("coordinate", range(3))
@pytest.mark.parametrize("source", ["patch", "volume"])
def test_a_map_of_coordinates_lies_on_the_students_cells(axis, coordinate, source):
    image = ramp(coordinate)
    view = ViewConfig(axes=(axis,), source=source, cache=False)
    request = TeacherRequest(layer="pool", axis=axis, grid_of="l", view=view)
    batch = patch_batch(image, (3, 5, 7), (4, 6, 8))
    view = serve(PooledTeacher(1), request, batch, (2, 3, 4), image=image, stride=(2, 2, 2))
    torch.testing.assert_close(view.features[request.key][0], wanted(batch, (2, 3, 4), (2, 2, 2)))


@pytest.mark.parametrize("axis", AXES)
@settings(max_examples=40, deadline=None)
@given(
    origin=st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 14)),
    turn=st.sampled_from(TURNS),
    seed=st.integers(0, 99),
)
def test_maps_of_the_whole_stack_follow_every_crop_flip_and_turn(axis, origin, turn, seed):
    # A teacher of stride 1 has no border, so what it says of the stack is what it says of the turned patch.
    image = np.random.default_rng(seed).random(SHAPE, dtype=np.float32)
    view = ViewConfig(axes=(axis,), source="volume", cache=False)
    request = TeacherRequest(layer="pool", axis=axis, grid_of="l", view=view)
    batch = patch_batch(image, origin, (4, 6, 8), turn)
    grid = tuple(n // 2 for n in batch.image.shape[2:])
    view = serve(PooledTeacher(1), request, batch, grid, image=image, stride=(2, 2, 2))
    torch.testing.assert_close(view.features[request.key][0], wanted(batch, grid, (2, 2, 2)))


@pytest.mark.parametrize("axis", AXES)
@settings(max_examples=20, deadline=None)
@given(turn=st.sampled_from(TURNS), shift=st.tuples(*[st.integers(0, 2)] * 3))
def test_a_ramp_seen_by_a_strided_teacher_keeps_its_places(axis, turn, shift):
    # Means over squares of 4 pixels, interpolated: exact on a ramp, away from the stack's border.
    shape, teacher = (24, 32, 32), PooledTeacher(4)
    for coordinate in range(3):
        image = ramp(coordinate, shape)
        view = ViewConfig(axes=(axis,), source="volume", cache=False)
        request = TeacherRequest(layer="pool", axis=axis, grid_of="", view=view)
        batch = patch_batch(image, [8 + s for s in shift], (5, 7, 9), turn)
        view = serve(teacher, request, batch, (), image=image)
        torch.testing.assert_close(view.features[request.key], batch.image, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("turn", TURNS)
def test_cached_and_live_maps_are_the_same_but_for_half_precision(turn, tmp_path_factory):
    # The real network, at an odd offset, for every flip and quarter turn.
    root = tmp_path_factory.getbasetemp() / "maps"  # one cache for all turns
    image = np.random.default_rng(0).random((9, 50, 46), dtype=np.float32)
    teacher = lite0()
    batch = patch_batch(image, (1, 13, 7), (6, 16, 16), turn)
    grid = tuple(max(1, n // 4) for n in batch.image.shape[2:])
    maps = {}
    for cached in (False, True):
        view = ViewConfig(axes=("z",), source="volume", cache=cached)
        request = TeacherRequest(layer="blocks.1", axis="z", grid_of="l", view=view)
        given_cache = root if cached else None
        maps[cached] = serve(teacher, request, batch, grid, image=image, cache=given_cache).features[request.key]
    assert maps[False].std() > 0.1
    torch.testing.assert_close(maps[True], maps[False], atol=5e-3, rtol=2e-3)


_LITE0 = []


def lite0():
    if not _LITE0:
        _LITE0.append(Timm2d(Timm2dConfig()))
    return _LITE0[0]


@pytest.mark.parametrize("axis", AXES)
def test_a_few_slices_are_those_slices_of_all(axis):
    image = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    batch = patch_batch(image, (0, 0, 0), SHAPE)
    maps = {}
    for slices in (None, 3):
        view = ViewConfig(axes=(axis,), slices=slices, seed=5)
        request = TeacherRequest(layer="pool", axis=axis, grid_of="", view=view)
        maps[slices] = serve(PooledTeacher(2), request, batch, (), step=4), request.key
    along = 2 + AXES.index(axis)
    (few, key), (whole, _) = maps[3], maps[None]
    assert few.slices_vox[key].tolist() == drawn_slices(ViewConfig(slices=3, seed=5), SHAPE[along - 2], 4)
    torch.testing.assert_close(
        few.features[key], whole.features[maps[None][1]].index_select(along, few.slices_vox[key])
    )
    assert not whole.slices_vox


def test_each_step_draws_other_slices_and_a_repeated_one_the_same():
    view = ViewConfig(slices=3)
    draws = [tuple(drawn_slices(view, 30, step)) for step in range(20)]
    assert len(set(draws)) > 15
    assert draws == [tuple(drawn_slices(view, 30, step)) for step in range(20)]
    assert all(len(set(draw)) == 3 and list(draw) == sorted(draw) for draw in draws)


@pytest.mark.parametrize(("scale", "square"), [(2.0, False), (0.5, False), (1.0, True), (1.5, True)])
def test_resized_slices_keep_their_places(scale, square):
    # Slices across y show z and x; voxels are three times as tall as wide.
    shape = (16, 8, 48)
    for coordinate in (0, 2):
        image = ramp(coordinate, shape)
        view = ViewConfig(axes=("y",), scale=scale, square=square)
        request = TeacherRequest(layer="pool", axis="y", grid_of="", view=view)
        batch = patch_batch(image, (0, 0, 0), shape, spacing_um=(3.0, 1.0, 1.0))
        view = serve(PooledTeacher(2), request, batch, ()).features[request.key]
        inner = (..., slice(3, -3), slice(None), slice(6, -6))  # at the border there is nothing to interpolate
        # a mean over cells that end inside a voxel is off by a twelfth of their pitch
        torch.testing.assert_close(view[inner], batch.image[inner], atol=0.1, rtol=0)


def test_sides_that_the_teacher_cannot_divide_are_padded_and_keep_their_places():
    shape = (3, 21, 37)
    image = ramp(2, shape)
    request = TeacherRequest(layer="pool", axis="z", grid_of="", view=ViewConfig())
    batch = patch_batch(image, (0, 0, 0), shape)
    view = serve(PooledTeacher(8), request, batch, ()).features[request.key]
    torch.testing.assert_close(view[..., 4:27], batch.image[..., 4:27], atol=1e-4, rtol=1e-4)


def test_several_axes_vote_by_their_mean_logit():
    image = np.random.default_rng(2).random(SHAPE, dtype=np.float32)
    batch = patch_batch(image, (0, 0, 0), SHAPE)
    teacher = PooledTeacher(2, segments=True)
    view = ViewConfig(axes=("z", "x"))
    requests = [TeacherRequest(layer="logits", axis=axis, grid_of="", view=view) for axis in view.axes]
    served = TeacherView(teacher, requests, stacks={}, cache=Path("unused"), patches=PatchConfig(augment=QUIET))(
        requests, student=Prediction(logits=batch.image), batch=batch, stride_zyx=(1, 1, 1), step=0
    )
    z, x = (served.features[request.key] for request in requests)
    assert not torch.allclose(z, x)
    torch.testing.assert_close(served.logits, (z + x) / 2)


def test_one_forward_serves_all_layers_that_look_alike():
    teacher = lite0()
    view = ViewConfig(axes=("z",))
    requests = [TeacherRequest(layer=layer, axis="z", grid_of="", view=view) for layer in ("blocks.0", "blocks.2")]
    image = np.random.default_rng(3).random((5, 32, 32), dtype=np.float32)
    batch = patch_batch(image, (0, 0, 0), (5, 32, 32))
    served = TeacherView(teacher, requests, stacks={}, cache=Path("unused"), patches=PatchConfig())
    before = teacher.images_seen
    served(requests, student=Prediction(logits=batch.image), batch=batch, stride_zyx=(1, 1, 1), step=0)
    assert teacher.images_seen - before == 5


def test_a_patch_beyond_the_stack_sees_the_nearest_of_it(tmp_path):
    raw = np.random.default_rng(4).random((4, 6, 6), dtype=np.float32)
    prepared = SimpleNamespace(
        name="a",
        shape=raw.shape,
        spacing_um=(1.0, 1.0, 1.0),
        low=0.0,
        high=1.0,
        raw=raw,
        mask=np.zeros(raw.shape, bool),
        known=np.ones(raw.shape, bool),
        skeletons={},
    )
    batch = collate([cut(prepared, (-1, -1, -1), (6, 8, 8))])
    request = TeacherRequest(layer="pool", axis="z", grid_of="", view=ViewConfig(source="volume", cache=False))
    view = serve(PooledTeacher(1), request, batch, (), image=raw).features[request.key]
    padded = np.pad(raw, 1, mode="edge")
    torch.testing.assert_close(view[0, 0], torch.from_numpy(padded))


@pytest.mark.parametrize(
    ("view", "augment", "text"),
    [
        (ViewConfig(source="volume"), AugmentConfig(), "view.augment_after=true"),
        (ViewConfig(source="volume", augment_after=True), AugmentConfig(rotate=0.2), "free rotations"),
        (ViewConfig(source="volume", slices=2, axes=("y",)), QUIET, "quarter turns may move the axis y"),
    ],
)
def test_what_the_view_cannot_follow_is_refused_with_the_way_out(view, augment, text):
    request = TeacherRequest(layer="pool", axis=view.axes[0], grid_of="", view=view)
    with pytest.raises(ConfigError, match=text) as caught:
        TeacherView(PooledTeacher(), [request], stacks={}, cache=Path("unused"), patches=PatchConfig(augment=augment))
    assert "\n" not in str(caught.value)


def test_only_intensity_augmentations_that_are_on_are_named():
    request = TeacherRequest(layer="pool", axis="z", grid_of="", view=ViewConfig(source="volume"))
    augment = AugmentConfig(scale_intensity=0, shift_intensity=0, gamma=0.3, noise=0, blur=0)
    with pytest.raises(ConfigError, match="does not see gamma; accepted"):
        TeacherView(PooledTeacher(), [request], stacks={}, cache=Path("unused"), patches=PatchConfig(augment=augment))
    TeacherView(PooledTeacher(), [request], stacks={}, cache=Path("unused"), patches=PatchConfig(augment=QUIET))


def test_a_layer_the_teacher_does_not_have_is_refused_with_those_it_has():
    request = TeacherRequest(layer="blocks.22", axis="z", grid_of="", view=ViewConfig())
    with pytest.raises(ConfigError, match=r"no layer 'blocks.22'; did you mean 'blocks.2'\?; accepted: .*blocks.0-6"):
        TeacherView(lite0(), [request], stacks={}, cache=Path("unused"), patches=PatchConfig())
