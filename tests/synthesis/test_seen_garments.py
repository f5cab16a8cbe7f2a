"""Garments in pictures: which pixels are theirs, by hand and against what is painted there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from san_tf.synthesis import generator
from san_tf.synthesis.garment_regions import garment_region
from san_tf.synthesis.scene import draw_shot
from san_tf.synthesis.seen_garments import garments_in, seen_garments
from san_tf.synthesis.texels import texel_map, texels_at


def test_coordinates_and_texels_by_hand() -> None:
    # Half a texel from the left and from the top of four; then the last column and row, and beyond.
    uv = np.array([[0.125, 0.875], [0.99, 0.01], [1.0, 0.0], [-3.0, 2.0]])
    row, column = texels_at(uv, 4)
    assert row.tolist() == [0, 3, 3, 0] and column.tolist() == [0, 3, 3, 0]
    size = 64
    grid = (np.arange(size) + 0.5) / size
    everywhere = np.stack(np.broadcast_arrays(grid[None, :], 1 - grid[:, None]), axis=-1)
    row, column = texels_at(everywhere, size)
    assert (row == np.arange(size)[:, None]).all() and (column == np.arange(size)[None, :]).all()


@pytest.fixture(scope="module")
def shot():
    return draw_shot(generator.pit_index("paper", "test")[0])


def test_a_picture_of_flat_colours(shot) -> None:
    height, width = shot.surface.mesh.shape
    own = (shot.surface.mesh == 0) & garment_region("upper", 256)[texels_at(shot.surface.uv, 256)]
    image = np.zeros((height, width, 3), np.uint8)
    image[own] = (200, 30, 60)
    upper, lower = garments_in(dataclasses.replace(shot, image=image))
    assert (upper.garment, lower.garment) == ("upper", "lower")
    assert upper.color.tolist() == [200, 30, 60] and lower.color.tolist() == [0, 0, 0]
    assert len(upper.uv) == own.sum() >= 200
    # A texture with its colour on the chest alone has it there and nowhere else.
    texture = np.zeros((256, 256, 3), np.uint8)
    texture[garment_region("upper", 256)] = (200, 30, 60)
    assert upper.color_on(texture).tolist() == [200, 30, 60] and lower.color_on(texture).tolist() == [0, 0, 0]
    heights = texel_map(64).position[..., 1][texels_at(upper.uv, 64)]
    assert np.median(heights) > 1.08, "in a texture of another size it is the same place"


def test_too_little_is_no_garment(shot) -> None:
    hidden = dataclasses.replace(shot.surface, mesh=np.full_like(shot.surface.mesh, -1))
    assert garments_in(dataclasses.replace(shot, surface=hidden)) == []
    covered = dataclasses.replace(shot.surface, mesh=np.ones_like(shot.surface.mesh))
    assert garments_in(dataclasses.replace(shot, surface=covered)) == [], "a skirt over all of it"


def test_drawn_again_it_is_the_same(shot) -> None:
    first, again = garments_in(shot), seen_garments(generator.pit_index("paper", "test")[0])
    for one, other in zip(first, again, strict=True):
        assert (
            one.garment == other.garment and (one.color == other.color).all() and (one.uv == other.uv).all()
        )
