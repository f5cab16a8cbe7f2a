"""People followed through a video: crops along each track, and one embedding of all of them."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from san_tf.embedding.bulk import Encoder, Progress
from san_tf.embedding.feature_table import Embedded, FeatureTable
from san_tf.embedding.sources import IMAGES
from san_tf.errors import UserError


class Box(NamedTuple):
    """Where a track's person is in a frame.

    Attributes:
        frame: number of the frame, from 1.
        left, top, width, height: in pixels; a box may reach out of the frame.
    """

    frame: int
    left: float
    top: float
    width: float
    height: float


def read_tracks(path: str | os.PathLike[str]) -> dict[int, list[Box]]:
    """Read tracks as the MOT Challenge writes them: a line a box, `frame, id, left, top, width, height`, ...

    Args:
        path: of the file. Boxes whose seventh number, the confidence, is 0 are left out, as its authors want.

    Returns:
        Boxes by track, in the order of the frames.

    Raises:
        UserError: the file is missing, empty, or a line is none of a box.

    Example:
        >>> read_tracks("MOT17-04/gt/gt.txt")[1][0]
        Box(frame=1, left=1363.0, top=569.0, width=103.0, height=241.0)
    """
    tracks: dict[int, list[Box]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row:
                    continue
                read = _box(row)
                if read is None:
                    raise UserError(
                        f"{path}, line {number}: it is not frame, id, left, top, width, height with a size "
                        "above 0, as the MOT Challenge writes tracks."
                    )
                track, box, confidence = read
                if confidence != 0:
                    tracks.setdefault(track, []).append(box)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The tracks {path} cannot be read ({reason}).") from error
    if not tracks:
        raise UserError(f"{path} holds no track; give the file a tracker wrote of this video.")
    return {track: sorted(boxes) for track, boxes in sorted(tracks.items())}


def _box(row: Sequence[str]) -> tuple[int, Box, float] | None:
    """Track, box and confidence of a line; None if it is none."""
    try:
        frame, track, left, top, width, height = (float(cell) for cell in row[:6])
        confidence = float(row[6]) if len(row) > 6 else 1.0
    except ValueError:
        return None
    if not all(map(math.isfinite, (frame, track, left, top, width, height))):
        return None
    if frame < 1 or min(width, height) <= 0:
        return None
    return int(track), Box(int(frame), left, top, width, height), confidence


def embed_videos(
    videos: Sequence[tuple[str, str]],
    encoder: Encoder,
    table: FeatureTable,
    per_track: int = 16,
    batch_size: int = 32,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Embed the tracks of videos into a table, a part a video, and finish it.

    Args:
        videos: each video, and the file of its tracks.
        encoder: gives the embeddings of crops.
        table: where they go; videos that it has already are not read again.
        per_track: crops of a track at most.
        batch_size: crops that the encoder gets at once.
        report: called after each video.

    Raises:
        UserError: a video or a file of tracks cannot be used, or no track has a crop.
    """
    every = [read_tracks(tracks) for _, tracks in videos]  # all are looked at before the first is worked on
    progress, began = Progress(0, 0, {}, 0.0), time.monotonic()
    for number, ((video, _), tracks) in enumerate(zip(videos, every, strict=True)):
        names = [f"{video}#{track} {boxes}" for track, boxes in tracks.items()]
        left_out = table.has_part(number, names)
        if left_out is None:
            rows, left_out = embed_tracks(video, tracks, encoder, per_track, batch_size)
            table.write_part(number, names, rows, left_out)
        else:
            progress.resumed += len(tracks)
        progress.done += len(tracks)
        progress.left_out |= left_out
        progress.seconds = time.monotonic() - began
        if report:
            report(progress)
    if progress.done == len(progress.left_out):
        raise UserError("No track lies inside its video's picture; give the tracks of these videos.")
    table.finish(len(videos))
    return progress


