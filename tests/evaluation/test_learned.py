"""Pictures of learned filters and tubes: what they show is chosen and counted as they say."""

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from distill3d.evaluation.figures.filters import choose_filters, filters_figure, relative_change
from distill3d.evaluation.figures.tubes import best_view, choose_blocks, main_axis, tubes_figure

SHAPE = (12, 40, 40)


def neurite():
    """A line of gold along x."""
    mask = np.zeros(SHAPE, bool)
    mask[6, 20] = True
    return mask


def centers():
    grids = np.meshgrid([2, 6, 10], np.arange(4, 40, 8), np.arange(4, 40, 8), indexing="ij")
    return np.stack(grids, axis=-1).reshape(-1, 3).astype(float)


def straight_tubes(n_taps=16):
    """[3, N, K, 3] along z, y and x through `centers`."""
    steps = (np.arange(n_taps) - n_taps // 2)[:, None]
    return np.stack([centers()[:, None] + steps * np.eye(3)[axis] for axis in range(3)])


def test_unchanged_filters_have_changed_by_nothing_and_new_ones_without_limit():
    filters = np.random.default_rng(0).normal(size=(5, 2, 7))
    assert relative_change(filters, filters).tolist() == [0] * 5
    filters[2] = 0
    assert relative_change(filters, filters).tolist() == [0] * 5
    np.testing.assert_allclose(relative_change(filters, filters * 1.5)[[0, 1, 3, 4]], 0.5)
    assert relative_change(filters, filters + 1)[2] == np.inf


def test_shown_filters_reach_from_the_largest_to_the_smallest_without_repeats():
    sizes = np.random.default_rng(0).permutation(100) + 1.0
    shown = choose_filters(sizes[:, None], sizes[:, None])
    assert len(shown) == len(set(shown)) == 32
    assert sizes[shown[0]] == 100
    assert sizes[shown[-1]] == 1
    gaps = -np.diff(sizes[shown])
    assert gaps.min() >= 3
    assert gaps.max() <= 4
    assert sorted(choose_filters(sizes[:3, None], sizes[:3, None])) == [0, 1, 2]


def test_a_small_filter_that_changed_much_ranks_high():
    before = np.array([[1.0], [0.1], [0.5]])
    after = np.array([[1.0], [3.0], [0.5]])
    assert choose_filters(before, after).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    "shape",
    [(40, 1, 4, 8, 8), (5, 1, 1, 8, 6), (1, 1, 3, 3, 3), (3, 40, 16), (1, 5, 9), (2, 2, 64)],
    ids=["block", "flat", "one", "tubes", "one_axis", "two_axes"],
)
def test_a_picture_is_written_for_kernels_and_for_tubes(tmp_path, shape):
    before = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16).requires_grad_()
    path = filters_figure(tmp_path / "new" / "filters.png", "filters", before=before, after=before * 1.1)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_filters_that_are_zero_or_unchanged_are_drawn(tmp_path, value):
    same = torch.full((3, 1, 2, 4, 4), value)
    assert filters_figure(tmp_path / "same.png", "same", before=same, after=same).is_file()
    assert filters_figure(tmp_path / "new.png", "new", before=same, after=same + 1).is_file()


@pytest.mark.parametrize(
    ("before", "after"), [((4, 3, 8, 8), (4, 3, 8, 8)), ((4, 2, 1, 8, 8),) * 2, ((3, 4, 8), (3, 4, 9))]
)
def test_other_shapes_are_refused_with_what_is_accepted(tmp_path, before, after):
    with pytest.raises(ValueError, match=r"accepted: twice \[E, 1, D, Y, X\] or twice \[A, E, K\]"):
        filters_figure(tmp_path / "x.png", "x", before=torch.zeros(before), after=torch.zeros(after))


def test_chosen_blocks_lie_on_the_neurite_and_far_apart():
    places = centers()
    chosen = choose_blocks(places, mask=neurite(), image=np.zeros(SHAPE), count=3)
    np.testing.assert_array_equal(places[chosen, :2], [[6, 20]] * 3)
    assert sorted(places[chosen, 2]) == [4, 20, 36]  # of 4, 12, 20, 28, 36
    np.testing.assert_array_equal(choose_blocks(places, mask=neurite(), image=np.ones(SHAPE), count=3), chosen)


def test_with_too_few_blocks_on_the_neurite_the_nearest_others_follow():
    places = centers()
    chosen = choose_blocks(places, mask=neurite(), image=np.zeros(SHAPE), count=9)
    assert len(set(chosen)) == 9
    away = np.abs(places[chosen] - [6, 20, 0])[:, :2].sum(axis=1)
    assert sorted(away) == [0] * 5 + [4] * 4  # 5 on it, then those 4 voxels above and below


