"""Pictures of trees: every piece in the right color at the right place, the worst spots found, said in words."""

import time

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from distill3d.errors import InputError
from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, RIGHT
from distill3d.evaluation.figures.tree import stretch_box, tree_figure
from distill3d.evaluation.metrics.tree import tree_scores
from distill3d.evaluation.metrics.tree_errors import Stretch
from distill3d.volumes.swc import read_swc
from distill3d.volumes.tree import Tree
from distill3d.volumes.volume import read_volume

SHAPE, SPACING = (20, 100, 100), (2.0, 1.0, 1.0)
DPI, LEFT, TOP, GAP = 110, 0.4, 1.2, 0.1  # inches, as the picture is laid out
INCH = 6.15 / 140  # per um: Y + Z fill the room for the projections


def make(points_zyx_vox, parents, spacing=SPACING) -> Tree:
    n = len(parents)
    points = np.array(points_zyx_vox, float).reshape(n, 3) * spacing
    return Tree(points, np.ones(n), np.array(parents, np.int64), np.full(n, 3))


EMPTY, DEFAULTS = make([], []), {"spacing_um": SPACING}


def trunk():
    return make([(10, 50, 10), (10, 50, 90)], [-1, 0])


def forked(*branches):
    """The trunk, cut at the branches' x, and branches (x, length) along y."""
    xs = [10, *(x for x, _ in branches), 90]
    points = [(10, 50, x) for x in xs] + [(10, 50 + length, x) for x, length in branches]
    return make(points, [*range(-1, len(xs) - 1), *range(1, len(branches) + 1)])


def stack(tree):
    """A bright line along every edge."""
    image = np.random.default_rng(0).integers(0, 20, SHAPE, np.uint8)
    points = tree.points_zyx_um / SPACING
    for child, parent in tree.edges:
        line = np.linspace(points[child], points[parent], 200).round().astype(int)
        image[tuple(line.T)] = 200
    return image


def draw(path, pred, gold, image=None, **how):
    image = stack(gold) if image is None else image
    return tree_figure(path / "new" / "tree.png", "case", image=image, pred=pred, gold=gold, **DEFAULTS | how)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), int)


def is_color(rgb, color):
    """Say where a color is drawn; a thin line between two rows of pixels is a little darker."""
    return np.abs(rgb - 255 * np.array(color)).max(axis=-1) <= 35


def count(path, color):
    """Pixels of a color below the legend."""
    return int(is_color(pixels(path)[round(TOP * DPI) :], color).sum())


def colored(path, point_zyx, color):
    """Say in which projections a pixel of that color is drawn within 2 pixels of a point."""
    z, y, x = ((np.array(point_zyx) + 0.5) * SPACING * INCH).tolist()
    right, below = LEFT + 100 * INCH + GAP, TOP + 100 * INCH + GAP
    rgb, names = pixels(path), []
    for name, across, down in (("xy", LEFT + x, TOP + y), ("zy", right + z, TOP + y), ("xz", LEFT + x, below + z)):
        column, row = round(across * DPI), round(down * DPI)
        if is_color(rgb[row - 2 : row + 3, column - 2 : column + 3], color).any():
            names.append(name)
    return names


@pytest.fixture
def words(monkeypatch):
    """All that is written on the figures, in order."""
    written, text = [], Figure.text

    def spy(self, x, y, s, *args, **kwargs):
        written.append(s)
        return text(self, x, y, s, *args, **kwargs)

    monkeypatch.setattr(Figure, "text", spy)
    return written


def test_what_is_found_missed_and_spurious_has_its_color_in_all_three_planes(tmp_path):
    gold, pred = forked((40, 30)), make([(10, 50, 10), (10, 50, 90), (16, 20, 90)], [-1, 0, 1])
    path = draw(tmp_path, pred, gold)
    everywhere = ["xy", "zy", "xz"]
    assert colored(path, (10, 50, 25), HIT) == everywhere
    assert colored(path, (10, 72, 40), LOST) == everywhere
    assert colored(path, (14, 30, 90), FALSE) == everywhere
    for point, others in (((10, 50, 25), (LOST, FALSE)), ((10, 72, 40), (FALSE,)), ((14, 30, 90), (LOST, HIT))):
        assert [colored(path, point, other) for other in others] == [[]] * len(others)


def test_the_image_lies_below_the_trees_in_all_three_planes(tmp_path):
    image = np.zeros(SHAPE, np.uint8)
    image[13:16, 19:24, 69:74] = 200
    path = draw(tmp_path, EMPTY, EMPTY, image=image)
    assert colored(path, (14, 21, 71), RIGHT) == ["xy", "zy", "xz"]
    assert colored(path, (4, 78, 40), RIGHT) == []


