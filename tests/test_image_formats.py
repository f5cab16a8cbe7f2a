"""Formats of images: what counts as one, and pixels that stay what they were."""

from __future__ import annotations

import io
import os
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from san_tf.image_formats import (
    image_suffixes,
    is_image_name,
    jpeg_or_png,
    read_regular,
    suffix_of,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """By OpenCV, which is not what wrote it."""
    assert content.startswith(b"\x89PNG")
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_suffixes():
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"} <= (
        image_suffixes()
    )
    # What Pillow opens besides is not a photograph, or a program's input.
    assert not {".pdf", ".eps", ".ps", ".h5", ".mpg", ".psd", ".txt", ""} & image_suffixes()
    names = {"a/B.JPG": ".jpg", "a.b/c": "", ".jpg": "", "a\\b.webp": ".webp", "x.tar.gz": ".gz", "x.": "."}
    assert {name: suffix_of(name) for name in names} == names
    assert [name for name in names if is_image_name(name)] == ["a/B.JPG", "a\\b.webp"]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("BMP", ".bmp"),
        ("TIFF", ".tif"),
        ("WEBP", ".webp"),
        ("GIF", ".gif"),
        ("PPM", ".ppm"),
        ("JPEG2000", ".jp2"),
        ("AVIF", ".avif"),
    ],
)
def test_other_formats_keep_their_pixels(kind: str, suffix: str):
    if suffix not in image_suffixes():
        pytest.skip("the installed Pillow does not read it")
    content = stored(Image.fromarray(PIXELS), kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = PIXELS
    if kind == "AVIF":  # lossy
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decoded(jpeg_or_png(content)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_modes(mode: str):
    image = Image.fromarray(PIXELS).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decoded(jpeg_or_png(stored(image, "TIFF"))), expected)


def test_sixteen_bits_are_not_cut_off():
    deep = np.arange(200, dtype=np.uint16).reshape(20, 10) * 300
    for order in ("<u2", ">u2"):
        raw = Image.frombytes("I;16" if order == "<u2" else "I;16B", (10, 20), deep.astype(order).tobytes())
        np.testing.assert_array_equal(decoded(jpeg_or_png(stored(raw, "TIFF")))[..., 0], deep >> 8)
    with pytest.raises(ValueError, match="has pixels of 32 bits"):
        jpeg_or_png(stored(Image.fromarray(deep.astype(np.float32)), "TIFF"))


def test_jpeg_and_png_stay_as_they_are_and_of_others_the_first_picture_and_its_orientation():
    for kind in ("JPEG", "PNG"):
        content = stored(Image.fromarray(PIXELS), kind)
        assert jpeg_or_png(content) is content
    pages = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    content = stored(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decoded(jpeg_or_png(content)), PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = jpeg_or_png(stored(pages[0], "WEBP", lossless=True, exif=exif))
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif()[0x0112] == 6 and image.size == (10, 20)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"hello", "is not an image in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image in a supported format"),
        (stored(Image.fromarray(PIXELS), "BMP")[:300], "is damaged: it cannot be decoded"),
        (stored(Image.new("1", (9000, 9000)), "TIFF", compression="group4"), "has 9000x9000 pixels, more"),
    ],
)
def test_problems(content: bytes, problem: str):
    with pytest.raises(ValueError, match=problem):
        jpeg_or_png(content)


def test_what_is_not_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "good.jpg").write_bytes(b"12345")
    (tmp_path / "link.jpg").symlink_to("good.jpg")
    told: dict[str, object] = {}

    def read() -> None:
        for name in ("pipe.jpg", "zero.jpg", "good.jpg", "link.jpg"):
            try:
                told[name] = read_regular(tmp_path / name, 5)
            except ValueError as error:
                told[name] = str(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert told == {
        "pipe.jpg": "is a pipe or a device, not a file",
        "zero.jpg": "is a pipe or a device, not a file",
        "good.jpg": b"12345",
        "link.jpg": b"12345",
    }
    with pytest.raises(ValueError, match="is larger than 0 MB"):
        read_regular(tmp_path / "good.jpg", 4)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 4)
