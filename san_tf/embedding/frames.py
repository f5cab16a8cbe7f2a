"""Embeds the boxes of a frame, `FrameEncoder`, also for the trackers of other packages.

Only an encoder that needs TensorFlow imports it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import cv2
import numpy as np

from san_tf.errors import UserError, one_line
from san_tf.serving.runtime_sessions import SUFFIXES, Session, open_session, png_file

if TYPE_CHECKING:
    import keras
    import torch

    from san_tf.embedding.encoder_loading import LoadedEncoder
    from san_tf.serving.client import Client

BoxFormat = Literal["xyxy", "xywh", "ltwh"]
ColorOrder = Literal["bgr", "rgb"]

# Most crops in a batch of a SavedModel or a Keras model, to limit the memory.
_CROPS = 128
# Sharpness is measured on crops of at most this many rows, so that it depends less on the resolution.
_SHARPNESS_ROWS = 64
# Variance of the Laplacian of values that were rounded to whole numbers: (4^2 + 4 * 1^2) / 12.
_ROUNDING = 20 / 12
_MODELS = "give a name, a path, or an encoder, a session or a client that is open already"
_FORMATS: dict[str, str] = {
    "xyxy": "left, top, right, bottom",
    "xywh": "centre x, centre y, width, height",
    "ltwh": "left, top, width, height",
}


class _Pair(NamedTuple):
    embeddings: np.ndarray
    refused: np.ndarray


class FrameEmbeddings(_Pair):
    """Embeddings of a frame's boxes: a pair `(embeddings, refused)`, with the reasons as an attribute.

    Attributes:
        embeddings: `(N, D)` float32 of length 1, in the order of the boxes; the rows of refused boxes are 0.
        refused: `(N,)` bool, True for the boxes that gave no embedding.
        reasons: N texts, "" for boxes that gave one, else half a sentence such as "lies outside the frame".
    """

    reasons: tuple[str, ...]

    def __new__(
        cls, embeddings: np.ndarray, refused: np.ndarray, reasons: Sequence[str] = ()
    ) -> FrameEmbeddings:
        """Make a pair with reasons."""
        pair = super().__new__(cls, embeddings, refused)
        pair.reasons = tuple(reasons)
        return pair

    def __repr__(self) -> str:
        count, dimensions = self.embeddings.shape
        embedded = count - int(self.refused.sum())
        return f"FrameEmbeddings({embedded} of {count} boxes to {dimensions} numbers)"


class FrameEncoder:
    """Embeds the people of a frame: a frame and its boxes in, one embedding a box out.

    The crops of a frame are one batch. Each crop is resized once, so its embedding is that of the crop as an
    image of its own. A box gives no embedding if

    - a number is not finite, or it has no area in its format;
    - it lies outside the frame;
    - less than `min_height` x `min_width` pixels of it lie inside the frame. Edges are rounded to pixels;
    - it is blurred: its sharpness is below `min_sharpness`. Sharpness is the variance of the Laplacian of the
      grey crop, divided by the variance of the grey crop. Crops of more than 64 rows are reduced to 64 rows
      first. What rounding to whole numbers adds to the Laplacian's variance is subtracted: 20/12, divided by
      the number of pixels that a pixel of the reduced crop averages.

    An ONNX, LiteRT or OpenVINO file and a model server do not need TensorFlow, which is not imported for
    them.

    Args:
        model: one of: a file of `san-tf export-runtime`, `encoder.onnx`, `encoder.tflite` or `encoder.xml`;
            whatever `load_encoder` takes, such as the folder of an export or `synthetic`; an encoder that
            `load_encoder` returned; a session of `san_tf.serving.runtime_sessions.open_session`; a
            `san_tf.serving.client.Client`.
        min_height: least height in pixels.
        min_width: least width in pixels.
        min_sharpness: least sharpness; 0 accepts blurred boxes too. Of 300 photographs of people with 128
            rows the default refused none with a Gaussian blur of 2 pixels, 1% with one of 3, 57% of 4, 93% of
            5 and 99% of 6.

    Raises:
        UserError: the model does not exist or cannot be opened, or a value is invalid.

    Example:
        >>> encode = FrameEncoder("synthetic")
        >>> embeddings, refused = encode(cv2.imread("frame.jpg"), [[40, 20, 104, 148]])
        >>> embeddings.shape
        (1, 512)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | LoadedEncoder | Session | Client | keras.Model,
        *,
        min_height: int = 16,
        min_width: int = 8,
        min_sharpness: float = 0.01,
    ) -> None:
        for name, pixels in (("min_height", min_height), ("min_width", min_width)):
            if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1:
                raise UserError(f"{name} must be a number of pixels from 1; received {pixels!r}.")
        if not isinstance(min_sharpness, (int, float)) or not 0 <= min_sharpness < math.inf:
            raise UserError(f"min_sharpness must be a number from 0; received {min_sharpness!r}.")
        self.min_height, self.min_width, self.min_sharpness = min_height, min_width, float(min_sharpness)
        self._embed, self._dimensions = _opened(model)
        self._random = np.random.default_rng(0)

    @property
    def dimensions(self) -> int:
        """Dimensions of an embedding, D; a model server is asked for it once."""
        if self._dimensions is None:
            self._dimensions = int(self._embed([]).shape[1])
        return self._dimensions

    def __call__(
        self, frame: np.ndarray, boxes: Any, format: BoxFormat = "xyxy", color: ColorOrder = "bgr"
    ) -> FrameEmbeddings:
        """Embed the boxes of a frame.

        Args:
            frame: `(H, W, 3)` uint8.
            boxes: `(N, 4)` numbers, in pixels: an array, nested lists or a tensor on the CPU. They may reach
                out of the frame.
            format: "xyxy": left, top, right, bottom; "xywh": centre x, centre y, width, height, as
                Ultralytics has them; "ltwh": left, top, width, height, as DeepSORT and the MOT Challenge have
                them.
            color: order of the frame's colours: "bgr", as OpenCV reads frames, or "rgb".

        Returns:
            The pair `embeddings`, `(N, D)` float32, and `refused`, `(N,)` bool: True for the boxes that gave
            none, whose rows are 0. Its `reasons` say why.

        Raises:
            UserError: the frame or the boxes have the wrong type or shape, or the encoder fails.

        Example:
            >>> found = encode(frame, [[40, 20, 104, 148], [-90, 20, -10, 148]])
            >>> found.refused, found.reasons
            (array([False,  True]), ('', 'lies outside the frame'))
        """
        crops = self.crops(frame, boxes, format, color)
        reasons = [crop if isinstance(crop, str) else "" for crop in crops]
        refused = np.array([bool(reason) for reason in reasons], bool)
        embeddings = np.zeros((len(crops), self.dimensions), np.float32)
        usable = [crop for crop in crops if not isinstance(crop, str)]
        if usable:
            embeddings[~refused] = self.embed_crops(usable)
        return FrameEmbeddings(embeddings, refused, reasons)

    def crops(
        self, frame: np.ndarray, boxes: Any, format: BoxFormat = "xyxy", color: ColorOrder = "bgr"
    ) -> list[np.ndarray | str]:
        """Return the pixels of each box, `(H, W, 3)` uint8 RGB, or the reason why it gives no embedding.

        Args:
            frame: `(H, W, 3)` uint8; the answer's pixels are views of it.
            boxes: as for a call.
            format: as for a call.
            color: as for a call.

        Raises:
            UserError: the frame or the boxes have the wrong type or shape.
        """
        frame = _checked_frame(frame)
        _check_choice("color", color, get_args(ColorOrder))
        found = [self._crop(frame, box, format) for box in _edges(boxes, format)]
        if color == "rgb":
            return found
        return [crop if isinstance(crop, str) else crop[..., ::-1] for crop in found]

    def embed_crops(self, crops: list[np.ndarray]) -> np.ndarray:
        """Embed crops, `(H, W, 3)` uint8 RGB each, in one batch: `(N, D)` float32 of length 1.

        Raises:
            UserError: the encoder fails.
        """
        rows = self._embed(crops)
        if rows.shape != (len(crops), self.dimensions) or not np.isfinite(rows).all():
            raise UserError(
                f"The encoder gave {rows.shape} for {len(crops)} crops, or NaN, instead of finite "
                f"({len(crops)}, {self.dimensions}); export it again."
            )
        return rows

    def _crop(self, frame: np.ndarray, box: np.ndarray, format: str) -> np.ndarray | str:
        """Return the pixels of a box, or the reason for refusing it."""
        if not np.isfinite(box).all():
            return "has a number that is not finite"
        left, top, right, bottom = box
        if not (left < right and top < bottom):
            return f"has no area as {format} ({_FORMATS[format]})"
        height, width = frame.shape[:2]
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            return "lies outside the frame"
        rows, columns = pixels_inside(box, (height, width))
        crop = frame[rows, columns]
        if crop.shape[0] < self.min_height or crop.shape[1] < self.min_width:
            hint = "; boxes are in pixels, not in shares of the frame" if np.abs(box).max() <= 1 else ""
            return (
                f"has {crop.shape[0]}x{crop.shape[1]} pixels inside the frame, less than "
                f"{self.min_height}x{self.min_width}{hint}"
            )
        if self.min_sharpness:
            found = sharpness(crop)
            if found < self.min_sharpness:
                return f"is blurred: its sharpness of {found:.2g} is below {self.min_sharpness:g}"
        return crop

    def attach_to_ultralytics(self, predictor: Any) -> None:
        """Let the trackers of Ultralytics (8.4) compare people by this encoder.

        It is a callback for `on_predict_batch_start`, when the trackers exist. Boxes that are refused are
        matched by their place only.

        Args:
            predictor: a predictor with `trackers`, or a tracker: BoT-SORT, Deep OC-SORT or TrackTrack.

        Raises:
            UserError: the tracker does not compare people by their looks.

        Example:
            >>> yolo.add_callback("on_predict_batch_start", encode.attach_to_ultralytics)
            >>> results = yolo.track("door.mp4", tracker="botsort.yaml")
        """
        for tracker in getattr(predictor, "trackers", [predictor]):
            if not hasattr(tracker, "encoder") or not hasattr(tracker, "args"):
                raise UserError(
                    f"{type(tracker).__name__} does not compare people by their looks; "
                    'use tracker="botsort.yaml", "deepocsort.yaml" or "tracktrack.yaml".'
                )
            # Any name but "auto", which would hand over features of the detector instead of the frame.
            tracker.args.with_reid, tracker.args.model = True, "san_tf"
            tracker.encoder = self._for_ultralytics

    def _for_ultralytics(self, frame: np.ndarray, detections: np.ndarray) -> list[np.ndarray | None]:
        """Return an embedding or None for each detection, as `ultralytics.trackers.utils.reid.ReID` does."""
        detections = np.asarray(detections)
        if detections.ndim == 2 and detections.shape[1] > 5:  # the box and its index
            raise UserError("Rotated boxes cannot be embedded; track with a model for detection.")
        embeddings, refused = self(frame, detections[:, :4], "xywh")
        return [None if gone else row for row, gone in zip(embeddings, refused, strict=True)]

    def for_boxmot(self) -> BoxmotEncoder:
        """Return this encoder in the form that BoxMOT (25) asks for.

        Example:
            >>> pipeline = TrackingPipeline(detector, tracker, reid=encode.for_boxmot())
            >>> tracker = BotSort(reid_model=encode.for_boxmot())
        """
        return BoxmotEncoder(self)

    def for_deep_sort(
        self, frame: np.ndarray, detections: Iterable[Sequence[Any]], color: ColorOrder = "bgr"
    ) -> tuple[list[Sequence[Any]], list[np.ndarray]]:
        """Return detections and their embeddings for `update_tracks` of deep-sort-realtime.

        Detections without area are left out, because the tracker leaves them out after their embeddings were
        counted, which would give everybody behind them the embedding of somebody else. Refused detections
        stay and get a direction that is unlike all embeddings, because the tracker divides by an embedding's
        length.

        Args:
            frame: `(H, W, 3)` uint8.
            detections: `([left, top, width, height], confidence, class)` each.
            color: order of the frame's colours.

        Returns:
            The detections, and as many embeddings.

        Raises:
            UserError: as for a call.

        Example:
            >>> tracker = DeepSort(embedder=None)
            >>> tracks = tracker.update_tracks(*encode.for_deep_sort(frame, detections))
        """
        kept = [each for each in detections if each[0][2] > 0 and each[0][3] > 0]
        return kept, list(self._of_length_1(self(frame, [each[0] for each in kept], "ltwh", color)))

    def for_supervision(self, frame: np.ndarray, detections: Any, color: ColorOrder = "bgr") -> Any:
        """Return detections of supervision with embeddings among their data.

        Args:
            frame: `(H, W, 3)` uint8.
            detections: `supervision.Detections`.
            color: order of the frame's colours.

        Returns:
            The same detections with `data["embedding"]`, `(N, D)` float32, and `data["embedding_refused"]`,
            `(N,)` bool.

        Raises:
            UserError: as for a call.

        Example:
            >>> people = encode.for_supervision(frame, Detections.from_ultralytics(result))
            >>> people["embedding"].shape
            (12, 512)
        """
        embeddings, refused = self(frame, detections.xyxy, "xyxy", color)
        data = {**detections.data, "embedding": embeddings, "embedding_refused": refused}
        return dataclasses.replace(detections, data=data)

    def _of_length_1(self, found: FrameEmbeddings) -> np.ndarray:
        """Return embeddings in which refused boxes have directions unlike all others and one another."""
        embeddings = found.embeddings.copy()
        random = self._random.standard_normal((int(found.refused.sum()), embeddings.shape[1]))
        embeddings[found.refused] = random / np.linalg.norm(random, axis=1, keepdims=True)
        return embeddings


