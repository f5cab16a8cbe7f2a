"""Embeds the tracks of people in videos: the mean embedding of crops along each track."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from san_tf.embedding.bulk import Encoder, Progress, shown
from san_tf.embedding.feature_table import Embedded, FeatureTable
from san_tf.embedding.frames import pixels_inside
from san_tf.embedding.video import MAX_FRAME_BYTES, check_end, video_frames
from san_tf.errors import UserError
from san_tf.image_formats import read_regular, stamp_of
from san_tf.serving.runtime_sessions import png_file

BoxForm = Literal["sizes", "corners"]
_COLUMNS = "frame, id, left, top, width, height"
# Names of the first six columns, as programs write them in a first line.
_TITLES: tuple[frozenset[str], ...] = (
    frozenset({"frame", "frameid", "framenumber", "frameno", "frameindex", "frameidx"}),
    frozenset({"id", "trackid", "objectid", "targetid", "track", "objid", "trackerid", "identity"}),
    frozenset({"left", "x", "x1", "xmin", "bbleft", "bboxleft", "boxleft", "xleft", "tlx"}),
    frozenset({"top", "y", "y1", "ymin", "bbtop", "bboxtop", "boxtop", "ytop", "tly"}),
    frozenset({"width", "w", "bbwidth", "bboxwidth", "boxwidth"}),
    frozenset({"height", "h", "bbheight", "bboxheight", "boxheight"}),
)
_CORNER_TITLES = frozenset(
    {"x2", "y2", "xmax", "ymax", "right", "bottom", "bbright", "bbbottom", "brx", "bry"}
)
# Boxes needed to decide by their variance whether they are corners.
_ENOUGH = 8
# Range of height divided by width of people who stand or walk.
_SLENDER = (1.75, 4.0)
_OUTSIDE = "lies outside the picture"


class Box(NamedTuple):
    """Bounding box of a track's person in a frame; it may reach out of the frame.

    Attributes:
        frame: number of the frame, from 1.
        left: left edge, in pixels.
        top: upper edge, in pixels.
        width: in pixels.
        height: in pixels.
    """

    frame: int
    left: float
    top: float
    width: float
    height: float


class Tracks(dict[int, list[Box]]):
    """Boxes by track, in the order of the frames.

    Attributes:
        left_out: problems of lines without a usable box, by file and line.
        passed_over: number of boxes with confidence 0, which MOT files mark to be ignored.
    """

    def __init__(
        self, boxes: Mapping[int, list[Box]], left_out: Mapping[str, str], passed_over: int = 0
    ) -> None:
        super().__init__(boxes)
        self.left_out = dict(left_out)
        self.passed_over = passed_over


def read_tracks(path: str | os.PathLike[str], first_frame: int = 1, boxes: BoxForm | None = None) -> Tracks:
    """Read tracks in the format of the MOT Challenge.

    Each line is one box: `frame, id, left, top, width, height`, ... Lines without a box (a size of 0, an id
    of -1, a cell that is not a number) are left out and listed, unless they are most lines. A first line of
    column names is skipped.

    Args:
        path: path of the file. Boxes whose seventh number, the confidence, is 0 are ignored, as in MOT.
        first_frame: number of the first frame in the file: 1, or 0 for some trackers.
        boxes: whether the fifth and sixth number are sizes, or the right and lower corner. None means sizes,
            and raises an error if they look like corners.

    Returns:
        Boxes by track, in the order of the frames, which count from 1.

    Raises:
        UserError: the file is missing, empty or of another format, has a frame 0 with `first_frame` 1, holds
            detections without ids, or its boxes look like corners.

    Example:
        >>> read_tracks("MOT17-04/gt/gt.txt")[1][0]
        Box(frame=1, left=1363.0, top=569.0, width=103.0, height=241.0)
    """
    rows = _rows(Path(path))
    found: dict[tuple[int, int], dict[Box, str]] = {}
    left_out: dict[str, str] = {}
    passed_over = unnamed = 0
    for line, row in rows:
        try:
            track, box, confidence = _box(row, first_frame, boxes)
        except _FrameZeroError:
            raise UserError(
                f"{path}, line {line}: there is a frame 0, but the MOT Challenge counts frames from 1; say "
                "--first_frame 0 if this tracker counts from 0."
            ) from None
        except ValueError as error:
            left_out[f"{path}, line {line}"] = str(error)
            continue
        if track < 0:
            unnamed += 1
            left_out[f"{path}, line {line}"] = "has a negative id, which means that nobody was recognised"
        elif confidence == 0:
            passed_over += 1
        else:
            found.setdefault((track, box.frame), {}).setdefault(box, f"{path}, line {line}")
    # If an id is in two places of a frame, neither box is certain.
    for lines in found.values():
        if len(lines) > 1:
            left_out |= dict.fromkeys(lines.values(), "has an id and frame that another line has, too")
    told_boxes = [(track, next(iter(lines))) for (track, _), lines in found.items() if len(lines) == 1]
    if unnamed and not told_boxes:
        raise UserError(
            f"{path} holds detections, not tracks: every id is negative; run a tracker over them first."
        )
    if len(left_out) - unnamed > len(rows) / 2:
        where, problem = next(iter(left_out.items()))
        raise UserError(f"{where} {problem}; lines must be {_COLUMNS}, as the MOT Challenge writes tracks.")
    if not told_boxes:
        raise UserError(f"{path} holds no track; give a tracker's output for this video.")
    if boxes is None and _look_like_corners([box for _, box in told_boxes]):
        raise UserError(
            f"{path}: the fifth and sixth number look like the right and lower corner of the boxes, not like "
            "their width and height; say what they are (--boxes corners, or --boxes sizes)."
        )
    tracks: dict[int, list[Box]] = {}
    for track, box in sorted(told_boxes):
        tracks.setdefault(track, []).append(box)
    return Tracks(tracks, left_out, passed_over)


class _FrameZeroError(ValueError):
    """A frame 0 in a file whose frames count from 1."""


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return lines with cells, with their numbers; a first line of column names is skipped."""
    try:
        text = read_regular(path, MAX_FRAME_BYTES).decode("utf-8-sig")
        rows = [
            (number, row)
            for number, row in enumerate(csv.reader(text.splitlines()), 1)
            if any(map(str.strip, row))
        ]
    except (OSError, ValueError, csv.Error) as error:  # ValueError: a pipe, or not UTF-8
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The tracks {path} cannot be read ({reason}); check the file.") from error
    if not rows:
        return []
    number, first = rows[0]
    if len(first) == 1:
        other = next((name for sign, name in ((";", "semicolons"), ("\t", "tabs")) if sign in first[0]), None)
        if other or len(first[0].split()) > 5:
            raise UserError(
                f"{path}, line {number}: its cells are separated by {other or 'spaces'}; the MOT Challenge "
                f"separates {_COLUMNS} by commas."
            )
    if any(_is_number(cell) for cell in first):
        return rows
    titles = [re.sub("[^a-z0-9]", "", cell.lower()) for cell in first[:6]]
    if _CORNER_TITLES & set(titles[4:]) and all(
        title in known for title, known in zip(titles[:4], _TITLES, strict=False)
    ):
        raise UserError(
            f"{path}, line {number}: its boxes are corners ({', '.join(first[:6])}); remove this line and "
            "say --boxes corners."
        )
    if len(titles) < 6 or any(title not in known for title, known in zip(titles, _TITLES, strict=True)):
        raise UserError(
            f"{path}, line {number}: its columns are {', '.join(cell.strip() for cell in first[:8])}; they "
            f"must be {_COLUMNS}, in this order."
        )
    return rows[1:]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _box(row: Sequence[str], first_frame: int, boxes: BoxForm | None) -> tuple[int, Box, float]:
    """Return track, box and confidence of a line; ValueError with half a sentence if it holds none."""
    if len(row) < 6:
        raise ValueError(f"has {len(row)} cells, not {_COLUMNS}")
    frame, track = _whole("frame", row[0]), _whole("id", row[1])
    try:
        left, top, width, height = (float(cell) for cell in row[2:6])
        confidence = float(row[6]) if len(row) > 6 and row[6].strip() else 1.0
    except ValueError:
        raise ValueError("has a cell that is not a number") from None
    if not all(map(math.isfinite, (left, top, width, height))):
        raise ValueError("has a cell that is not a finite number")
    if frame == 0 and first_frame == 1:
        raise _FrameZeroError
    if frame < 0:
        raise ValueError("has a negative frame")
    if boxes == "corners":
        width, height = width - left, height - top
    if min(width, height) <= 0:
        raise ValueError("has a box without a size")
    return track, Box(frame + 1 - first_frame, left, top, width, height), confidence


