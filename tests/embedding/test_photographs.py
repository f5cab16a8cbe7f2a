"""Files as they come: turned, grey, CMYK, 16 bits, transparent, tiny, huge, cut off, no image at all."""

from __future__ import annotations

import io
import resource
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from san_tf.data.images import decode_image
from san_tf.embedding.photographs import PhotographError, is_decodable, upright


def _picture(height: int = 40, width: int = 24) -> Image.Image:
    """Smooth, so that JPEG keeps it, and different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _file(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return target.getvalue()


def _decoded(content: bytes) -> np.ndarray:
    return decode_image(tf.constant(content)).numpy()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed_as_pillow_does(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _file(_picture(), kind, exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    found = _decoded(upright(content))
    assert found.shape == wanted.shape
    # Pillow's and TensorFlow's JPEG decoders round differently.
    assert np.abs(found.astype(int) - wanted).max() <= (0 if kind == "PNG" else 4)
    assert (upright(content) is content) == (orientation == 1)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_is_none(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _file(_picture(), exif=exif)
    assert upright(content) is content


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_none():
    content = _file(_picture(), exif=Image.Exif())
    content = (
        content[:2] + b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0MM\0*garbage...."[:18] + content[2:]
    )
    assert upright(content) is content


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (_picture().convert("L"), "JPEG"),
        (_picture().convert("L"), "PNG"),
        (_picture().convert("CMYK"), "JPEG"),
        (_picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        (_picture().convert("RGBA"), "PNG"),
        (_picture().convert("LA"), "PNG"),
        (Image.fromarray(np.arange(40 * 24, dtype=np.uint16).reshape(40, 24) * 68), "PNG"),
        (_picture(1, 1), "PNG"),
        (_picture(1, 1), "JPEG"),
    ],
    ids=["grey", "grey png", "cmyk", "palette", "alpha", "grey alpha", "16 bits", "1x1 png", "1x1"],
)
def test_unusual_colours_and_sizes(image, kind):
    content = upright(_file(image, kind))
    found = _decoded(content).astype(int)
    eight_bits = np.asarray(image) >> 8 if image.mode.startswith("I") else None
    wanted = (
        np.asarray(image.convert("RGB")) if eight_bits is None else np.repeat(eight_bits[..., None], 3, 2)
    )
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 6


def _png(height: int, width: int) -> bytes:
    """A PNG file of one bit a pixel, all black, whose decoded picture is 24 times as large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(height * (1 + width // 8)), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_huge_picture_is_refused_by_its_header():
    # A small one of the kind is none the worse: what is refused below is refused for its size.
    assert _decoded(upright(_png(80, 40))).shape == (
        80,
        40,
        3,
    )
    content = _png(20_000, 20_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PhotographError, match="has 20000 x 20000 pixels, more than 50 million"):
        upright(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"a shopping list\n", "is neither a JPEG nor a PNG file"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is a PNG file that is cut off"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "is a JPEG file that is cut off or damaged"),
    ],
)
def test_what_is_no_picture(content, problem):
    with pytest.raises(PhotographError, match=problem):
        upright(content)


def test_a_truncated_file_has_a_header_and_cannot_be_decoded():
    content = _file(_picture(200, 100))
    assert is_decodable(content)
    cut = content[: len(content) // 2]
    assert upright(cut) is cut and not is_decodable(cut)
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(PhotographError, match="is damaged: it cannot be decoded"):
        turned = _file(_picture(200, 100), exif=exif)
        upright(turned[: len(turned) // 2])
