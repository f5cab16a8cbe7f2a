"""`FrameEncoder`: the right pixels of the right boxes, in one batch; what gives no embedding, and why."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from san_tf import FrameEncoder, UserError, load_encoder
from san_tf.embedding.frames import FrameEmbeddings, pixels_inside, sharpness
from san_tf.serving.runtime_sessions import Session, _Runtime, open_session

# The same three boxes: whole, at fractions of pixels, and reaching out of the frame on two sides.
CORNERS = [[20, 10, 60, 100], [80.4, 30.6, 115.6, 110.4], [150, 90, 230, 190]]
CENTRES = [[40, 55, 40, 90], [98, 70.5, 35.2, 79.8], [190, 140, 80, 100]]
SIZES = [[20, 10, 40, 90], [80.4, 30.6, 35.2, 79.8], [150, 90, 80, 100]]


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    """Blocks of colours and noise, BGR, 160 rows and 200 columns."""
    rng = np.random.default_rng(0)
    blocks = cv2.resize(
        rng.integers(0, 256, (16, 20, 3), np.uint8), (200, 160), interpolation=cv2.INTER_NEAREST
    )
    return (0.8 * blocks + 0.2 * rng.integers(0, 256, blocks.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def session(model: Path) -> Session:
    return open_session(model)


@pytest.fixture
def encode(session: Session) -> FrameEncoder:
    return FrameEncoder(session)


def alone(session: Session, frame: np.ndarray) -> np.ndarray:
    """The embeddings of the three boxes, cut by hand and embedded one by one."""
    crops = (frame[10:100, 20:60], frame[31:110, 80:116], frame[90:160, 150:200])
    return np.concatenate([session(crop[None, ..., ::-1]) for crop in crops])


def test_the_formats_mean_the_same_pixels(session, encode, frame):
    wanted = alone(session, frame)
    for boxes, format in ((CORNERS, "xyxy"), (CENTRES, "xywh"), (SIZES, "ltwh")):
        for kind in (boxes, np.array(boxes), np.array(boxes, np.float32), tuple(map(tuple, boxes))):
            embeddings, refused = encode(frame, kind, format)
            assert embeddings.dtype == np.float32 and refused.dtype == bool and not refused.any()
            np.testing.assert_allclose(embeddings, wanted, atol=1e-5)
    assert np.linalg.norm(wanted[0] - wanted[1]) > 1e-2
    whole = encode(frame, np.array(CORNERS).round().astype(int))
    np.testing.assert_allclose(whole.embeddings, wanted, atol=1e-5)


def test_the_order_of_colours_is_that_of_opencv_unless_said(session, encode, frame):
    wanted = alone(session, frame)
    rgb = frame[..., ::-1]  # not contiguous
    np.testing.assert_allclose(encode(rgb, CORNERS, color="rgb").embeddings, wanted, atol=1e-5)
    swapped = encode(rgb, CORNERS).embeddings
    assert np.sum(swapped * wanted, axis=1).max() < 0.999


def test_an_encoder_that_is_loaded_or_named_gives_the_same(model, session, frame):
    wanted = alone(session, frame)
    for given in (model, str(model / "2"), load_encoder(model)):
        encode = FrameEncoder(given)
        assert encode.dimensions == 6
        np.testing.assert_allclose(encode(frame, CORNERS).embeddings, wanted, atol=1e-5)
        assert encode(frame, []).embeddings.shape == (0, 6)


def test_a_frame_is_one_batch_in_which_each_crop_is_resized_once():
    batches = []

    def embed(images: np.ndarray) -> np.ndarray:
        batches.append(images)
        return np.ones((len(images), 2), np.float32)

    encode = FrameEncoder(Session(Path("x.onnx"), _Runtime(embed, 2, {"image_size": [4, 2]}, True)))
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (400, 700, 3), np.uint8)
    boxes = [[8 * n, 0, 8 * n + 16 + n, 16 + 10 * n] for n in range(20)]
    assert not encode(frame, [*boxes, [0, 0, 1, 1]]).refused[:20].any()
    (batch,) = batches
    assert batch.shape == (20, 4, 2, 3) and batch.dtype == np.float32
    # A crop of 16x16 at 4x2: the middle of each 4x8 pixels is between pixels 1 and 2, and 3 and 4.
    crop = frame[:16, :16, ::-1].astype(np.float64)
    wanted = np.stack([[crop[y : y + 2, x : x + 2].mean((0, 1)) for x in (3, 11)] for y in (1, 5, 9, 13)])
    np.testing.assert_allclose(batch[0], wanted, atol=1e-4)
    batches.clear()
    encode(frame, boxes[:1] * 300)  # more than fit into the memory go in parts
    assert [len(batch) for batch in batches] == [128, 128, 44]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([-50, 10, 0, 100], "lies outside the frame"),
        ([200, 10, 250, 100], "lies outside the frame"),
        ([10, 160, 50, 200], "lies outside the frame"),
        ([10, -90, 50, -1e300], "has no area as xyxy (left, top, right, bottom)"),
        ([10, -1e300, 50, -90], "lies outside the frame"),
        ([60, 10, 20, 100], "has no area as xyxy (left, top, right, bottom)"),
        ([20, 100, 60, 100], "has no area as xyxy (left, top, right, bottom)"),
        ([np.nan, 10, 60, 100], "has a number that is not finite"),
        ([20, 10, np.inf, 100], "has a number that is not finite"),
        ([20, 10, 60, 25], "has 15x40 pixels inside the frame, less than 16x8"),
        ([20, 10, 60, 26], ""),
        ([20, 10, 27, 100], "has 90x7 pixels inside the frame, less than 16x8"),
        ([20, 10, 28, 100], ""),
        ([-60, 10, 7, 100], "has 90x7 pixels inside the frame, less than 16x8"),
        ([199.7, 10, 300, 100], "has 90x0 pixels inside the frame, less than 16x8"),
        ([0.1, 0.1, 0.9, 0.9], "has 1x1 pixels inside the frame, less than 16x8; boxes are in pixels, not"),
        ([-1e300, -1e300, 1e300, 1e300], ""),
        ([0, 0, 200, 160], ""),
    ],
)  # fmt: skip
def test_boxes_that_give_none_say_why(encode, frame, box, reason):
    found = encode(frame, [CORNERS[0], box, CORNERS[1]])
    assert list(found.refused) == [False, bool(reason), False]
    assert found.reasons[1].startswith(reason) and bool(found.reasons[1]) == bool(reason)
    assert found.embeddings[1].any() != found.refused[1]
    np.testing.assert_allclose(found.embeddings[[0, 2]], encode(frame, CORNERS[:2]).embeddings, atol=1e-6)


def test_sizes_that_are_none_and_what_is_least_may_be_chosen(session, frame):
    encode = FrameEncoder(session, min_height=2, min_width=1)
    assert encode(frame, [[10, 10, 11, 12]]).reasons == ("",)
    assert encode(frame, [[10, 10, 0, 30], [10, 10, -5, 30]], "ltwh").refused.all()
    assert "no area as xywh" in encode(frame, [[10, 10, 20, -30]], "xywh").reasons[0]
    # Numbers that are finite, and edges that are not.
    big = np.array([[1e308, 0, 1.5e308, 20]])
    assert encode(frame, big, "ltwh").reasons == ("has a number that is not finite",)


def test_blurred_boxes_give_none(session, encode, frame):
    wide = np.full((300, 200, 3), 90, np.uint8)  # one colour
    assert "is blurred: its sharpness of 0 is below 0.01" in encode(wide, CORNERS).reasons
    for sigma, refused in ((0, False), (1.5, False), (8, True)):
        seen = cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame
        assert encode(seen, CORNERS[:2]).refused.tolist() == [refused] * 2, sigma
        # Darkness is not blur.
        assert encode((seen / 4).astype(np.uint8), CORNERS[:2]).refused.tolist() == [refused] * 2, sigma
    blurred = cv2.GaussianBlur(frame, (0, 0), 8)
    assert not FrameEncoder(session, min_sharpness=0)(blurred, CORNERS).refused.any()
    assert not FrameEncoder(session, min_sharpness=0)(wide, CORNERS).refused.any()
    assert FrameEncoder(session, min_sharpness=100)(frame, CORNERS).refused.all()


def test_sharpness_by_hand():
    # Stripes of 2 columns, 0 and 200: variance 100^2. Each column has an edge on one side, so its Laplacian
    # is 200 or -200, except in the outermost two, beside which OpenCV mirrors the border.
    stripes = np.zeros((20, 16, 3), np.uint8)
    stripes[:, 2::4] = stripes[:, 3::4] = 200
    rows = [0] + [200, -200, -200, 200] * 3 + [200, -200, -200 * 0]
    laplacian = np.array(rows, np.float64)
    assert len(rows) == 16
    assert sharpness(stripes) == pytest.approx((laplacian.var() - 20 / 12) / 100**2, rel=1e-6)
    # The same picture at four times the size is reduced first.
    large = np.repeat(np.repeat(np.tile(stripes, (4, 1, 1))[:64], 4, axis=0), 4, axis=1)
    assert sharpness(large) == pytest.approx((laplacian.var() - 20 / 12 / 16) / 100**2, rel=1e-6)
    assert sharpness(np.full((20, 10, 3), 7, np.uint8)) == 0
    # Rounding to whole numbers alone is not sharpness: a slope of 0.3 a column.
    slope = np.repeat((np.arange(60) * 0.3)[None, :, None], 40, axis=0).repeat(3, axis=2).astype(np.uint8)
    assert sharpness(slope) < 0.01


def test_pixels_inside_round_to_the_nearest():
    assert pixels_inside((1.4, 1.6, 9.4, 9.6), (20, 20)) == (slice(2, 10), slice(1, 9))
    assert pixels_inside((-5, -1e300, 1e300, 7), (10, 20)) == (slice(0, 7), slice(0, 20))


def test_a_frame_without_people(encode, frame):
    for boxes in ([], (), np.empty((0, 4)), np.empty((0, 4), np.float32), np.array([]), [[0, 0, 1, 1]] * 3):
        for color in ("bgr", "rgb"):
            embeddings, refused = encode(frame, boxes, "ltwh", color)
            assert embeddings.shape == (len(boxes), 6) and embeddings.dtype == np.float32
            assert refused.shape == (len(boxes),) and refused.all()


def test_the_answer_is_a_pair_with_reasons(encode, frame):
    found = encode(frame, [CORNERS[0], [0, 0, 1, 2]])
    assert repr(found) == "FrameEmbeddings(1 of 2 boxes to 6 numbers)" and len(found) == 2
    copy = pickle.loads(pickle.dumps(found))
    assert isinstance(copy, FrameEmbeddings) and copy.reasons == found.reasons
    np.testing.assert_array_equal(copy.embeddings, found.embeddings)


FRAME = np.zeros((40, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "The frame is None, as OpenCV returns"),
        (FRAME / 255.0, r"received float64 \(40, 30, 3\): if it is 0 to 1, give \(frame \* 255\)"),
        (FRAME.astype(np.float32), "received float32"),
        (FRAME.astype(np.uint16), r"received uint16 \(40, 30, 3\): give 8 bits a colour"),
        (FRAME.astype(bool), "received bool"),
        (FRAME[..., 0], r"received uint8 \(40, 30\): if the camera is grey, give cv2.cvtColor"),
        (FRAME[..., :1], "if the camera is grey"),
        (np.zeros((40, 30, 4), np.uint8), "leave the transparency out"),
        (FRAME[None], "give one frame at a time"),
        (FRAME.transpose(2, 0, 1), "put the colours last"),
        (FRAME[:0], "give an image with pixels and three colours"),
        (Image.fromarray(FRAME), 'received a Image: a PIL image is RGB: give .* color="rgb"'),
        (np.ma.masked_array(FRAME), r"received a MaskedArray: give frame.filled\(0\)"),
        ("frame.jpg", "received a str: give np.asarray"),
        (FRAME.tolist(), "received a list"),
    ],
)  # fmt: skip
def test_what_is_no_frame_is_told_in_one_sentence(encode, given, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        encode(given, CORNERS)
    assert "\n" not in str(caught.value)


class OnTheGpu:
    """A tensor that cannot be read from here."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        ([10, 20, 60, 100], r"received \(4,\): put a single box into a list, \[box\]"),
        (np.zeros((3, 6)), r"received \(3, 6\): if the box comes first, give boxes\[:, :4\]"),
        (np.zeros((0, 6)), r"received \(0, 6\)"),
        (np.zeros((3, 0)), r"received \(3, 0\)"),
        (np.zeros((1, 3, 4)), r"received \(1, 3, 4\)"),
        ([[1, 2, 3]], r"received \(1, 3\)"),
        ([[1, 2, 3, 4], [1, 2, 3]], "received list"),
        ([["1", "2", "3", "4"]], "received <U1"),
        ([[1, 2, 3, None]], "received list"),
        (None, "received NoneType"),
        ({"boxes": []}, "received dict"),
        (np.zeros((2, 4), bool), "received bool"),
        (np.zeros((2, 4), complex), "received complex128"),
        (np.ma.masked_array(np.zeros((2, 4))), "without a mask"),
        (SimpleNamespace(xyxy=[]), r'received SimpleNamespace: give boxes.xyxy with format="xyxy"'),
        (OnTheGpu(), r"received OnTheGpu \(can't convert cuda.*tensor.cpu\(\)"),
    ],
)  # fmt: skip
def test_what_are_no_boxes_is_told_in_one_sentence(encode, frame, boxes, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        encode(frame, boxes)
    assert "\n" not in str(caught.value)


def test_mistyped_choices_are_told(encode, frame):
    with pytest.raises(UserError, match="format must be one of 'xyxy', 'xywh', 'ltwh'; received 'tlwh'"):
        encode(frame, CORNERS, "tlwh")
    with pytest.raises(UserError, match="color must be one of 'bgr', 'rgb'; received 'BGR'"):
        encode(frame, CORNERS, color="BGR")
    with pytest.raises(UserError, match="format must be one of"):
        encode(frame, [], ["xyxy"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"min_height": 0}, "min_height must be a number of pixels from 1; received 0"),
        ({"min_width": 2.5}, "min_width must be a number of pixels"),
        ({"min_height": True}, "min_height must be a number of pixels"),
        ({"min_sharpness": -1}, "min_sharpness must be a number from 0"),
        ({"min_sharpness": float("nan")}, "min_sharpness must be a number from 0"),
        ({"min_sharpness": "high"}, "min_sharpness must be a number from 0"),
        ({"model": 3}, "The model is a int; give a name, a path, or an encoder"),
        ({"model": SimpleNamespace(embed=None)}, "The model is a SimpleNamespace; give a name"),
        ({"model": "http://localhost:8501"}, "8501 is the address of a server; give a san_tf.s"),
        ({"model": "nowhere.onnx"}, "nowhere.onnx does not exist; write it with san-tf export-runtime"),
        ({"model": "nothing"}, "There is no preset 'nothing'"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_encoder_is_told(session, arguments, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        FrameEncoder(**{"model": session, **arguments})
    assert "\n" not in str(caught.value)


def test_a_folder_of_runtimes_is_told_and_so_is_missing_tensorflow(model, tmp_path, monkeypatch):
    (tmp_path / "encoder.onnx").touch()
    (tmp_path / "encoder.tflite").touch()
    with pytest.raises(UserError, match=r"holds files for several runtimes; name one .*encoder.onnx"):
        FrameEncoder(tmp_path)
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(UserError, match=r"needs TensorFlow, which cannot be imported .*such as encoder.onnx"):
        FrameEncoder(model)


def test_a_wrong_answer_is_not_handed_on(frame):
    for answer in (np.ones((1, 3), np.float32), np.full((3, 2), np.nan, np.float32)):
        runtime = _Runtime(lambda images, answer=answer: answer, 2, {"image_size": [4, 2]}, True)
        with pytest.raises(UserError, match=r"gave .* write it again"):
            FrameEncoder(Session(Path("x.onnx"), runtime))(frame, CORNERS)


def test_its_import_brings_neither_tensorflow_nor_what_only_commands_need():
    code = (
        "import sys, san_tf\n"
        "san_tf.FrameEncoder\n"
        "heavy = {'tensorflow', 'keras', 'numba', 'rich', 'simple_parsing', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
