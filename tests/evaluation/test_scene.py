"""Trees to turn: the lines, colors and marks are the trees', and a page stays small and says only what it is given."""

import base64
import json
import re

import numpy as np
import pytest
from made_trees import EMPTY, make, straight
from scipy.spatial import KDTree

from distill3d.evaluation.figures.canvas import FALSE, HIT, LOST, RIGHT
from distill3d.evaluation.figures.scene import LINE_BYTES, MARK_BYTES, scene
from distill3d.evaluation.figures.tree_page import MOST_WALL, tree_page, wall
from distill3d.evaluation.metrics.tree_errors import pieces_within, tree_pieces

SPACING, SHAPE = (2.0, 0.5, 0.5), (10, 100, 200)
GREEN, ORANGE, BLUE, WHITE = (
    "#{:02x}{:02x}{:02x}".format(*(round(255 * c) for c in color)) for color in (HIT, FALSE, LOST, RIGHT)
)


def points(made, code):
    """Places in um, XYZ."""
    return np.frombuffer(base64.b64decode(code), "<u2").reshape(-1, 3) * made["step"] + made["origin"]


def by_color(made):
    return {part["color"]: part for part in made["parts"]}


def lines(made, part):
    return points(made, part["lines"]).reshape(-1, 2, 3)


def made_of(pred, gold, **more):
    return scene(pred=pred, gold=gold, **{"shape_zyx": SHAPE, "spacing_um": SPACING} | more)


def forked():
    """A trunk of 40 um along x with a branch of 20 um along y."""
    return make([(10, 10, 4), (30, 10, 4), (50, 10, 4), (30, 30, 4)], [-1, 0, 1, 1])


def trunk():
    return make([(10, 10, 4), (50, 10, 4)], [-1, 0])


def test_an_edge_is_one_line_and_one_more_where_it_begins_to_err():
    made = made_of(trunk(), forked(), tolerance_vox=4)
    parts = by_color(made)
    assert list(parts) == [WHITE, GREEN, ORANGE, BLUE]
    assert [len(lines(made, part)) for part in parts.values()] == [1, 3, 0, 1]
    half_piece = 0.5  # um; pieces are a voxel long at most, and their middle counts
    assert parts[GREEN]["um"] == pytest.approx(40 + 4 * 0.5, abs=half_piece)
    assert parts[BLUE]["um"] == pytest.approx(20 - 4 * 0.5, abs=half_piece)
    (missed,) = lines(made, parts[BLUE])
    assert np.allclose(missed, [[30, 30, 4], [30, 12, 4]], atol=half_piece)


def test_lines_and_lengths_are_those_of_the_pieces_that_the_scores_count():
    gold, pred = random_tree(0), random_tree(1)
    made = made_of(pred, gold)
    for side, tree, other in (("gold", gold, pred), ("pred", pred, gold)):
        pieces = tree_pieces(tree, SPACING)
        right = pieces_within(pieces, of=tree_pieces(other, SPACING), tolerance_vox=4.0)
        um = 2 * np.linalg.norm(pieces.halves_zyx_vox * SPACING, axis=1)
        parts = [part for part in made["parts"] if part["side"] == side]
        assert [part["um"] for part in parts] == pytest.approx([um[right].sum(), um[~right].sum()], abs=0.1)
        drawn = [np.linalg.norm(np.diff(lines(made, part), axis=1), axis=-1).sum() for part in parts]
        assert drawn == pytest.approx([part["um"] for part in parts], rel=1e-3)
        inner = pieces.joints[1:, 0] >= tree.n_nodes
        count = len(tree.edges) + int((inner & (right[1:] != right[:-1])).sum())
        assert sum(len(lines(made, part)) for part in parts) == count


def test_every_tip_and_branch_point_is_a_mark_in_the_color_of_its_place():
    made = made_of(trunk(), forked())
    parts = by_color(made)
    assert points(made, parts[BLUE]["tips"]).round(1).tolist() == [[30, 30, 4]]
    assert points(made, parts[GREEN]["tips"]).round(1).tolist() == [[50, 10, 4]]
    assert points(made, parts[GREEN]["branches"]).round(1).tolist() == [[30, 10, 4]]
    assert parts[BLUE]["branches"] == parts[ORANGE]["tips"] == ""


