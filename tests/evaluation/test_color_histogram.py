import colorsys

import numpy as np
import pytest

from san_tf.evaluation.color_histogram import color_histograms
from san_tf.evaluation.ranking import evaluate_ranking


def noise(number, height=12, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, height, width, 3), dtype=np.uint8)


def test_equals_a_loop_over_pixels():
    images = noise(3)
    stripes, bins = 3, (6, 3, 2)
    expected = np.zeros((3, stripes, *bins))
    for n in range(3):
        for y in range(12):
            for x in range(6):
                h, s, v = colorsys.rgb_to_hsv(*(images[n, y, x] / 255.0))
                # OpenCV rounds hue to 2 degrees and the others to 1/255.
                cell = (
                    int(round(h * 180) % 180 * bins[0] / 180),
                    int(round(s * 255) * bins[1] / 256),
                    int(round(v * 255) * bins[2] / 256),
                )
                expected[(n, y * stripes // 12, *cell)] += np.exp(-0.5 * (((x + 0.5) / 6 - 0.5) / 0.22) ** 2)
    expected /= expected.sum(axis=(2, 3, 4), keepdims=True) * stripes
    got = color_histograms(images, stripes, bins)
    # A pixel on the border of two bins may round either way.
    assert np.abs(got**2 - expected.reshape(3, -1)).max() < 0.02
    assert np.abs(got**2 - expected.reshape(3, -1)).mean() < 2e-4


def test_has_length_1_and_takes_batches():
    images = noise(10)
    whole = color_histograms(images)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(color_histograms(iter([images[:4], images[4:]])), whole)


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
