"""Files as they come: turned, grey, CMYK, 16 bits, transparent, tiny, huge, cut off, no image at all.

One picture of a file, whoever decodes it: `upright` for exports, `decode_image` in training and evaluation.
"""

from __future__ import annotations

import io
import resource
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from san_tf.data.headers import read_orientation
from san_tf.data.images import decode_image
from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.data.upright import PhotographError, upright
from san_tf.embedding.sources import is_decodable


def _picture(height: int = 40, width: int = 24) -> Image.Image:
    """Smooth, so that JPEG keeps it, and different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _file(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return target.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _decoded(content: bytes) -> np.ndarray:
    return decode_image(tf.constant(content)).numpy()


def _late(content: bytes) -> bytes:
    """The same picture with 70,000 bytes of colour profile (JPEG) or text (PNG) before its EXIF data."""
    if content.startswith(b"\xff\xd8"):
        profile = b"\xff\xe2" + struct.pack(">H", 35_002) + b"ICC_PROFILE\0\1\2".ljust(35_000, b"x")
        return content[:2] + 2 * profile + content[2:]
    text = _chunk(b"tEXt", b"Comment\0".ljust(70_000, b"x"))
    return content[:33] + text + content[33:]


def _turned(kind: str, orientation: int, late: bool = False) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = _file(_picture(), kind, exif=exif, **options)
    return _late(content) if late else content


def _as_pillow_shows(content: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed_as_pillow_does(orientation, kind, late):
    content = _turned(kind, orientation, late)
    wanted = _as_pillow_shows(content)
    assert wanted.shape == ((40, 24, 3) if orientation < 5 else (24, 40, 3))
    for found in (_decoded(upright(content)), _decoded(content)):
        assert found.shape == wanted.shape
        # Builds of libjpeg may round differently.
        assert np.abs(found.astype(int) - wanted).max() <= (0 if kind == "PNG" else 4)
    assert (upright(content) is content) == (orientation == 1)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_other_formats(orientation, kind):
    content = _turned(kind, orientation)
    np.testing.assert_array_equal(_decoded(upright(content)), _as_pillow_shows(content))


def test_exif_data_behind_the_pixels_of_a_png():
    content = _file(_picture(), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 8
    content = content[:-12] + _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + content[-12:]
    wanted = np.asarray(_picture().transpose(Image.Transpose.ROTATE_90))
    np.testing.assert_array_equal(_decoded(upright(content)), wanted)
    np.testing.assert_array_equal(_decoded(content), wanted)


def test_evaluation_follows_it():
    files = [_turned(kind, orientation) for kind in ("JPEG", "PNG") for orientation in range(1, 9)]
    records = Records.from_columns(files, [1] * 8 + [2] * 8)
    shown = next(iter(inference_dataset(records, (40, 24), 16, normalized=False))).numpy()
    # Orientations from 5 lie on their sides: their pictures are stretched to the size of the others.
    standing = [number for number in range(16) if number % 8 < 4]
    for number in standing:
        wanted = _as_pillow_shows(files[number])
        assert np.abs(shown[number].astype(int) - wanted).max() <= (0 if number >= 8 else 4)
    lying = next(iter(inference_dataset(records, (24, 40), 16, normalized=False))).numpy()
    for number in set(range(16)) - set(standing):
        assert np.abs(lying[number].astype(int) - _as_pillow_shows(files[number])).max() <= 4


def test_a_graph_reads_every_orientation_as_python_does():
    """Damaged EXIF data too: 250 mutants of the headers, most of them with another orientation or none."""
    rng, compared = np.random.default_rng(0), 0
    look = tf.function(decode_image, input_signature=[tf.TensorSpec((), tf.string)])
    sources = [
        _turned("PNG", 6),
        _turned("JPEG", 6),
        _turned("JPEG", 3),
        _turned("PNG", 8),
        _late(_turned("PNG", 5)),
    ]
    for source in sources:
        mark = max(source.find(b"Exif\0\0MM"), source.find(b"eXIfMM"))
        for _ in range(50):
            mutant = bytearray(source)
            for place in rng.integers(mark - 8, mark + 36, rng.integers(1, 3)):
                mutant[place] = rng.choice([0, 1, 2, 6, 8, 0x12, 0x49, 0x4D, 0xFF, mutant[place] ^ 1])
            content = bytes(mutant)
            wanted = read_orientation(content)
            try:
                found = look(tf.constant(content)).numpy()
                turned = _decoded(upright(content)) if wanted > 1 else decode_image(content, 1).numpy()
            except (tf.errors.InvalidArgumentError, PhotographError):  # a check sum is wrong
                continue
            compared += 1
            assert found.shape == turned.shape
            assert np.abs(found.astype(int) - turned).max() <= 4
    assert compared > 100


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

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(height * (1 + width // 8)), 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


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
        (b"a shopping list\n", "is not an image in a supported format"),
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