def test_colors_of_errors_appear_with_errors_only(tmp_path):
    whole, part = forked((40, 30)), trunk()
    perfect = draw(tmp_path / "a", whole, whole)
    assert count(perfect, HIT) > 200
    assert count(perfect, LOST) == count(perfect, FALSE) == 0
    missed = draw(tmp_path / "b", part, whole)
    assert count(missed, LOST) > 200
    assert count(missed, FALSE) == 0
    spurious = draw(tmp_path / "c", whole, part)
    assert count(spurious, FALSE) > 200
    assert count(spurious, LOST) == 0


def test_the_tolerance_is_in_voxels_and_includes_its_end(tmp_path):
    gold = trunk()
    higher = make([(14, 50, 10), (14, 50, 90)], [-1, 0])  # 4 slices, 8 um
    assert count(draw(tmp_path, higher, gold), FALSE) == 0
    assert count(draw(tmp_path, higher, gold, tolerance_vox=3.9), FALSE) > 200


def test_a_right_prediction_beside_gold_is_white_in_the_close_ups_only(tmp_path):
    gold = forked((50, 30))
    beside = make([(10, 53, 10), (10, 53, 90)], [-1, 0])
    path = draw(tmp_path, beside, gold, image=np.zeros(SHAPE, np.uint8))
    assert colored(path, (10, 53, 70), RIGHT) == []
    first, last = stretch_box(line((10, 57.5, 50), (10, 79.5, 50)), SHAPE, 4)
    _, height, width = last - first + 1
    inch = 2.75 / height  # per voxel
    rgb = pixels(path)
    for panel, drawn in ((0, False), (1, True)):
        column = round((7.5 + panel * (width * inch + GAP) + (35.5 - first[2]) * inch) * DPI)
        for y, color in ((53, RIGHT), (50, HIT)):
            row = round((TOP + (y + 0.5 - first[1]) * inch) * DPI)
            assert is_color(rgb[row - 2 : row + 3, column], color).any() == drawn


def test_the_worst_spots_are_the_longest_stretches_and_their_length_is_said(tmp_path, words):
    gold, pred = forked((30, 20), (70, 9)), forked((50, 12), (80, 40))
    draw(tmp_path, pred, gold)
    # The first 4 voxels of a branch lie within the tolerance of the trunk.
    assert "1  longest of 2 missed stretches: 16 of 21 voxels; slices 6 to 14" in words
    assert "2  longest of 2 spurious stretches: 36 of 44 voxels; slices 6 to 14" in words


def test_scores_stand_below_the_title(tmp_path, words):
    gold, pred = forked((30, 20)), trunk()
    draw(tmp_path, pred, gold)
    scores = tree_scores(pred=pred, gold=gold, spacing_um=SPACING)
    assert scores.recall == pytest.approx(0.84)
    assert "case" in words
    assert (
        f"length F1 {scores.f1:.3f}, precision 1.000, recall 0.840 within 4 voxels; gold 100, predicted 80 voxels long"
        in words
    )
    assert "1  only missed stretch: 16 of 16 voxels; slices 6 to 14" in words
    assert "2  nothing spurious: all of the prediction is within 4 voxels of gold" in words


@pytest.mark.parametrize(
    ("pred", "gold", "fragment"),
    [
        (
            EMPTY,
            trunk(),
            ["The prediction: no node, nothing to draw.", "2  nothing spurious: the prediction has no node"],
        ),
        (trunk(), EMPTY, ["Gold: no node, nothing to draw.", "1  nothing missed: gold has no node"]),
        (EMPTY, EMPTY, ["Gold and the prediction: no node, nothing to draw.", "1  nothing missed: gold has no node"]),
    ],
    ids=["no_prediction", "no_gold", "nothing"],
)
def test_empty_trees_leave_the_image_and_a_sentence(tmp_path, words, pred, gold, fragment):
    path = draw(tmp_path, pred, gold, image=stack(trunk()))
    assert set(fragment) <= set(words)
    assert (count(path, LOST) > 200) == bool(gold.n_nodes)
    assert (count(path, FALSE) > 200) == bool(pred.n_nodes)
    assert count(path, HIT) == 0
    xy = pixels(path)[140:500, 60:400]
    assert xy.std() > 5  # the image is seen


def line(start, end, length=1.0):
    points = np.linspace(start, end, 50)
    return Stretch(length, points[25], points)


def test_a_close_up_holds_the_stretch_in_a_square_with_a_margin():
    first, last = stretch_box(line((20, 200, 210), (24, 260, 230)), (60, 512, 512), 4)
    assert first[0] == 16
    assert last[0] == 28
    assert (last - first)[1] == (last - first)[2] == 84  # 60 and 12 on both sides
    assert (first[1:] <= [188, 178]).all()
    assert (last[1:] >= [272, 242]).all()


def test_a_short_stretch_is_seen_with_its_surroundings():
    first, last = stretch_box(line((20, 200, 210), (20, 201, 211)), (60, 512, 512), 4)
    assert (last - first)[1:].tolist() == [56, 56]