def test_the_box_is_the_image_and_lines_keep_their_place_to_a_hundredth_of_a_voxel():
    made = made_of(straight(60.0, 3.0), straight(60.0, 3.0))
    assert made["box"] == [[-0.25, -0.25, -1.0], [99.75, 49.75, 19.0]]
    assert np.allclose(lines(made, by_color(made)[GREEN]), [[[60, 3, 0], [0, 3, 0]]], atol=0.005)


@pytest.mark.parametrize(
    ("pred", "gold", "expected"),
    [
        (None, trunk(), [("gold (nothing was traced)", WHITE, 1)]),
        (trunk(), None, [("predicted (there is no gold tree)", WHITE, 1)]),
        (
            EMPTY,
            trunk(),
            [
                ("predicted, right", WHITE, 0),
                ("gold, found", GREEN, 0),
                ("predicted, spurious", ORANGE, 0),
                ("gold, missed", BLUE, 1),
            ],
        ),
        (None, None, []),
    ],
    ids=["untraced", "no gold", "empty", "neither"],
)
def test_a_tree_alone_is_neither_right_nor_wrong_and_all_of_gold_is_missed_by_an_empty_one(pred, gold, expected):
    made = made_of(pred, gold)
    assert [(part["name"], part["color"], len(lines(made, part))) for part in made["parts"]] == expected


def random_tree(seed, n=40):
    rng = np.random.default_rng(seed)
    return make(rng.uniform((0, 0, 0), (99, 49, 19), (n, 3)), [-1, *rng.integers(0, np.arange(1, n))])


def test_too_many_lines_become_fewer_at_places_of_the_tree_and_keep_their_colors():
    rng = np.random.default_rng(0)
    xyz = np.cumsum(rng.normal(0, 0.3, (1200, 3)), axis=0)
    tree = make(xyz, np.arange(1200) - 1)
    whole, small = (made_of(EMPTY, tree, most_bytes=most) for most in (10**6, 6000))
    missed, thinned = (by_color(made)[BLUE] for made in (whole, small))
    assert len(lines(whole, missed)) == 1199
    n_marks = sum(len(points(small, part[kind])) for part in small["parts"] for kind in ("tips", "branches"))
    assert 3000 < LINE_BYTES * len(lines(small, thinned)) + MARK_BYTES * n_marks <= 6000
    assert thinned["um"] == missed["um"]
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    assert (lines(small, thinned) >= low - 0.01).all()
    assert (lines(small, thinned) <= high + 0.01).all()
    gaps = KDTree(xyz).query(lines(small, thinned).reshape(-1, 3))[0]
    assert np.percentile(gaps, 95) < 1.0


def test_the_wall_is_as_wide_over_high_as_the_image_in_um_and_noise_is_made_small_enough():
    shades = np.random.default_rng(0).integers(0, 2, (600, 600)).astype(np.uint8) * 255
    noisy = wall(shades, 0, (1.0, 1.0, 1.0))
    assert 0.4 * MOST_WALL < len(noisy.uri) <= MOST_WALL
    seen = wall(np.zeros((10, 200), np.uint8), 1, SPACING)
    assert (seen.width, seen.height) == (200, 40)


def test_a_page_holds_what_it_is_given_and_nothing_from_elsewhere(tmp_path):
    hostile = '</script><img src=x onerror="window.hacked=1">&'
    image = np.zeros(SHAPE, np.uint8)
    path = tree_page(
        tmp_path / "new" / "a_3d.html", hostile, hostile, image=image, gold=forked(), pred=trunk(), spacing_um=SPACING
    )
    text = path.read_text()
    assert "<img src=x" not in text
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert path.stat().st_size < 40_000
    scene_again = json.loads(re.search(r'id="scene">(.*?)</script>', text, re.DOTALL)[1])
    assert scene_again == made_of(trunk(), forked())
