"""Labels of cells: counted by hand and by naive loops, and what they say of left and right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.synthesis.body import PARTS
from san_tf.synthesis.cell_labels import BACKGROUND, EXTRA, LABELS, label_cells, label_crops
from san_tf.synthesis.generator import synthetic_reid_index
from san_tf.synthesis.scene import Surface, draw_shot
from san_tf.synthesis.texels import texel_map


def uv_of(part: str, number: int = 0) -> np.ndarray:
    """Texture coordinates of the middle of some texel of a part."""
    rows, columns = np.nonzero((texel_map().part == PARTS.index(part)) & texel_map().inside)
    return np.array([(columns[number] + 0.5) / 256, 1 - (rows[number] + 0.5) / 256], np.float32)


def test_a_quarter_of_a_cell_makes_it_the_part_that_is_seen_most():
    # One row of three cells, 2 x 2 pixels each: torso once and background; hair twice, torso once; nothing.
    mesh = np.array([[0, -1, 1, 2, -1, -1], [-1, -1, 0, -1, -1, -1]], np.int16)
    uv = np.full((2, 6, 2), -1, np.float32)
    uv[mesh == 0] = uv_of("torso")
    part, position = label_cells(Surface(mesh, uv, np.zeros((*mesh.shape, 3), np.float32)), (1, 3))
    assert part.tolist() == [[PARTS.index("torso"), EXTRA, BACKGROUND]]
    row, column = np.argwhere((texel_map().part == PARTS.index("torso")) & texel_map().inside)[0]
    np.testing.assert_allclose(position[0, 0], texel_map().position[row, column], atol=1e-6)
    assert np.isnan(position[0, 1:]).all(), "hair and street have no place on the body"
    # 3 x 3 pixels: one in nine is less than a quarter.
    mesh = np.full((3, 3), -1, np.int16)
    mesh[1, 1] = 0
    uv = np.full((3, 3, 2), -1, np.float32)
    uv[1, 1] = uv_of("torso")
    assert label_cells(Surface(mesh, uv, np.zeros((*mesh.shape, 3), np.float32)), (1, 1))[0] == BACKGROUND


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_equals_a_naive_loop(seed, rows, columns):
    rng = np.random.default_rng(seed)
    height, width = 13, 9
    texels = texel_map()
    mesh = rng.integers(-1, 3, (height, width)).astype(np.int16)
    inside = np.argwhere(texels.inside)
    chosen = inside[rng.integers(0, len(inside), (height, width))]
    uv = np.stack([(chosen[..., 1] + 0.5) / 256, 1 - (chosen[..., 0] + 0.5) / 256], -1).astype(np.float32)
    part, position = label_cells(Surface(mesh, uv, np.zeros((*mesh.shape, 3), np.float32)), (rows, columns))
    for i in range(rows):
        for j in range(columns):
            cell = [
                (r, c) for r in range(height) for c in range(width)
                if r * rows // height == i and c * columns // width == j
            ]  # fmt: skip
            names = [
                0 if mesh[p] < 0 else EXTRA if mesh[p] > 0 else int(texels.part[tuple(chosen[p])])
                for p in cell
            ]
            seen = [name for name in names if name]
            if len(seen) < 0.25 * len(cell):
                assert part[i, j] == BACKGROUND
                continue
            most = min(set(seen), key=lambda name: (-seen.count(name), name))
            assert part[i, j] == most
            if most == EXTRA:
                assert np.isnan(position[i, j]).all()
            else:
                places = [
                    texels.position[tuple(chosen[p])]
                    for p, name in zip(cell, names, strict=True)
                    if name == most
                ]
                np.testing.assert_allclose(position[i, j], np.mean(places, 0), atol=1e-5)


def test_left_and_right_are_the_persons_own_and_up_is_up():
    specs = [*synthetic_reid_index("smoke", "query"), *synthetic_reid_index("smoke", "gallery")]
    shots = {spec: draw_shot(spec) for spec in specs if spec.pid > 0}
    facing = [spec for spec, shot in shots.items() if abs(shot.yaw) < 45 and shot.visibility > 0.95]
    behind = [spec for spec, shot in shots.items() if abs(shot.yaw) > 135 and shot.visibility > 0.95]
    assert facing and behind
    for chosen, sign in ((facing, 1), (behind, -1)):
        labels = label_crops(chosen, (16, 8))
        columns = np.broadcast_to(np.arange(8), labels.part.shape)
        rows = np.broadcast_to(np.arange(16)[:, None], labels.part.shape)
        left = columns[labels.part == LABELS.index("thigh_l")].mean()
        right = columns[labels.part == LABELS.index("thigh_r")].mean()
        # Who faces the camera has the left leg at the right of the image.
        assert sign * (left - right) > 0.3
        heights = labels.position[..., 1][labels.on_body]
        assert np.corrcoef(heights, rows[labels.on_body])[0, 1] < -0.9
        # The surface that is seen is on the front of who faces the camera.
        torso = labels.part == LABELS.index("torso")
        assert sign * np.median(labels.position[..., 2][torso]) > 0


def test_what_stands_in_front_takes_the_person_away():
    specs = [spec for spec in synthetic_reid_index("smoke", "gallery") if spec.pid > 0]
    shots = [draw_shot(spec) for spec in specs]
    hidden = min(shots, key=lambda shot: shot.visibility)
    whole = [shot for shot in shots if shot.visibility > 0.98]
    assert hidden.visibility < 0.9 and whole
    for shot in (hidden, *whole):
        assert shot.surface.mesh.shape == shot.surface.uv.shape[:2]
        on_body = shot.surface.uv[shot.surface.mesh == 0]
        assert on_body.min() >= 0 and on_body.max() <= 1
    share = np.mean([(shot.surface.mesh >= 0).mean() for shot in whole])
    assert (hidden.surface.mesh >= 0).mean() < share


def test_grids_that_do_not_fit_are_refused():
    surface = Surface(
        np.zeros((4, 4), np.int16), np.zeros((4, 4, 2), np.float32), np.zeros((4, 4, 3), np.float32)
    )
    for grid in ((0, 1), (5, 1), (1, 5)):
        with pytest.raises(UserError, match="does not fit 4 x 4"):
            label_cells(surface, grid)
    with pytest.raises(UserError, match="no crops"):
        label_crops([], (8, 4))