def test_of_a_very_long_stretch_the_middle_is_shown_with_its_slices_only():
    first, last = stretch_box(line((0, 256, 0), (50, 256, 500)), (60, 512, 512), 4)
    assert (last - first)[1:].tolist() == [160, 160]
    assert first[2] < 255 < last[2]
    assert 12 <= first[0] <= 14  # the middle 160 of 500 voxels rise from slice 17.3 to 33.5, less the tolerance
    assert 37 <= last[0] <= 38


@pytest.mark.parametrize(
    ("start", "end"),
    [((0, 0, 0), (0, 5, 5)), ((59, 511, 511), (59, 505, 505)), ((90, 700, -300), (95, 700, -280)), ((-9, 5, 5),) * 2],
    ids=["first", "last", "outside", "above"],
)
def test_at_borders_and_outside_the_box_moves_into_the_image(start, end):
    first, last = stretch_box(line(start, end), (60, 512, 512), 4)
    assert (first >= 0).all()
    assert (last <= [59, 511, 511]).all()
    assert (first <= last).all()
    assert (last - first)[1:].tolist() == [56, 56]


def test_an_image_smaller_than_the_box_is_shown_whole():
    first, last = stretch_box(line((2, 10, 10), (3, 20, 20)), (5, 30, 40), 4)
    assert first.tolist() == [0, 0, 0]
    assert last.tolist() == [4, 29, 39]


def test_a_stretch_outside_the_image_is_said_to_be_there(tmp_path, words):
    draw(tmp_path, make([(10, 300, 300), (10, 330, 300)], [-1, 0]), trunk())
    assert "2  only spurious stretch: 30 of 30 voxels, outside the image; slices 6 to 14" in words
    draw(tmp_path, make([(10, 80, 80), (10, 150, 80)], [-1, 0]), trunk())
    assert any("70 of 70 voxels, shown in part" in text for text in words)


@pytest.mark.parametrize("shape", [(1, 64, 200), (100, 40, 40), (4, 8, 300), (1, 1, 1)])
@pytest.mark.parametrize("value", [0, 7])
def test_flat_deep_narrow_and_blank_stacks_are_drawn(tmp_path, shape, value):
    ends = np.array([np.zeros(3), np.array(shape) - 1])
    gold, pred = make(ends, [-1, 0]), make([ends[0], ends[0] + [0, 0, 50]], [-1, 0])
    path = draw(tmp_path, pred, gold, image=np.full(shape, value, np.uint16))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_trees_of_single_nodes_are_dots(tmp_path):
    path = draw(tmp_path, make([(10, 20, 20)], [-1]), make([(10, 70, 70)], [-1]), image=np.zeros(SHAPE))
    assert 3 < count(path, LOST) < 200
    assert 3 < count(path, FALSE) < 200


def test_a_coordinate_that_is_none_is_refused_as_by_the_scores(tmp_path):
    with pytest.raises(InputError, match="pred: a coordinate of nan"):
        draw(tmp_path, make([(np.nan, 0, 0), (0, 0, 1)], [-1, 0]), trunk())
    assert not (tmp_path / "new").exists()


def test_the_noisiest_stack_gives_a_small_file_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.random((100, 512, 512), np.float32)
    walk = np.cumsum(rng.normal(size=(1500, 3)), axis=0) * [1, 3, 3] + [50, 256, 256]
    gold, pred = make(walk, np.arange(1500) - 1), make(walk + rng.normal(size=(1500, 3)) * 3, np.arange(1500) - 1)
    start = time.process_time()
    path = draw(tmp_path, pred, gold, image=image, spacing_um=(3.0, 1.0, 1.0))
    assert time.process_time() - start < 3
    assert path.stat().st_size < 400_000
    with Image.open(path) as picture:
        assert 1200 < picture.width < 2000
        assert 700 < picture.height < 1200


@pytest.mark.parametrize("name", ["OP_1", "OP_5"])
def test_a_branch_cut_from_real_gold_is_the_worst_miss(tmp_path, data_dir, words, name):
    spacing = (3.03, 1.0, 1.0)
    volume = read_volume(data_dir / "pairs" / f"{name}.tif", spacing_um=spacing)
    gold = read_swc(data_dir / "pairs" / f"{name}.swc", spacing_um=spacing)
    far = gold.points_zyx_um[:, 2] > np.percentile(gold.points_zyx_um[:, 2], 75)
    kept = np.flatnonzero(~far & ((gold.parents < 0) | ~far[gold.parents]))
    index = np.full(gold.n_nodes + 1, -1)
    index[kept] = np.arange(len(kept))
    pred = Tree(gold.points_zyx_um[kept], gold.radii_um[kept], index[gold.parents[kept]], gold.types[kept])
    path = draw(tmp_path, pred, gold, image=volume.data, spacing_um=spacing)
    assert 20_000 < path.stat().st_size < 400_000
    assert count(path, LOST) > 200
    assert count(path, FALSE) == 0
    assert "2  nothing spurious: all of the prediction is within 4 voxels of gold" in words
