"""Crops that show nothing are told from others."""

import cv2
import numpy as np
import pytest

from san_tf.data.quality import crop_quality
from san_tf.synthesis import generator
from san_tf.synthesis.crop_plans import ReidConfig

FEW = ReidConfig(
    "quality", 2, 2, train_images=8, queries=4, gallery_images=6, distractors=0, junk=0, image_height=128
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = generator.export_market(
        FEW, tmp_path_factory.mktemp("quality") / "market", processes=0, progress=False
    )
    return [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.glob("bounding_box_train/*"))]


def test_rendered_people_have_no_problem_until_they_are_spoilt(rendered):
    for image in rendered:
        good = crop_quality(image)
        assert good.problem == "" and good.score > 0.3
        soft = crop_quality(cv2.GaussianBlur(image, (0, 0), 5))
        assert soft.problem == "is blurred" and soft.score < good.score
        dark = crop_quality((image // 40).astype(np.uint8))
        assert dark.problem == "is nearly blank" and dark.score == 0.0


@pytest.mark.parametrize("shape", [(128, 64), (300, 40), (16, 16), (1, 1)])
def test_blank_pictures_and_noise_of_any_size(shape):
    for level in (0, 127, 255):
        assert crop_quality(np.full((*shape, 3), level, np.uint8)).problem == "is nearly blank"
    noise = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)
    assert crop_quality(noise).problem == "is noise"
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8)[:, None, None], (1, 64, 3))
    assert crop_quality(ramp).problem == "is blurred"