def _whole(name: str, cell: str) -> int:
    """Read a whole number, which some programs write as 7.0."""
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"has the {name} {cell.strip()[:20]!r}, which is not a number") from None
    if not value.is_integer() or abs(value) > 2**53:
        raise ValueError(f"has the {name} {cell.strip()[:20]!r}, which is not a whole number")
    return int(value)


def _look_like_corners(boxes: Sequence[Box]) -> bool:
    """Return whether the sizes of boxes look like their right and lower corners.

    Corners always lie beyond the upper left corner, and move along with it, unlike sizes. Without movement,
    they are corners if the box between corners is as slender as a person, and a box of these sizes is not.
    """
    left, top, width, height = np.array([box[1:] for box in boxes], np.float64).T
    if not (np.all(width > left) and np.all(height > top) and np.all(left >= 0) and np.all(top >= 0)):
        return False
    as_sizes = np.var(width) + np.var(height)
    as_corners = np.var(width - left) + np.var(height - top)
    if len(boxes) >= _ENOUGH and as_corners < as_sizes:
        return True
    lowest, highest = _SLENDER
    slender = [float(np.median(ratio)) for ratio in ((height - top) / (width - left), height / width)]
    return lowest <= slender[0] <= highest and not lowest <= slender[1] <= highest


def embed_videos(
    videos: Sequence[tuple[str, str]],
    encoder: Encoder,
    table: FeatureTable,
    per_track: int = 16,
    batch_size: int = 32,
    report: Callable[[Progress], None] | None = None,
    first_frame: int = 1,
    boxes: BoxForm | None = None,
    others: Counter[str] | None = None,
) -> Progress:
    """Embed the tracks of videos into a table, one part per video, and finish it.

    Args:
        videos: pairs of a video and the file of its tracks.
        encoder: encoder of the crops.
        table: where to write; finished videos are skipped.
        per_track: most crops per track.
        batch_size: crops in a batch of the encoder.
        report: called after each video.
        first_frame: as in `read_tracks`.
        boxes: as in `read_tracks`.
        others: counts the ignored boxes of confidence 0.

    Returns:
        The last progress.

    Raises:
        UserError: a video or a file of tracks cannot be used, or no track has a crop.
    """
    for video, _ in videos:
        if shown(video) != video:
            raise UserError(f"The video {shown(video)} has a name that is not UTF-8; rename it.")
    # Read all tracks before the first video is embedded.
    every = [read_tracks(tracks, first_frame, boxes) for _, tracks in videos]
    progress, began = Progress(0, 0, {}, 0.0), time.monotonic()
    for number, ((video, _), tracks) in enumerate(zip(videos, every, strict=True)):
        sources = [json.dumps([video, _stamp_of_video(Path(video)), tracks.left_out])]
        sources += [f"{track} {found}" for track, found in tracks.items()]
        left_out = table.has_part(number, sources)
        if left_out is None:
            rows, left_out = embed_tracks(video, tracks, encoder, per_track, batch_size)
            table.write_part(number, sources, rows, left_out)
        else:
            progress.resumed += len(tracks)
        progress.done += len(tracks)
        progress.embedded += sum(f"{video}#{track}" not in left_out for track in tracks)
        progress.left_out |= left_out
        if others is not None and tracks.passed_over:
            others["boxes of confidence 0"] += tracks.passed_over
        progress.seconds = time.monotonic() - began
        if report:
            report(progress)
    if progress.embedded == 0:
        table.discard()
        problems = [progress.left_out[name] for name in progress.left_out if "#" in name]
        if set(problems) <= {_OUTSIDE}:
            raise UserError("No track lies inside its video's picture; give the tracks of these videos.")
        raise UserError(f"None of {progress.done:,} tracks could be embedded; the first {problems[0]}.")
    table.finish(len(videos))
    return progress