def embed_tracks(
    video: str | os.PathLike[str],
    tracks: Mapping[int, Sequence[Box]],
    encoder: Encoder,
    per_track: int = 16,
    batch_size: int = 32,
) -> tuple[list[Embedded], dict[str, str]]:
    """Embed each track of a video: the mean over crops spread evenly along it, scaled to length 1.

    A mean over views is steadier than any of them: a person turns, and is hidden now and then.

    Args:
        video: a video file, or a folder with one image a frame (sorted by name).
        tracks: from `read_tracks`.
        encoder: gives the embeddings of crops.
        per_track: crops of a track at most.
        batch_size: crops that the encoder gets at once.

    Returns:
        A row a track, named `<video>#<track>`, with the columns `track`, `first_frame`, `last_frame` and
        `crops`; and, by that name, why a track has none.

    Raises:
        UserError: the video cannot be read, or has fewer frames than the tracks.

    Example:
        >>> rows, left_out = embed_tracks("camera1.mp4", read_tracks("camera1.txt"), encoder)
    """
    pool = _Pool(encoder)
    chosen = _chosen(tracks, per_track)
    last, number = max(chosen), 0
    for number, frame in enumerate(_frames(Path(video)), 1):
        for track, box in chosen.get(number, ()):
            crop = _crop(frame, box)
            if crop is not None:
                pool.add(track, crop, batch_size)
        if number == last:
            break
    if number < last:
        raise UserError(
            f"{video} has {number} frames, and its tracks go to frame {last}; give the tracks of this video."
        )
    rows, left_out = [], {}
    for track, (features, crops) in pool.means(tracks).items():
        name, boxes = f"{video}#{track}", tracks[track]
        if features is None:
            left_out[name] = "lies outside the picture"
            continue
        facts = {"track": track, "first_frame": boxes[0].frame, "last_frame": boxes[-1].frame, "crops": crops}
        rows.append(Embedded(name, features, {key: str(value) for key, value in facts.items()}))
    return rows, left_out


def _chosen(tracks: Mapping[int, Sequence[Box]], per_track: int) -> dict[int, list[tuple[int, Box]]]:
    """Tracks and boxes to look at, by frame."""
    chosen: dict[int, list[tuple[int, Box]]] = {}
    for track, boxes in tracks.items():
        for place in np.linspace(0, len(boxes) - 1, min(per_track, len(boxes))).round().astype(int):
            chosen.setdefault(boxes[place].frame, []).append((track, boxes[place]))
    return chosen


class _Pool:
    """Sums of the embeddings of each track, made in batches across tracks."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._waiting: list[tuple[int, bytes]] = []
        self._sums: dict[int, np.ndarray] = {}
        self._counts: dict[int, int] = {}

    def add(self, track: int, crop: bytes, batch_size: int) -> None:
        self._waiting.append((track, crop))
        if len(self._waiting) >= batch_size:
            self._embed()

    def means(self, tracks: Mapping[int, Sequence[Box]]) -> dict[int, tuple[np.ndarray | None, int]]:
        """Mean of length 1 and number of crops, by track; None where there was no crop."""
        self._embed()
        means: dict[int, tuple[np.ndarray | None, int]] = {}
        for track in tracks:
            count = self._counts.get(track, 0)
            mean = self._sums[track] / np.linalg.norm(self._sums[track]).clip(1e-12) if count else None
            means[track] = (None if mean is None else mean.astype(np.float32), count)
        return means

    def _embed(self) -> None:
        features = self._encoder.embed_each([content for _, content in self._waiting])
        for (track, _), embedding in zip(self._waiting, features, strict=True):
            if embedding is not None:
                self._sums[track] = self._sums.get(track, 0.0) + embedding.astype(np.float64)
                self._counts[track] = self._counts.get(track, 0) + 1
        self._waiting.clear()


def _frames(video: Path) -> Iterator[np.ndarray]:
    """Frames as OpenCV has them, `(H, W, 3)` uint8 BGR, one at a time."""
    if video.is_dir():
        for path in sorted(path for path in video.iterdir() if path.name.lower().endswith(IMAGES)):
            frame = cv2.imread(str(path))
            if frame is None:
                raise UserError(f"The frame {path} cannot be read; it is damaged or no image.")
            yield frame
        return
    if not video.is_file():
        raise UserError(f"The video {video} does not exist; name a video file or a folder of frames.")
    capture = cv2.VideoCapture(str(video))
    try:
        if not capture.isOpened():
            raise UserError(f"{video} is no video that OpenCV can read; convert it to MP4 (H.264).")
        while True:
            fine, frame = capture.read()
            if not fine:
                return
            yield frame
    finally:
        capture.release()


def _crop(frame: np.ndarray, box: Box) -> bytes | None:
    """The part of the box that lies in the frame, as a PNG file; None if there is none."""
    height, width = frame.shape[:2]
    top, bottom = max(0, round(box.top)), min(height, round(box.top + box.height))
    left, right = max(0, round(box.left)), min(width, round(box.left + box.width))
    if top >= bottom or left >= right:
        return None
    stored = cv2.imencode(".png", frame[top:bottom, left:right], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
    return stored.tobytes()
