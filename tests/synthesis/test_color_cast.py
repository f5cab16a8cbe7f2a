"""The colours of textures in pictures, against the pictures themselves and against hand arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from san_tf.evaluation.texture_scores import lab_distance
from san_tf.synthesis import generator
from san_tf.synthesis.crops import color_cast
from san_tf.synthesis.people import dressed_person
from san_tf.synthesis.scene import Shot, Surface, draw_shot
from san_tf.synthesis.seen_garments import garments_in
from san_tf.synthesis.sensor import sample_sensor

PLAIN = dataclasses.replace(
    sample_sensor(0, 0), color_matrix=np.eye(3), gamma=1.0, contrast=1.0, haze=np.zeros(3)
)


def applied(cast: np.ndarray, colors: np.ndarray) -> np.ndarray:
    return np.clip(colors.astype(np.float32) @ cast[:, :3].T + cast[:, 3], 0, 255)


def a_shot(texture: np.ndarray, light: np.ndarray, exposure: float = 1.0, seen: bool = True) -> Shot:
    """A picture that shows texels all over a texture under one light."""
    size, side = len(texture), 24
    row, column = np.divmod(np.linspace(0, size * size - 1, side * side).astype(int), size)
    uv = np.stack([(column + 0.5) / size, 1 - (row + 0.5) / size], axis=-1).reshape(side, side, 2)
    cloth = texture[row, column].reshape(side, side, 3) / 255
    linear = np.where(cloth <= 0.04045, cloth / 12.92, ((cloth + 0.055) / 1.055) ** 2.4)
    mesh = np.full((side, side), 0 if seen else -1, np.int16)
    surface = Surface(mesh, uv.astype(np.float32), (linear * light).astype(np.float32))
    return Shot(np.zeros((8, 4, 3), np.uint8), 0.0, "walking", 1.0, surface, exposure, PLAIN)


def test_garments_have_the_colours_of_the_picture() -> None:
    errors = []
    for spec in generator.pit_index("paper", "test")[::20]:
        shot, texture = draw_shot(spec), dressed_person(spec.wearer).texture
        cast = color_cast(texture, texture, shot)
        for seen in garments_in(shot):
            own = seen.color_on(texture)
            errors.append([lab_distance(seen.color, color) for color in (own, applied(cast, own))])
    true, photographed = np.mean(errors, axis=0)
    assert len(errors) > 30
    assert photographed < 0.5 * true


def test_half_the_light_by_hand() -> None:
    # 186 is a linear 0.491; half of it, to the power 1 / 2.2, is 0.528: 134.7.
    texture = np.full((64, 64, 3), 186, np.uint8)
    cast = color_cast(texture, texture, a_shot(texture, np.array([0.5, 0.5, 0.5])))
    np.testing.assert_allclose(applied(cast, np.array([186, 186, 186])), 134.7, atol=3)


def test_red_light_and_exposure() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(20, 200, (64, 64, 3), dtype=np.uint8)
    dim = applied(color_cast(texture, texture, a_shot(texture, np.array([0.6, 0.3, 0.3]))), texture)
    assert dim[..., 0].mean() > 1.2 * dim[..., 1].mean()
    bright = applied(color_cast(texture, texture, a_shot(texture, np.array([0.6, 0.3, 0.3]), 1.5)), texture)
    assert bright.mean() > dim.mean() + 10


@pytest.mark.parametrize("seen", [True, False])
def test_one_colour_or_nothing_to_see_gives_a_tame_map(seen: bool) -> None:
    texture = np.full((64, 64, 3), 3, np.uint8)
    cast = color_cast(texture, texture, a_shot(texture, np.array([0.5, 0.5, 0.5]), seen=seen))
    assert cast.shape == (3, 4) and cast.dtype == np.float32
    assert np.abs(cast[:, :3]).max() < 2 and np.abs(cast[:, 3]).max() < 60
    # Brighter cloth is brighter in the picture too, whatever else is unknown.
    assert (np.diff(applied(cast, np.array([[40] * 3, [120] * 3, [200] * 3])), axis=0) > 0).all()
