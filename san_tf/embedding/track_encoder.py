"""Tracks of a camera with one embedding each, live or in bulk: `TrackEncoder`, and files of tracks."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.embedding.frames import BoxFormat, ColorOrder, FrameEncoder, sharpness
from san_tf.embedding.video import VideoFrame, check_end, shown_source, video_frames
from san_tf.errors import UserError, one_line

if TYPE_CHECKING:
    from san_tf.embedding.tracks import Tracks

# Rows and sharpness of a crop of full quality.
_ROWS, _SHARP = 128.0, 0.1
# Weight of the worst crop, so that a track of bad crops still has a direction.
_LEAST = 1e-3
# Pixels in memory until they are embedded.
_PENDING_BYTES = 64 * 2**20
_KEY = re.compile(r"(.*)#([0-9]+)@(-?[0-9]+\.[0-9]{3})\+([0-9]+\.[0-9]{3})", re.DOTALL)
_COLUMNS: dict[str, type] = {
    "camera": str, "track": np.int64, "first": np.float64, "last": np.float64, "boxes": np.int64,
    "crops": np.int64, "quality": np.float64,
}  # fmt: skip
_FORMAT = "san_tf tracks 1"
_MOST_LISTED = 1000

# Boxes `(N, 4)` xyxy and ids `(N,)` of a frame; confidences `(N,)` may follow.
Tracker = Callable[[np.ndarray], Sequence[Any]]


class Track(NamedTuple):
    """A person's way through the view of a camera.

    Attributes:
        camera: name of the camera.
        track: the tracker's number of the person at this camera.
        first: time of the first box in seconds.
        last: time of the last box.
        boxes: number of boxes.
        crops: number of crops in the embedding.
        quality: quality of the best crop, in (0, 1].
        embedding: `(D,)` float32 of length 1.
    """

    camera: str
    track: int
    first: float
    last: float
    boxes: int
    crops: int
    quality: float
    embedding: np.ndarray

    @property
    def key(self) -> str:
        """Unique name, such as `door#7@12.400+3.200`: camera, number, first time and length in seconds."""
        return f"{self.camera}#{self.track}@{self.first:.3f}+{max(0.0, self.last - self.first):.3f}"


def times_of_key(key: str) -> tuple[float, float] | None:
    """Return first and last time of a track by its key; None if the key is another one."""
    found = _KEY.fullmatch(key)
    return (float(found[3]), float(found[3]) + float(found[4])) if found else None


@dataclass(eq=False)
class _Crop:
    time: float
    quality: float
    pixels: np.ndarray | None
    embedding: np.ndarray | None = None


@dataclass(eq=False)
class _Open:
    """A track that may go on; its crops are in the order of time."""

    first: float
    last: float
    boxes: int = 0
    crops: list[_Crop] = field(default_factory=list)


class TrackEncoder:
    """Collects the boxes of a camera's tracks and gives each track one embedding.

    The embedding is the mean of the best crops, weighted by their quality and scaled to length 1. Of crops
    closer together than `spacing`, the best counts; of the others, the `best` ones. The quality of a crop is
    a product of numbers in 0..1:

    - rows in the frame / 128, at most 1;
    - sharpness (see `FrameEncoder`) / 0.1, at most 1;
    - share of the box inside the frame;
    - share of the box that the most covering box leaves free, of those that reach lower in the frame and so
      are nearer to the camera;
    - confidence, if it is given.

    Crops that `FrameEncoder` refuses are left out. Memory holds the best crops of the tracks that go on.

    Args:
        encode: encoder of the crops.
        camera: name of the camera, for `Track.camera`.
        best: most crops in an embedding.
        spacing: shortest time between two of these crops, in seconds.
        gap: a track without a box for this many seconds is finished.

    Attributes:
        refused: numbers of boxes that gave no crop, by reason.
        without: number of finished tracks without any crop; they have no embedding.
        damaged: problems of frames that could not be read, by name; at most 1,000 are listed.
        frames: number of frames.
        damaged_frames: number of frames that could not be read.

    Raises:
        UserError: a value is out of range.

    Example:
        >>> door = TrackEncoder(FrameEncoder("encoder.onnx"), "door")
        >>> for track in door.follow("rtsp://camera/1", tracker):  # tracker(frame) -> boxes, ids
        ...     print(track.key, track.embedding.shape)
        door#7@1790000012.400+3.200 (512,)
    """

    def __init__(
        self, encode: FrameEncoder, camera: str, best: int = 8, spacing: float = 0.4, gap: float = 5.0
    ) -> None:
        if not isinstance(camera, str) or not camera.strip() or not camera.isprintable() or len(camera) > 200:
            raise UserError(f"A camera needs a printable name, such as door; received {one_line(camera)!r}.")
        if isinstance(best, bool) or not isinstance(best, int) or best < 1:
            raise UserError(f"best must be a number of crops from 1; received {best!r}.")
        for name, value in (("spacing", spacing), ("gap", gap)):
            if not isinstance(value, (int, float)) or not value >= 0:
                raise UserError(f"{name} must be a number of seconds from 0; received {value!r}.")
        self.camera, self._encode = camera, encode
        self._best, self._spacing, self._gap = best, spacing, gap
        self._open: dict[int, _Open] = {}
        self._now = -math.inf
        self._pending = 0
        self.refused: Counter[str] = Counter()
        self.without = self.frames = self.damaged_frames = 0
        self.damaged: dict[str, str] = {}

    def update(
        self,
        time: float,
        frame: np.ndarray,
        boxes: Any,
        ids: Any,
        confidences: Any = None,
        format: BoxFormat = "xyxy",
        color: ColorOrder = "bgr",
    ) -> list[Track]:
        """Add the boxes of a frame.

        Args:
            time: of the frame in seconds; it never goes back.
            frame: `(H, W, 3)` uint8.
            boxes: `(N, 4)` numbers.
            ids: `(N,)` whole numbers of the tracker; boxes of negative ids, and of ids that the frame has
                twice, are left out.
            confidences: `(N,)` in 0..1; None where unknown.
            format: of the boxes, see `FrameEncoder`.
            color: order of the frame's colours.

        Returns:
            The tracks that are finished, because they had no box for `gap` seconds.

        Raises:
            UserError: a time goes back, numbers do not fit together, or as for `FrameEncoder`.
        """
        if not isinstance(time, (int, float, np.number)) or not math.isfinite(time):
            raise UserError(f"The time of a frame must be a number of seconds; received {time!r}.")
        if time < self._now:
            raise UserError(
                f"The time of a frame, {time:.3f}, is before that of the last one, {self._now:.3f}; give "
                "frames in their order."
            )
        # Everything is checked before anything changes.
        crops = self._encode.crops(frame, boxes, format, color)
        numbers = _ids(ids, len(crops))
        weights = _confidences(confidences, len(crops))
        edges = _corners(boxes, format, len(crops))
        self._now = float(time)
        finished = self.finish([one for one, track in self._open.items() if time - track.last > self._gap])
        self.frames += 1
        repeated = {number for number, count in Counter(numbers).items() if count > 1}
        for place, (number, crop) in enumerate(zip(numbers, crops, strict=True)):
            if number < 0 or number in repeated:
                self.refused["has no id" if number < 0 else "has an id that the frame has twice"] += 1
                continue
            track = self._open.setdefault(number, _Open(self._now, self._now))
            track.last = self._now
            track.boxes += 1
            if isinstance(crop, str):
                self.refused[_kind(crop)] += 1
                continue
            quality = weights[place] * crop_quality(crop, edges, place)
            self._keep(track, _Crop(self._now, max(quality, _LEAST), crop))
        if self._pending > _PENDING_BYTES:
            self._embed(self._open.values())
        return finished

    def skip(self, frame: VideoFrame, name: str = "") -> None:
        """Count a frame that could not be read.

        Args:
            frame: the frame, without pixels.
            name: of the video, for the list.
        """
        self.frames += 1
        self.damaged_frames += 1
        if len(self.damaged) < _MOST_LISTED:
            self.damaged[f"{name or self.camera}, frame {frame.number}"] = frame.problem

    def current(self) -> list[Track]:
        """Return the tracks that go on, with their embeddings so far."""
        self._embed(self._open.values())
        return [self._track(number, track) for number, track in self._open.items() if track.crops]

    def finish(self, ids: Iterable[int] | None = None) -> list[Track]:
        """Finish tracks and return them.

        Args:
            ids: the tracker's numbers; None for all.
        """
        numbers = [number for number in (list(self._open) if ids is None else ids) if number in self._open]
        self._embed([self._open[number] for number in numbers])
        done = [(number, self._open.pop(number)) for number in numbers]
        self.without += sum(not track.crops for _, track in done)
        return [self._track(number, track) for number, track in done if track.crops]

    def follow(
        self, source: str | os.PathLike[str] | Iterable[VideoFrame], tracker: Tracker, **options: Any
    ) -> Iterator[Track]:
        """Track the people of a video, a folder of frames or a stream, and yield finished tracks.

        Args:
            source: as for `san_tf.embedding.video.video_frames`, or its frames.
            tracker: takes a frame `(H, W, 3)` uint8 BGR; returns boxes `(N, 4)` xyxy in pixels, ids `(N,)`
                and, if known, confidences `(N,)`.
            **options: `fps`, `start`, `patience` and `tell` of `video_frames`.

        Yields:
            Tracks, as soon as they are finished; at the end those that are left, also if a stream is lost.

        Raises:
            UserError: as for `update` and `video_frames`.
        """
        if not callable(tracker):
            raise UserError(f"A tracker is a function from a frame to boxes and ids; received {tracker!r}.")
        frames = video_frames(source, **options) if isinstance(source, (str, os.PathLike)) else source
        name = shown_source(source) if isinstance(source, (str, os.PathLike)) else ""
        lost: UserError | None = None
        try:
            for frame in frames:
                if frame.pixels is None:
                    self.skip(frame, name)
                    continue
                found = tracker(frame.pixels)
                if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
                    raise UserError(
                        f"The tracker returned {one_line(type(found).__name__)}; it must return boxes (N, 4) "
                        "xyxy, ids (N,) and, if known, confidences (N,)."
                    )
                # Clocks may be set back while a stream runs.
                yield from self.update(max(frame.time, self._now), frame.pixels, *found)
        except UserError as error:
            lost = error
        yield from self.finish()
        if lost is not None:
            raise lost

    def embed_video(
        self,
        video: str | os.PathLike[str],
        tracks: Tracks | Mapping[int, Sequence[Any]],
        start: float = 0.0,
        fps: float | None = None,
    ) -> Iterator[Track]:
        """Yield the tracks of a video or a folder of frames whose boxes a tracker wrote to a file.

        Args:
            video: a video file or a folder of frames.
            tracks: from `read_tracks`. A track ends with its last box there, whatever `gap` is.
            start: time of the first frame in seconds.
            fps: frames in a second; None for what the file says, and 25 for folders.

        Raises:
            UserError: the video cannot be read, or the tracks go far beyond its end.
        """
        by_frame: dict[int, list[tuple[int, Any]]] = {}
        ends: dict[int, list[int]] = {}
        for number, boxes in tracks.items():
            for box in boxes:
                by_frame.setdefault(box.frame, []).append((number, box))
            ends.setdefault(max(box.frame for box in boxes), []).append(number)
        last, count = max(by_frame, default=0), 0
        gap, self._gap = self._gap, math.inf
        try:
            for frame in video_frames(video, fps, start):
                count = frame.number
                found = by_frame.get(count, [])
                if frame.pixels is None:
                    self.skip(frame, str(video))
                else:
                    boxes = [box[1:] for _, box in found]
                    self.update(frame.time, frame.pixels, boxes, [one for one, _ in found], None, "ltwh")
                yield from self.finish(ends.get(count, ()))
            check_end(video, count, last)
            yield from self.finish()
        finally:
            self._gap = gap

    def _keep(self, track: _Open, crop: _Crop) -> None:
        """Keep a crop if it is one of the best, and of the best within `spacing`."""
        near = [other for other in track.crops if abs(other.time - crop.time) < self._spacing]
        if any(other.quality >= crop.quality for other in near):
            return
        kept = [other for other in track.crops if other not in near]
        dropped = near
        if len(kept) >= self._best:
            worst = min(kept, key=lambda other: other.quality)
            if worst.quality >= crop.quality:
                return
            kept.remove(worst)
            dropped = [*near, worst]
        self._pending -= sum(other.pixels.nbytes for other in dropped if other.pixels is not None)
        # A copy, because a view would keep the whole frame.
        crop.pixels = np.ascontiguousarray(crop.pixels).copy()
        self._pending += crop.pixels.nbytes
        track.crops = [*kept, crop]

    def _embed(self, tracks: Iterable[_Open]) -> None:
        """Embed the crops of tracks that have not been embedded, in one batch."""
        waiting = [crop for track in tracks for crop in track.crops if crop.pixels is not None]
        if not waiting:
            return
        rows = self._encode.embed_crops([crop.pixels for crop in waiting if crop.pixels is not None])
        for crop, row in zip(waiting, rows, strict=True):
            self._pending -= 0 if crop.pixels is None else crop.pixels.nbytes
            crop.pixels, crop.embedding = None, row

    def _track(self, number: int, track: _Open) -> Track:
        weights = np.array([crop.quality for crop in track.crops])
        rows = np.array([crop.embedding for crop in track.crops], np.float64)
        mean = weights @ rows
        mean /= max(float(np.linalg.norm(mean)), 1e-12)
        return Track(
            self.camera, number, track.first, track.last, track.boxes, len(rows), float(weights.max()),
            mean.astype(np.float32),
        )  # fmt: skip


def crop_quality(crop: np.ndarray, edges: np.ndarray, place: int) -> float:
    """Return the quality of a crop, see `TrackEncoder`, without its confidence.

    Args:
        crop: `(H, W, 3)` uint8, the part of the box inside the frame.
        edges: `(N, 4)` xyxy of all boxes of the frame.
        place: number of this box.
    """
    left, top, right, bottom = edges[place]
    area = (right - left) * (bottom - top)
    wide = np.minimum(edges[:, 2], right) - np.maximum(edges[:, 0], left)
    high = np.minimum(edges[:, 3], bottom) - np.maximum(edges[:, 1], top)
    nearer = edges[:, 3] > bottom
    covered = np.where(nearer, np.maximum(wide, 0) * np.maximum(high, 0), 0.0).max() / area
    inside = min(1.0, crop.shape[0] * crop.shape[1] / area)
    size, sharp = min(1.0, crop.shape[0] / _ROWS), min(1.0, sharpness(crop) / _SHARP)
    return float(size * sharp * inside * (1.0 - min(1.0, covered)))


def _corners(boxes: Any, format: str, count: int) -> np.ndarray:
    edges = np.array(boxes, np.float64).reshape(count, 4)
    if format == "xywh":
        edges[:, :2] -= edges[:, 2:] / 2
    if format != "xyxy":
        edges[:, 2:] += edges[:, :2]
    # Boxes that are not finite cover nobody.
    edges[~np.isfinite(edges).all(axis=1)] = 0.0
    return edges


def _ids(ids: Any, count: int) -> list[int]:
    try:
        array = np.asarray(ids if ids is not None else [])
        numbers = array.astype(np.int64)
        fits = array.shape == (count,) or (count == 0 and array.size == 0)
        fits = fits and (array.size == 0 or (array.dtype.kind in "iuf" and bool((numbers == array).all())))
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise UserError(
            f"There are {count} boxes; give as many ids, whole numbers (-1 for none); received "
            f"{one_line(ids, 60)}."
        )
    return [int(number) for number in numbers.reshape(-1)]


def _confidences(confidences: Any, count: int) -> np.ndarray:
    if confidences is None:
        return np.ones(count)
    try:
        array = np.asarray(confidences, np.float64)
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if array.size == count == 0:
        return np.ones(0)
    if array.shape != (count,) or not ((array >= 0) & (array <= 1)).all():
        raise UserError(
            f"There are {count} boxes; give as many confidences in 0..1; received "
            f"{one_line(confidences, 60)}."
        )
    return array


def _kind(reason: str) -> str:
    """Return the reason of a refused box without its numbers."""
    if reason.startswith("is blurred"):
        return "is blurred"
    return "is too small" if "pixels inside the frame" in reason else reason


def save_tracks(
    path: str | os.PathLike[str], tracks: Sequence[Track], notes: Mapping[str, Any] | None = None
) -> None:
    """Write tracks to a file, complete or not at all.

    Args:
        path: `.npz` for everything, or `.csv` for the facts without the embeddings.
        tracks: one or more.
        notes: JSON values, such as the encoder; an `.npz` keeps them.

    Raises:
        UserError: another suffix, no tracks, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    check_tracks_name(path)
    if not tracks:
        raise UserError(f"No track has an embedding, so {path} is not written.")
    facts = [(track.key, *track[:7]) for track in tracks]
    with atomic_file(path) as temporary:
        if suffix == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("key", *_COLUMNS), *facts])
            return
        columns: dict[str, Any] = {
            name: np.array([track[place] for track in tracks], kind)
            for place, (name, kind) in enumerate(_COLUMNS.items())
        }
        described = json.dumps({"format": _FORMAT, **(notes or {})})
        features = np.stack([track.embedding for track in tracks]).astype(np.float32)
        with temporary.open("wb") as file:
            np.savez(file, features=features, notes=np.array(described), **columns)


