import io

import cv2
import numpy as np
import pytest
from PIL import Image

from san_tf.data.headers import read_header
from san_tf.data.records import Records, parse_market_name
from san_tf.errors import UserError


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


def test_folder_in_market_layout(tmp_path, picture):
    names = ["0002_c1s1_000451_03", "0002_c3s1_000776_01", "-1_c2s1_000001_00", "0000_c6s3_000001_00"]
    folder = write(tmp_path, **{name: picture(i, suffix=".jpg") for i, name in enumerate(names)})
    (folder / "Thumbs.db").write_bytes(b"not an image")
    (folder / ".hidden.jpg").write_bytes(b"")
    records = Records.from_folder(folder)
    assert list(records.filenames) == sorted(f"{name}.jpg" for name in names)
    assert list(records.pids) == [-1, 0, 2, 2]
    assert list(records.camids) == [1, 5, 0, 2]
    assert list(records.labels) == [-1, -1, 0, 0]
    assert records.num_identities == 1
    assert records.textures is None
    assert records.pids.dtype == np.int64
    assert records.images[2] == (folder / f"{names[0]}.jpg").read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 0)),
        ("-1_c6s4_001877_00.jpg", (-1, 5)),
        ("0005_c2_f0046985.jpg", (5, 1)),
        ("0001_c020_00016450_0.jpg", (1, 19)),
        ("holiday.jpg", (-1, -1)),
    ],
)
def test_names(name, expected):
    assert parse_market_name(name) == expected


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", "b.jpg is empty"),
        (
            lambda good: b"GIF89a" + good,
            r"b\.jpg is not an image in a supported format, or is damaged",
        ),
        (lambda good: good[:20], "b.jpg is a .* cut off"),
        (lambda good: good[: len(good) // 2], "b.jpg is damaged"),
        (lambda good: good[:-30], "b.jpg is damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_bad_image_is_named(tmp_path, picture, damage, message, suffix):
    good = picture(1, 64, 32, suffix)
    folder = write(tmp_path, a=good, b=damage(good), c=good)
    with pytest.raises(UserError, match=message):
        Records.from_folder(folder)


def test_bad_images_are_counted(tmp_path, picture):
    with pytest.raises(UserError, match=r"b.jpg is empty \(1 other"):
        Records.from_folder(write(tmp_path, a=picture(0), b=b"", c=b""))


def test_missing_and_empty_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        Records.from_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image file"):
        Records.from_folder(tmp_path)


def test_equal_textures_are_kept_once(picture):
    one, two = picture(10, 16, 16), picture(11, 16, 16)
    records = Records.from_columns(
        [picture(i) for i in range(4)], [1, 1, 2, 3], textures=[one, one, b"", two]
    )
    assert len(records.texture_files) == 2
    assert list(records.textures) == [one, one, b"", two]
    assert list(records.has_texture) == [True, True, False, True]
    chosen = records.select(np.array([3, 2]))
    assert list(chosen.textures) == [two, b""]
    assert list(chosen.pids) == [3, 2]


@pytest.mark.parametrize(
    ("texture", "message"),
    [
        (lambda: cv2.imencode(".png", np.zeros((16, 16), np.uint8))[1].tobytes(), "16x16 with 1 channel"),
        (lambda: cv2.imencode(".png", np.zeros((16, 16, 4), np.uint8))[1].tobytes(), "16x16 with 4 channel"),
        (lambda: cv2.imencode(".jpg", np.zeros((16, 32, 3), np.uint8))[1].tobytes(), "32x16 with 3 channel"),
    ],
)
def test_texture_that_is_not_square_rgb_is_named(picture, texture, message):
    with pytest.raises(UserError, match=f"texture of image second.jpg is {message}"):
        Records.from_columns(
            [picture(0), picture(1)], [1, 2], filenames=["first.jpg", "second.jpg"],
            textures=[picture(2, 16, 16), texture()],
        )  # fmt: skip


def test_columns_of_different_length_are_refused(picture):
    with pytest.raises(ValueError, match="2 images, 1 pids"):
        Records.from_columns([picture(0), picture(1)], [1])


def test_labels_are_contiguous_in_the_order_of_pids(picture):
    records = Records.from_columns([picture(0)] * 5, [30, 7, -1, 0, 30])
    assert list(records.labels) == [1, 0, -1, -1, 1]
    assert list(records.identities) == [7, 30]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_header(suffix, channels):
    image = np.zeros((37, 21, channels), np.uint8)
    encoded = cv2.imencode(suffix, image)[1].tobytes()
    assert read_header(encoded) == ({".jpg": "jpeg", ".png": "png"}[suffix], 37, 21, channels)


def test_header_of_progressive_jpeg_with_comments():
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    encoded = cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8), options)[1].tobytes()
    comment = b"\xff\xfe\x00\x08foobar"
    assert read_header(encoded[:2] + comment + b"\xff" + encoded[2:]) == ("jpeg", 20, 40, 3)


def test_a_folder_of_other_formats_and_absurd_numbers(tmp_path):
    picture = np.arange(96, dtype=np.uint8).reshape(8, 4, 3)
    for name in ("0002_c1_x.webp", f"0003_c{'9' * 40}_x.bmp", f"{'9' * 40}_c1_x.png"):
        Image.fromarray(picture).save(tmp_path / name, lossless=True)
    records = Records.from_folder(tmp_path)
    assert dict(zip(records.filenames, zip(records.pids, records.camids, strict=True), strict=True)) == {
        "0002_c1_x.webp": (2, 0),
        f"0003_c{'9' * 40}_x.bmp": (-1, -1),
        f"{'9' * 40}_c1_x.png": (-1, -1),
    }
    for image in records.images:
        with Image.open(io.BytesIO(image)) as stored:
            assert stored.format == "PNG"
            np.testing.assert_array_equal(stored, picture)
    (tmp_path / "text.jpg").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"text\.jpg is not an image in a supported format"):
        Records.from_folder(tmp_path)
