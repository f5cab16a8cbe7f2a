"""Textures drawn back onto photographs, against flat colours and rendered people of known textures."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.evaluation.texture_scores import lab_colors
from san_tf.experiments.rendered_back import body_views, fit_errors, rendered_back
from san_tf.synthesis.generator import render_crops, synthetic_reid_index
from san_tf.synthesis.people import clothes_texture


def flat(*values: float) -> np.ndarray:
    """Textures of one grey each, `(K, 32, 32, 3)` CIELAB."""
    greys = np.array(values, np.float32)[:, None, None, None]
    return lab_colors(np.broadcast_to(greys, (len(values), 32, 32, 3)).copy())


def grey(value: int) -> np.ndarray:
    return np.full((128, 64, 3), value, np.uint8)


def test_views_show_the_body_from_all_sides_within_the_picture():
    views = body_views()
    assert len(views.starts) == 5 * 12
    counts = np.diff([*views.starts, len(views.pixels)])
    # A person fills a fifth to two thirds of a tight box.
    assert counts.min() > 0.1 * 64 * 32 and counts.max() < 0.67 * 64 * 32
    assert views.pixels.min() >= 0 and views.pixels.max() < 64 * 32
    # Together the views show nearly all of the body, which covers about half of the texture.
    assert len(np.unique(views.texels)) > 0.4 * 32 * 32


def test_errors_of_greys_are_differences_of_lightness():
    # CIELAB lightness: 0 of black and 100 of white.
    assert fit_errors(grey(0), flat(0, 255)) == pytest.approx([0, 100], abs=0.01)


def test_an_image_of_a_texture_is_fitted_exactly_by_the_view_that_made_it():
    views = body_views()
    texture = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    view = slice(views.starts[17], views.starts[18])
    image = np.zeros((64 * 32, 3), np.uint8)
    image[views.pixels[view]] = texture.reshape(-1, 3)[views.texels[view]]
    other = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    colors = lab_colors(np.stack([texture, other]).astype(np.float32))
    right, wrong = fit_errors(image.reshape(64, 32, 3), colors)
    assert right == pytest.approx(0, abs=1e-4) and wrong > 20


def test_partners_are_of_the_same_person_and_another_camera():
    # Person 1 is black in camera 1 and white in camera 2, person 2 the other way round. So the same person's
    # texture by the other camera is 100 off in lightness, and the other person's 0. The mean is grey.
    images = [partial(grey, value) for value in (0, 255, 255, 0)]
    textures = flat(0, 255, 255, 0)
    found = rendered_back(images, textures, np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2]))
    assert found[:4] == pytest.approx([0, 100, 0, 50], abs=0.01)
    assert found.partner_wins == 0 and found.images == 4


def test_images_without_identity_do_not_count():
    images = [partial(grey, 0)] * 4
    with pytest.raises(UserError, match="nobody was seen by two"):
        rendered_back(images, flat(0, 0, 0, 0), np.array([1, 1, 0, -1]), np.array([1, 1, 2, 2]))


def test_true_textures_of_rendered_people_fit_their_pictures_best():
    specs = synthetic_reid_index("world_smoke", "train")[:24]  # five people, own cameras
    crops = list(render_crops(specs, processes=0))
    small = [
        cv2.resize(clothes_texture(spec.wearer), (32, 32), interpolation=cv2.INTER_AREA) for spec in specs
    ]
    colors = lab_colors(np.stack(small).astype(np.float32))
    pids = np.array([spec.pid for spec in specs])
    camids = np.array([spec.camid for spec in specs])
    images = [
        partial(cv2.imdecode, np.frombuffer(crop.image, np.uint8), cv2.IMREAD_COLOR_RGB) for crop in crops
    ]
    found = rendered_back(images, colors, pids, camids)
    assert found.partner == pytest.approx(found.own)  # a person's textures are one and the same
    assert found.own < found.other - 3 and found.own < found.mean and found.partner_wins > 0.7