def check_tracks_name(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` unless a file of tracks can have this name."""
    if Path(path).suffix.lower() not in (".npz", ".csv"):
        raise UserError(f"{path} is not the name of a file of tracks; let it end in .npz or .csv.")


def load_tracks(path: str | os.PathLike[str]) -> tuple[list[Track], dict[str, Any]]:
    """Read tracks and notes that `save_tracks` wrote to an `.npz`.

    Raises:
        UserError: the file is missing, damaged, or of another kind.
    """
    if Path(path).suffix.lower() == ".csv":
        raise UserError(f"{path} holds no embeddings; write the tracks to an .npz.")
    if not Path(path).is_file():
        raise UserError(f"There are no tracks {path}; write them with `san-tf tracks`.")
    try:
        with np.load(path, allow_pickle=False) as stored:
            notes = json.loads(str(stored["notes"]))
            if notes.pop("format") != _FORMAT:
                raise ValueError("its format is another one")
            features = stored["features"]
            columns = [stored[name] for name in _COLUMNS]
        lengths = {len(column) for column in columns} | {len(features)}
        kinds = [np.dtype(kind).kind for kind in _COLUMNS.values()]
        if [column.dtype.kind for column in columns] != kinds or len(lengths) != 1:
            raise ValueError("its columns do not fit together")
        if features.dtype != np.float32 or features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError("its embeddings are not finite float32")
        rows = zip(*(column.tolist() for column in columns), features, strict=True)
        tracks = [Track(*row) for row in rows]
        if not all(math.isfinite(track.first) and track.first <= track.last < math.inf for track in tracks):
            raise ValueError("its times are impossible")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a whole file of tracks ({one_line(error, 80)}); write it anew with `san-tf "
            "tracks`."
        ) from error
    return tracks, notes
