"""What sessions take, and what they say of the rest; the SavedModel's own session."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_encoder import SERVED_SIZE

from san_tf.errors import UserError
from san_tf.serving.runtime_sessions import checked_images, open_session


def test_what_is_taken() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    for given in (images, list(images), tuple(images), tf.constant(images), np.asfortranarray(images)):
        found = checked_images(given)
        assert found.dtype == np.uint8 and found.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(checked_images([Image.fromarray(image) for image in images]), images)
    np.testing.assert_array_equal(checked_images(images[:, ::-1, ::-1]), images[:, ::-1, ::-1])
    for nobody in ([], (), images[:0], np.zeros((0, 0, 0, 3), np.uint8)):
        assert len(checked_images(nobody)) == 0


IMAGES = np.zeros((2, 6, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (IMAGES.astype(np.float32), r"received float32 \(2, 6, 4, 3\): if they are 0 to 1, give \(images \*"),
        (IMAGES.astype(np.float64)[:0], "received float64"),
        (IMAGES.astype(np.int64), r"received int64 .*give images.astype\(np.uint8\)"),
        (IMAGES.astype(bool), "received bool"),
        (IMAGES[0], r"give a single image as image\[None\]"),
        (Image.new("RGB", (4, 6)), r"give a single image as image\[None\]"),
        (np.zeros((6, 4, 4), np.uint8), r"give a single image as image\[None, ..., :3\]"),
        (np.zeros((2, 6, 9), np.uint8), r"received uint8 \(2, 6, 9\): repeat the grey channel"),
        (IMAGES[..., :1], "repeat the grey channel"),
        (np.zeros((2, 6, 4, 4), np.uint8), "leave the transparency out"),
        (np.zeros((2, 3, 6, 4), np.uint8), "put the channels last"),
        (np.zeros((2, 6, 4, 5), np.uint8), "give three channels"),
        (IMAGES[:, :0], "leave out images without height or width"),
        (IMAGES[:, :, :0], "leave out images without height or width"),
        (np.array([], np.uint8), "stack the images along a first axis"),
        (IMAGES[None], "stack the images along a first axis"),
        ([IMAGES[0], IMAGES[0, 1:]], r"image 0 is uint8 \(6, 4, 3\), image 1 is uint8 \(5, 4, 3\): resize"),
        ([IMAGES[0], IMAGES[0] / 255.0], "image 1 is float64"),
        ([[0.5, 0.5]], "received float64"),
        ("crop.jpg", "received <U8 .*: read the images into arrays first"),
        (["a.jpg", "b.jpg"], "read the images into arrays first"),
        (b"\xff\xd8", "read the images into arrays first"),
        (None, "received NoneType: read the images into arrays first"),
        ([None], "read the images into arrays first"),
        (np.ma.masked_array(IMAGES, IMAGES == 0), "without a mask"),
    ],
)  # fmt: skip
def test_what_is_refused(images: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        checked_images(images)


def test_saved_model_has_the_same_session(served_models: Path) -> None:
    embed = open_session(served_models)  # the newest version
    assert (embed.image_size, embed.dimensions) == (SERVED_SIZE, 8)
    images = np.random.default_rng(1).integers(0, 256, (3, 20, 10, 3), dtype=np.uint8)
    served = tf.saved_model.load(str(served_models / "2")).signatures["serving_default"]
    wanted = served(images=tf.constant(images))["embedding"].numpy()
    np.testing.assert_allclose(embed(images), wanted, atol=1e-6)
    np.testing.assert_allclose(open_session(served_models / "2")(list(images)), wanted, atol=1e-6)
    assert np.abs(open_session(served_models / "1")(images) - wanted).max() > 1e-3
    assert embed(images[:0]).shape == (0, 8) and embed([]).dtype == np.float32
    with pytest.raises(UserError, match="received float64"):
        embed(images / 255.0)


def test_folders_that_are_no_export(served_models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no version"):
        open_session(tmp_path)
    with pytest.raises(UserError, match="TensorFlow's are set for the whole process"):
        open_session(served_models, threads=2)
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(UserError, match="threads must be 0 or a number"):
            open_session(served_models, threads=wrong)  # type: ignore[arg-type]
    shutil.copytree(served_models / "1", tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"1 is damaged: saved_model.pb is not as it was written"):
        open_session(tmp_path / "1")