def test_without_gold_the_brightest_blocks_inside_the_image_are_chosen():
    places = np.concatenate([[[6.0, 44.0, 20.0]], centers()])
    image = np.random.default_rng(0).random(SHAPE)
    chosen = choose_blocks(places, mask=np.zeros(SHAPE, bool), image=image, count=4)
    values = image[tuple(places[1:].astype(int).T)]
    assert sorted(chosen - 1) == sorted(np.argsort(values)[-4:])


@pytest.mark.parametrize("along", [0, 1, 2])
def test_the_drawn_tube_is_that_of_the_axis_along_which_the_neurite_runs(along):
    line = np.zeros((30, 3))
    line[:, along] = np.arange(30)
    line[:, along - 1] = np.arange(30) // 2  # slanted by half a voxel per voxel
    far = line + np.array([0, 0, 200])
    gold = KDTree(np.concatenate([line, far[:, [1, 2, 0]]]))
    beside = line[15] + np.eye(3)[along - 2]
    assert main_axis(beside, gold, "zyx") == along
    assert main_axis(beside, gold, "xyz") == 2 - along
    others = [axis for a, axis in enumerate("zyx") if a != along]
    assert others[main_axis(beside, gold, others)] == "zyx"[along - 1]  # the next best: where it is slanted to


def test_a_tube_is_seen_from_where_most_of_its_bending_is_seen():
    straight = np.zeros((9, 3))
    straight[:, 2] = np.arange(9)
    assert best_view(straight + np.linspace(0, 3, 9)[:, None] * [0, 1, 0], straight, 2) == 0
    assert best_view(straight + np.linspace(0, 3, 9)[:, None] * [1, 0.5, 0], straight, 2) == 1
    assert best_view(straight, straight, 2) == 0
    assert best_view(straight[:, ::-1], straight[:, ::-1], 0) == 1


@pytest.mark.parametrize("axes", ["zyx", "x", "yx"])
@pytest.mark.parametrize("gold", [True, False])
def test_a_picture_of_tubes_is_written_with_and_without_gold(tmp_path, axes, gold):
    straight = straight_tubes()[["zyx".index(axis) for axis in axes]]
    path = tubes_figure(
        tmp_path / "new" / "tubes.png",
        "tubes",
        image=np.random.default_rng(0).random(SHAPE, np.float32),
        mask=neurite() & gold,
        taps=(straight + np.sin(straight[..., ::-1]), straight),
        axes=tuple(axes),
        spacing_um=(3.0, 1.0, 1.0),
        count=3,
    )
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def figure(monkeypatch):
    """What `tubes_figure` draws, as matplotlib has it."""
    drawn = []
    monkeypatch.setattr("distill3d.evaluation.figures.tubes.save", lambda figure, path: drawn.append(figure) or path)
    return drawn


def test_each_close_up_shows_the_tube_along_the_neurite_bent_and_straight_with_its_shares(tmp_path, figure):
    straight = straight_tubes()
    bent = straight.copy()
    bent[2, :, :8, 1] += 5  # half of every tube along x leaves the neurite along y
    tubes_figure(
        tmp_path / "tubes.png",
        "tubes",
        image=np.zeros(SHAPE, np.float32),
        mask=neurite(),
        taps=(bent, straight),
        axes=("z", "y", "x"),
        spacing_um=(1.0, 1.0, 1.0),
        count=1,
    )
    (ax,) = [ax for ax in figure[0].axes if " tube, " in ax.get_title()]
    assert ax.get_title().splitlines()[0] == "1: x tube, seen along z"
    solid, dashed = ax.lines[:2]
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    xs, ys = solid.get_xydata()[8:].T  # from the center outwards
    assert set(ys) == {20.0}
    assert np.diff(xs).tolist() == [1.0] * 7
    assert np.nanmax(np.abs(dashed.get_ydata() - 20)) == 0
    inside = np.isfinite(solid.get_xdata()).sum()
    share = round(100 * 8 / inside)
    assert ax.get_title().splitlines()[1] == f"{share} % of taps on neurites, 100 % if straight"
    assert figure[0].get_suptitle() == f"tubes\nthe drawn tubes: {share} % of taps on neurites, 100 % if straight"


@pytest.mark.parametrize("shift", [(1.5, 3.5, 3.5), (-2.5, -4.5, -4.5), (100, 0, 0)], ids=["last", "first", "outside"])
def test_tubes_at_the_border_and_outside_do_not_stop_the_picture(tmp_path, shift):
    taps = (straight_tubes() + shift)[:, -1:] if shift[0] > 0 else (straight_tubes() + shift)[:, :1]
    path = tubes_figure(
        tmp_path / "tubes.png",
        "tubes",
        image=np.zeros(SHAPE, np.float32),
        mask=neurite(),
        taps=(taps, taps),
        axes=("z", "y", "x"),
        spacing_um=(1.0, 1.0, 1.0),
    )
    assert path.read_bytes().startswith(b"\x89PNG")
