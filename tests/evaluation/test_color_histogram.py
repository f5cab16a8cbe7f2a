import colorsys

import numpy as np
import pytest

from san_tf.evaluation.color_histogram import balanced, color_histograms
from san_tf.evaluation.ranking import evaluate_ranking


def noise(number, height=12, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, height, width, 3), dtype=np.uint8)


def test_equals_a_loop_over_pixels():
    images = noise(3)
    stripes, bins = 3, (6, 3, 2)
    expected = []
    for image in balanced(images):
        histograms = np.zeros((stripes, sum(bins)))
        for y in range(12):
            for x in range(6):
                h, s, v = colorsys.rgb_to_hsv(*(image[y, x] / 255.0))
                # OpenCV stores hue in steps of 2 degrees and the others in steps of 1/255.
                stripe = y * stripes // 12
                weight = np.exp(-0.5 * (((x + 0.5) / 6 - 0.5) / 0.1) ** 2)
                histograms[stripe, int(round(h * 180) % 180 * 6 / 180)] += weight * round(s * 255) / 255
                histograms[stripe, 6 + int(round(s * 255) * 3 / 256)] += weight
                histograms[stripe, 9 + int(round(v * 255) * 2 / 256)] += weight
        for part in (slice(0, 6), slice(6, 9), slice(9, 11)):
            histograms[:, part] /= histograms[:, part].sum(axis=1, keepdims=True) * 3 * stripes
        expected.append(histograms.ravel())
    difference = np.abs(color_histograms(images, stripes, bins) ** 2 - expected)
    # A pixel on the border of two bins may round either way.
    assert np.median(difference) < 1e-6
    assert difference.mean() < 2e-3


def test_has_length_1_and_takes_batches():
    images = noise(10)
    whole = color_histograms(images)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    # Any single grey is balanced to mid-grey, which has no hue: the hue's third of the length is missing.
    flat = color_histograms(np.full((1, 16, 8, 3), 7, np.uint8))
    assert np.linalg.norm(flat) == pytest.approx(np.sqrt(2 / 3))
    np.testing.assert_array_equal(color_histograms(iter([images[:4], images[4:]])), whole)


def test_balance_undoes_a_camera():
    scene = noise(4, 32, 16) // 2 + 64
    camera = np.clip(0.6 * scene.astype(float) + [30, 10, -5], 0, 255).astype(np.uint8)
    assert np.abs(balanced(scene).astype(int) - balanced(camera)).max() <= 4
    assert np.abs(scene.astype(int) - camera).max() > 40


def test_finds_people_again_by_their_clothes():
    rng = np.random.default_rng(0)
    shirts, trousers = rng.integers(0, 256, (2, 20, 1, 1, 3))
    person = np.repeat(np.arange(20), 3)
    people = np.concatenate([np.broadcast_to(shirts[person], (60, 24, 24, 3)),
                             np.broadcast_to(trousers[person], (60, 24, 24, 3))], axis=1)  # fmt: skip
    photographs = np.clip(people + rng.normal(0, 5, people.shape), 0, 255).astype(np.uint8)
    features = color_histograms(photographs)
    camera = np.tile([0, 1, 2], 20)
    found = evaluate_ranking(features, person + 1, camera, features, person + 1, camera)
    assert found.rank1 > 0.9
    # Upside down, the same colours lie in the wrong stripes.
    turned = color_histograms(photographs[:, ::-1])
    assert evaluate_ranking(turned, person + 1, camera, features, person + 1, camera).rank1 < 0.5


def test_what_is_not_an_image_is_refused():
    with pytest.raises(ValueError, match="float32"):
        color_histograms(noise(2).astype(np.float32))
    with pytest.raises(ValueError, match="no images"):
        color_histograms(iter([]))