class BoxmotEncoder:
    """A `FrameEncoder` as `AppearanceEncoder` of BoxMOT's pipelines, and `reid_model` of its trackers.

    BoxMOT refuses frames in which a box has no embedding. Refused boxes therefore get a direction that is
    unlike all embeddings, so that they are matched by their place.
    """

    def __init__(self, encode: FrameEncoder) -> None:
        self._encode = encode

    @property
    def embedding_dim(self) -> int:
        """Dimensions of an embedding."""
        return self._encode.dimensions

    @property
    def requirements(self) -> Any:
        """Say that the encoder needs no masks."""
        from boxmot.reid.protocols import EncoderRequirements

        return EncoderRequirements()

    def encode(self, frames: Sequence[Any], detections: Sequence[Any]) -> list[torch.Tensor]:
        """Embed the detections of frames.

        Args:
            frames: `boxmot.structures.Frame` each, RGB.
            detections: `boxmot.structures.Detections` of each frame.

        Returns:
            `(N, D)` float32 on the CPU for each frame.

        Raises:
            UserError: boxes are rotated, or there are not as many frames as detections.
        """
        import torch

        if len(frames) != len(detections):
            raise UserError(f"There are {len(frames)} frames and {len(detections)} detections; give as many.")
        answer = []
        for frame, found in zip(frames, detections, strict=True):
            boxes = _upright(found.geometry.values.numpy())
            pixels = frame.image.permute(1, 2, 0).numpy()
            embeddings = self._encode(pixels, boxes, "xyxy", "rgb")
            answer.append(torch.from_numpy(self._encode._of_length_1(embeddings)))
        return answer

    def get_features(self, boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Embed boxes `(N, 4)` xyxy of a BGR frame, as the backends that BoxMOT's trackers call."""
        return self._encode._of_length_1(self._encode(image, _upright(np.asarray(boxes)), "xyxy", "bgr"))


def _upright(boxes: np.ndarray) -> np.ndarray:
    if boxes.ndim == 2 and boxes.shape[1] == 5:
        raise UserError("Rotated boxes cannot be embedded; track with a model for detection.")
    return boxes


def pixels_inside(edges: Sequence[float] | np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a box inside a frame; they may be empty.

    Args:
        edges: left, top, right and bottom, in pixels; finite.
        size: height and width of the frame.
    """
    height, width = size
    left, top, right, bottom = (
        round(min(max(float(edge), 0.0), float(limit)))
        for edge, limit in zip(edges, (width, height, width, height), strict=True)
    )
    return slice(top, bottom), slice(left, right)


def sharpness(crop: np.ndarray) -> float:
    """Return how sharp a crop `(H, W, 3)` uint8 is, see `FrameEncoder`: about 1 if sharp, 0 if one colour."""
    grey: np.ndarray = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_BGR2GRAY).astype(np.float32)
    height, width = grey.shape
    averaged = max(1.0, height / _SHARPNESS_ROWS) ** 2
    if averaged > 1:
        size = (max(1, round(width * _SHARPNESS_ROWS / height)), _SHARPNESS_ROWS)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    variance = float(grey.var())
    if variance < 1e-6:
        return 0.0
    return max(0.0, float(cv2.Laplacian(grey, cv2.CV_32F).var()) - _ROUNDING / averaged) / variance


def _opened(model: Any) -> tuple[Callable[[list[np.ndarray]], np.ndarray], int | None]:
    """Return a function from RGB crops to embeddings, and the length of an embedding, if known."""
    if isinstance(model, (str, os.PathLike)):
        text = os.fspath(model)
        if text.partition("://")[0] in ("http", "https", "grpc", "grpcs") and "://" in text:
            raise UserError(
                f"{one_line(text)} is the address of a server; give a san_tf.serving.client.Client of it."
            )
        if Path(text).suffix in SUFFIXES.values():
            model = open_session(text)
        elif Path(text).is_dir():
            files = sorted(path for path in Path(text).iterdir() if path.suffix in SUFFIXES.values())
            if files:
                raise UserError(
                    f"{text} holds files for several runtimes; name one of them, such as {files[0]}."
                )
    if isinstance(model, Session):
        return model.embed_crops, model.dimensions
    if not isinstance(model, (str, os.PathLike)):
        from san_tf.serving.client import Client

        if isinstance(model, Client):
            return lambda crops: model.embed([png_file(crop) for crop in crops]), None
        if not hasattr(model, "embed") and not hasattr(model, "predict"):
            raise UserError(f"The model is a {type(model).__name__}; {_MODELS}.")
    return _with_tensorflow(model)


def _with_tensorflow(model: Any) -> tuple[Callable[[list[np.ndarray]], np.ndarray], int]:
    try:
        import keras

        from san_tf.embedding.encoder_loading import LoadedEncoder, load_encoder
    except ImportError as error:
        raise UserError(
            f"{one_line(model)} needs TensorFlow, which cannot be imported ({one_line(error)}); install it, "
            "or give a file of san-tf export-runtime, such as encoder.onnx."
        ) from error
    if not isinstance(model, (str, os.PathLike, LoadedEncoder, keras.Model)):
        raise UserError(f"The model is a {type(model).__name__}; {_MODELS}.")
    encoder = model if isinstance(model, LoadedEncoder) else load_encoder(model)

    def embed(crops: list[np.ndarray]) -> np.ndarray:
        # As files, which the network resizes one by one: arrays of one batch would have to be of one size.
        return encoder.embed([png_file(crop) for crop in crops], batch_size=_CROPS)

    return embed, encoder.dimensions


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(repr, choices))}; received {value!r}.")


def _checked_frame(frame: Any) -> np.ndarray:
    """Return the frame, after checking that it is `(H, W, 3)` uint8."""
    if frame is None:
        raise UserError(
            "The frame is None, as OpenCV returns for a file or stream that it cannot read; check its path."
        )
    if not isinstance(frame, np.ndarray) or isinstance(frame, np.ma.MaskedArray):
        kind = type(frame).__name__
        if hasattr(frame, "convert") and hasattr(frame, "mode"):
            advice = 'a PIL image is RGB: give np.asarray(image.convert("RGB")) and color="rgb"'
        elif isinstance(frame, np.ma.MaskedArray):
            advice = "give frame.filled(0)"
        else:
            advice = "give np.asarray(frame), and its order of colours with color="
        raise UserError(f"A frame must be an array of uint8 (H, W, 3); received a {kind}: {advice}.")
    if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
        return frame
    if frame.dtype.kind == "f":
        advice = "if it is 0 to 1, give (frame * 255).round().astype(np.uint8)"
    elif frame.dtype != np.uint8:
        advice = "give 8 bits a colour, as OpenCV reads frames"
    elif frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 1):
        advice = "if the camera is grey, give cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
    elif frame.ndim == 4:
        advice = "give one frame at a time"
    elif frame.ndim == 3 and frame.shape[2] == 4:
        advice = "leave the transparency out, frame[..., :3]"
    elif frame.ndim == 3 and frame.shape[0] == 3:
        advice = "put the colours last, frame.transpose(1, 2, 0)"
    else:
        advice = "give an image with pixels and three colours"
    raise UserError(f"A frame must be uint8 (H, W, 3); received {frame.dtype} {frame.shape}: {advice}.")


def _edges(boxes: Any, format: str) -> np.ndarray:
    """Return the left, top, right and lower edges `(N, 4)` float64 of boxes in a format."""
    _check_choice("format", format, tuple(_FORMATS))
    kind = type(boxes).__name__
    if hasattr(boxes, "xyxy"):
        raise UserError(f'Boxes must be numbers (N, 4); received {kind}: give boxes.xyxy with format="xyxy".')
    if isinstance(boxes, np.ma.MaskedArray):
        raise UserError("Boxes must be numbers (N, 4) without a mask; leave the masked ones out.")
    try:
        array = np.asarray(boxes)
    except Exception as error:  # lists of different lengths, tensors on another device, any object
        raise UserError(
            f"Boxes must be numbers (N, 4); received {kind} ({one_line(error, 100)}); give a list of boxes, "
            "or tensor.cpu()."
        ) from error
    if array.shape in ((0,), (0, 0), (0, 4)):
        return np.empty((0, 4))
    if array.dtype.kind not in "iuf":
        given = kind if array.dtype == object else f"{array.dtype} {array.shape}"
        raise UserError(f"Boxes must be numbers (N, 4): {_FORMATS[format]}; received {given}.")
    if array.ndim != 2 or array.shape[1] != 4:
        advice = ""
        if array.shape == (4,):
            advice = ": put a single box into a list, [box]"
        elif array.ndim == 2 and array.shape[1] > 4:
            advice = ": if the box comes first, give boxes[:, :4]"
        raise UserError(f"Boxes must be (N, 4): {_FORMATS[format]}; received {array.shape}{advice}.")
    edges = array.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if format == "xywh":
            edges[:, :2] -= edges[:, 2:] / 2
        if format != "xyxy":
            edges[:, 2:] += edges[:, :2]
    return edges