def _stamp_of_video(video: Path) -> str:
    """Return a text that changes with a video, or a folder of frames."""
    if not video.is_dir():
        return stamp_of(video)
    return json.dumps([(path.name, stamp_of(path)) for path in sorted(video.iterdir())])


def embed_tracks(
    video: str | os.PathLike[str],
    tracks: Mapping[int, Sequence[Box]],
    encoder: Encoder,
    per_track: int = 16,
    batch_size: int = 32,
) -> tuple[list[Embedded], dict[str, str]]:
    """Embed each track of a video: the mean over evenly spread crops, scaled to length 1.

    A mean over views is steadier than one view, because people turn and are sometimes occluded. Frames that
    cannot be decoded, or are missing at the end, are left out, and so are tracks without any other frame.

    Args:
        video: a video file, or a folder with one image per frame, ordered by the numbers in their names.
        tracks: from `read_tracks`.
        encoder: encoder of the crops.
        per_track: most crops per track.
        batch_size: crops in a batch of the encoder.

    Returns:
        One row per track, named `<video>#<track>`, with the columns `track`, `first_frame`, `last_frame` and
        `crops`; and the problems of left-out tracks, frames and lines, by name.

    Raises:
        UserError: the video cannot be read, the order of its frames is unclear, or the tracks go far beyond
            its end.

    Example:
        >>> rows, left_out = embed_tracks("camera1.mp4", read_tracks("camera1.txt"), encoder)
    """
    pool = _Pool(encoder)
    left_out = dict(tracks.left_out) if isinstance(tracks, Tracks) else {}
    chosen = _chosen(tracks, per_track)
    last, number = max(chosen), 0
    lost: set[int] = set()
    for number, _, pixels, problem in video_frames(video):
        if pixels is None:
            if number in chosen:
                lost.add(number)
                left_out[f"{video}, frame {number}"] = problem
        else:
            for track, box in chosen.get(number, ()):
                crop = _crop(pixels, box)
                if crop is not None:
                    pool.add(track, crop, batch_size)
        if number == last:
            break
    check_end(video, number, last)
    for missing in range(number + 1, last + 1):
        if missing in chosen:
            lost.add(missing)
            left_out[f"{video}, frame {missing}"] = "is missing: the video ends before it"
    rows = []
    for track, (features, crops) in pool.means(tracks).items():
        name, boxes = f"{video}#{track}", tracks[track]
        if features is None:
            gone = all(box.frame in lost for box in boxes)
            left_out[name] = "is only in frames that could not be read" if gone else _OUTSIDE
            continue
        facts = {"track": track, "first_frame": boxes[0].frame, "last_frame": boxes[-1].frame, "crops": crops}
        rows.append(Embedded(name, features, {key: str(value) for key, value in facts.items()}))
    return rows, left_out


def _chosen(tracks: Mapping[int, Sequence[Box]], per_track: int) -> dict[int, list[tuple[int, Box]]]:
    """Return the tracks and boxes to crop, by frame."""
    chosen: dict[int, list[tuple[int, Box]]] = {}
    for track, boxes in tracks.items():
        for place in np.linspace(0, len(boxes) - 1, min(per_track, len(boxes))).round().astype(int):
            chosen.setdefault(boxes[place].frame, []).append((track, boxes[place]))
    return chosen


class _Pool:
    """Sums of each track's embeddings, computed in batches across tracks."""

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
        """Return the mean, scaled to length 1, and the number of crops of each track; None without crops."""
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


def _crop(frame: np.ndarray, box: Box) -> bytes | None:
    """Return the part of the box inside the frame as a PNG file; None if there is none."""
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    rows, columns = pixels_inside(edges, frame.shape[:2])
    crop = frame[rows, columns]
    return png_file(crop[..., ::-1]) if crop.size else None
