"""Frames of videos, of folders of images and of live streams, in order and with their times.

Videos and streams need NumPy and OpenCV only; Pillow is imported for folders.
"""

from __future__ import annotations

import atexit
import io
import itertools
import math
import os
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from san_tf.errors import UserError, one_line

MAX_FRAME_BYTES = 256 * 2**20
_DIGITS = re.compile(r"([0-9]+)")
# Frames of a stream that wait to be processed; older ones are dropped, so that the answer is live.
_WAITING = 32
# Seconds until a stream that gives no answer counts as lost, and between the first and later attempts.
_SILENCE, _FIRST_WAIT, _LONGEST_WAIT = 10.0, 1.0, 30.0
# Longest wait for a reader whose stream is not wanted any more, while the program goes on.
_PARTING = 0.5
# Passwords in the query or path of an address, as in `?user=me&password=secret`.
_SECRETS = re.compile(r"(?i)((?:pass\w*?|pwd|psw|secret|token|auth|api_?key|key)=)[^&;#?/_]+")
_UNREADABLE = "is damaged: OpenCV cannot decode it"


class VideoFrame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: from 1.
        time: seconds since the video began, plus `start`; of a stream, seconds since 1970.
        pixels: `(H, W, 3)` uint8 BGR; None for a frame that cannot be read.
        problem: half a sentence about such a frame, else "".
    """

    number: int
    time: float
    pixels: np.ndarray | None
    problem: str = ""


def is_stream(source: str | os.PathLike[str]) -> bool:
    """Return whether a source is live: an address such as `rtsp://camera/1`, or a camera `/dev/video0`."""
    text = os.fspath(source)
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://|/dev/video", text) is not None


def shown_source(source: str | os.PathLike[str]) -> str:
    """Return a source for messages: an address without user, password and keys."""
    text = one_line(os.fspath(source))
    if "://" not in text:
        return text
    scheme, _, rest = text.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    shown = _SECRETS.sub(r"\1***", rest[host.rfind("@") + 1 :])
    return f"{scheme}://{shown}"


def video_frames(
    source: str | os.PathLike[str],
    fps: float | None = None,
    start: float = 0.0,
    patience: float = 60.0,
    tell: Callable[[str], None] | None = None,
    open_capture: Callable[[str], Any] | None = None,
) -> Iterator[VideoFrame]:
    """Yield the frames of a video file, of a folder of frames, or of a stream until it is lost for good.

    A stream is read in a thread of its own. If frames come faster than they are taken, old ones are dropped:
    at most 32 wait. After a lost connection it is opened again after 1, 2, 4 ... at most 30 seconds.

    Args:
        source: a video file, a folder with one image per frame, an address such as `rtsp://camera/1`, or a
            camera such as `/dev/video0`. A video of a known length that has an address ends with its last
            frame.
        fps: frames in a second; None for what a file says, and 25 for folders.
        start: time of the first frame of a file or folder, in seconds.
        patience: seconds without any frame after which a stream is given up.
        tell: is called with a sentence when a stream is lost, and when it is back.
        open_capture: opens a stream in place of `cv2.VideoCapture`.

    Yields:
        A `VideoFrame` for each frame, also for damaged ones. Memory holds one frame, of a stream 33.

    Raises:
        UserError: the source does not exist or cannot be read, the order of the frames of a folder is
            unclear, `fps` or `start` are impossible, or a stream gave no frame for `patience` seconds.

    Example:
        >>> for number, time, pixels, problem in video_frames("door.mp4"):
        ...     print(number, time, problem or pixels.shape)
        1 0.0 (720, 1280, 3)
    """
    if fps is not None and not 0 < fps < math.inf:
        raise UserError(f"The frames in a second must be a number above 0; received {fps}.")
    if not math.isfinite(start):
        raise UserError(f"The time of the first frame must be finite; received {start}.")
    if os.fspath(source).startswith("file://"):
        raise UserError(f"{shown_source(source)} is the address of a file; give its path.")
    if is_stream(source):
        yield from _stream(os.fspath(source), patience, tell or (lambda told: None), open_capture or _open)
    elif Path(source).is_dir():
        yield from _folder(Path(source), fps or 25.0, start)
    else:
        yield from _file(Path(source), fps, start)


def _folder(folder: Path, fps: float, start: float) -> Iterator[VideoFrame]:
    from PIL import Image

    from san_tf.data.upright import PhotographError, eight_bits, upright
    from san_tf.embedding.bulk import UNDECODABLE
    from san_tf.image_formats import read_regular

    for number, path in enumerate(frames_in_order(folder), 1):
        moment = start + (number - 1) / fps
        try:
            # Not OpenCV, which fills the missing part of a truncated file with grey.
            content = upright(read_regular(path, MAX_FRAME_BYTES))
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                pixels = np.asarray(eight_bits(image))[..., ::-1]
        except PhotographError as error:
            yield VideoFrame(number, moment, None, str(error))
        except OSError as error:
            # Pillow's own errors have no number; those of the system do.
            problem = f"cannot be read ({error.strerror})" if error.strerror else UNDECODABLE
            yield VideoFrame(number, moment, None, problem)
        except ValueError as error:
            yield VideoFrame(number, moment, None, f"cannot be read ({one_line(error, 80)})")
        except (SyntaxError, EOFError, Image.DecompressionBombError):
            yield VideoFrame(number, moment, None, UNDECODABLE)
        else:
            yield VideoFrame(number, moment, pixels)


def _file(video: Path, fps: float | None, start: float) -> Iterator[VideoFrame]:
    if not video.is_file():
        raise UserError(f"The video {video} does not exist; name a video file or a folder of frames.")
    capture = cv2.VideoCapture(str(video))
    try:
        if not capture.isOpened():
            raise UserError(f"{video} is not a video that OpenCV can read; convert it to MP4 (H.264).")
        told = capture.get(cv2.CAP_PROP_FPS)
        rate = fps or (told if 0 < told < 1000 else 25.0)
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        number = 0
        while capture.grab():
            number += 1
            fine, pixels = capture.retrieve()
            moment = start + (number - 1) / rate
            yield VideoFrame(number, moment, pixels if fine else None, "" if fine else _UNREADABLE)
        if number == 0:
            raise UserError(f"{video} has no frame that OpenCV can read; convert it to MP4 (H.264).")
        # The number in a header is an estimate for some formats.
        if number + max(2, number // 50) < promised < 2**31:
            for missing in range(number + 1, int(promised) + 1):
                problem = "is missing: the video is cut off or damaged before it"
                yield VideoFrame(missing, start + (missing - 1) / rate, None, problem)
    finally:
        capture.release()


def _open(address: str) -> Any:
    if "://" not in address:
        return cv2.VideoCapture(address)
    milliseconds = int(1000 * _SILENCE)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


class _Reader:
    """Reads a stream in a thread, and keeps the newest frames."""

    def __init__(self, address: str, tell: Callable[[str], None], open_capture: Callable[[str], Any]) -> None:
        self._address, self._tell, self._open = address, tell, open_capture
        self._frames: deque[VideoFrame] = deque(maxlen=_WAITING)
        self._news = threading.Condition()
        self._stopped = threading.Event()
        self._failed: BaseException | None = None
        self.ended = False
        # A daemon, because a capture that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="san_tf stream", daemon=True)
        self._thread.start()
        _READERS.add(self)

    def next(self, seconds: float) -> VideoFrame | None:
        """Return the oldest frame that waits; None at the end, or if none came in so many seconds."""
        with self._news:
            self._news.wait_for(lambda: self._frames or self._failed or self.ended, seconds)
            if self._frames:
                return self._frames.popleft()
            if self._failed:
                raise self._failed
            return None

    def stop(self, seconds: float = _PARTING) -> None:
        """Let the stream go, and wait so many seconds at most until it is closed."""
        self._stopped.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # handed to the thread that takes frames
            with self._news:
                self._failed = error
                self._news.notify()

    def _read(self) -> None:
        number, wait, lost = 0, _FIRST_WAIT, False
        while not self._stopped.is_set():
            capture = self._open(self._address)
            before = number
            try:
                while capture.isOpened() and not self._stopped.is_set() and self._grabbed(capture):
                    fine, pixels = capture.retrieve()
                    number += 1
                    if fine and lost:
                        self._tell(f"{shown_source(self._address)} is back.")
                        lost = False
                    if fine:
                        wait = _FIRST_WAIT
                        frame = VideoFrame(number, time.time(), pixels)
                    else:
                        frame = VideoFrame(number, time.time(), None, _UNREADABLE)
                    with self._news:
                        self._frames.append(frame)
                        self._news.notify()
                promised = capture.get(cv2.CAP_PROP_FRAME_COUNT) if number > before else 0
                # Live streams promise no number. Opened again, a file would begin anew.
                if 0 < promised < 2**31 and number - before >= promised - max(2, promised // 50):
                    with self._news:
                        self.ended = True
                        self._news.notify()
                    return
            finally:
                capture.release()
            if self._stopped.is_set():
                return
            if not lost:
                self._tell(f"{shown_source(self._address)} gives no frames; it is opened again.")
                lost = True
            self._stopped.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _grabbed(self, capture: Any) -> bool:
        """Grab the next frame; return whether there is one."""
        began = time.monotonic()
        found = bool(capture.grab())
        # After its time limit OpenCV still gives the frames in its decoder, each after the same time again.
        silent = "://" in self._address and time.monotonic() - began > 0.95 * _SILENCE
        return found and not silent


_READERS: weakref.WeakSet[_Reader] = weakref.WeakSet()


@atexit.register
def _let_streams_go() -> None:
    """Close all streams: a thread inside OpenCV aborts the process if the interpreter ends under it."""
    readers = list(_READERS)
    for reader in readers:
        reader.stop(0.0)
    end = time.monotonic() + _SILENCE + 1.0
    for reader in readers:
        reader.stop(max(0.0, end - time.monotonic()))


def _stream(
    address: str, patience: float, tell: Callable[[str], None], open_capture: Callable[[str], Any]
) -> Iterator[VideoFrame]:
    reader = _Reader(address, tell, open_capture)
    try:
        last = time.monotonic()
        while True:
            frame = reader.next(max(0.0, last + patience - time.monotonic()))
            if frame is None and reader.ended:
                return
            if frame is None:
                raise UserError(
                    f"{shown_source(address)} gave no frame for {patience:g} s; check the address, the "
                    "password and the camera."
                )
            yield frame
            # Time that the taker needed does not count.
            last = time.monotonic() if frame.pixels is not None else last
    finally:
        reader.stop()


def frames_in_order(folder: Path) -> list[Path]:
    """Return the frames of a folder, ordered by the numbers in their names.

    Args:
        folder: folder with one image per frame, such as `000001.jpg` (MOT Challenge) or `12.png`
            (`ffmpeg %d.png`).

    Raises:
        UserError: the order is unclear: names differ in more than numbers, two have the same number, several
            numbers give another order than letters do, or numbers are missing, so that the tracks may count
            frames by number or by place.
    """
    from san_tf.archives.files import is_litter
    from san_tf.image_formats import is_image_name

    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror}); check its permissions."
        ) from error
    names = sorted(name for name in names if is_image_name(name) and not is_litter(name))
    if not names:
        raise UserError(f"{folder} holds no frame; name a video file or a folder with one image per frame.")
    parts = {name: _DIGITS.split(os.path.splitext(name)[0]) for name in names}
    first = parts[names[0]]
    advice = "name the frames 1, 2, 3 ... in their order"
    for name in names[1:]:
        if parts[name][::2] != first[::2]:
            raise UserError(
                f"The order of the frames of {folder} is unclear: {names[0]} and {name} differ in more than "
                f"a number; {advice}."
            )
    numbers = {name: tuple(map(int, found[1::2])) for name, found in parts.items()}
    ordered = sorted(names, key=numbers.__getitem__)
    for former, name in itertools.pairwise(ordered):
        if numbers[former] == numbers[name]:
            raise UserError(
                f"The order of the frames of {folder} is unclear: {former} and {name} have the same number; "
                f"{advice}."
            )
    varying = [
        place for place, values in enumerate(zip(*numbers.values(), strict=True)) if len(set(values)) > 1
    ]
    # 1.5 may be a decimal number, which comes after 1.25.
    decimal = any(place > 0 and first[2 * place] == "." for place in varying)
    if len(varying) > 1 or decimal:
        if ordered != names:
            one, other = next(pair for pair in zip(names, ordered, strict=True) if pair[0] != pair[1])
            raise UserError(
                f"The order of the frames of {folder} is unclear: by letters {one} comes before {other}, by "
                f"numbers after it; {advice}."
            )
    elif varying:
        counted = [numbers[name][varying[0]] for name in ordered]
        gaps = [place for place in range(1, len(counted)) if counted[place] != counted[place - 1] + 1]
        # The tracks cannot count by numbers larger than the count of frames, such as times.
        if gaps and counted[0] <= len(counted):
            former, name = ordered[gaps[0] - 1], ordered[gaps[0]]
            raise UserError(
                f"{folder} has no frames between {former} and {name}, so the number of {name} in the tracks "
                f"is unclear; add them, or {advice}."
            )
    return [folder / name for name in ordered]


def check_end(video: str | os.PathLike[str], frames: int, last: int) -> None:
    """Refuse tracks that go far beyond the end of their video.

    Args:
        video: the video.
        frames: number of its frames.
        last: number of the last frame in the tracks.

    Raises:
        UserError: they are probably the tracks of another video.
    """
    if last - frames > max(2, frames // 50):
        raise UserError(
            f"{video} has {frames} frames, and its tracks go to frame {last}; give the tracks of this video."
        )
