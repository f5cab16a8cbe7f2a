"""Reads identity, camera, time and tags from a photograph's name, its folders and its row in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import PurePosixPath

from san_tf.errors import UserError, one_line
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.gallery import FIRST_NAMED
from san_tf.whole_numbers import WholeNumbers

# Names of Market-1501 and similar data sets: 0002_c1s1_000451_03.jpg. Other names do not match.
MARKET = r"(?P<pid>-?\d+)_c(?P<camera>\d+)"
_LONGEST_NAME = 200
# Columns of tables whose cameras are whole numbers, as in `san-tf evaluate`.
_NUMBERED = ("camid", "camids")
_GROUPS = {"pid", "camera", "time", "tags"}
_TIME = "is not a time; write 2026-01-31, 2026-01-31T08:30 or seconds since 1970"
# Dates as cameras write them into names: 20260131, 20260131083000, 2026-01-31_08-30-00, 20260131T0830.
_DATED = re.compile(
    r"((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)"
    r"(?:[T_ -]?(\d\d)([-_.:]?)(\d\d)(?:\6(\d\d)(?:[.,](\d{1,6}))?)?)?Z?",
    re.ASCII,
)
# Seconds since 1970 beyond the year 5138; such numbers are milliseconds.
_MILLISECONDS = 1e11
# The end of the year 9999; larger numbers are microseconds, or no times.
_CALENDAR = 253_402_300_799


def parse_time(text: str) -> float:
    """Return the seconds since 1970 of a date and time, or of a number (UTC without a zone).

    Dates are written as in ISO 8601, or as cameras do: `20260131_083000`. Numbers are seconds, or
    milliseconds where seconds would be beyond the year 5138.

    Raises:
        UserError: the text is neither.

    Example:
        >>> parse_time("2026-01-01"), parse_time("2026-01-01T01:00+01:00"), parse_time("12.5")
        (1767225600.0, 1767225600.0, 12.5)
    """
    text = text.strip()
    if (found := _DATED.fullmatch(text)) is not None:
        year, _, month, day, hour, _, minute, second, part = found.groups()
        try:
            numbers = [int(number or 0) for number in (hour, minute, second)]
            day_of = datetime(int(year), int(month), int(day), tzinfo=timezone.utc)
            moment = day_of.replace(
                hour=numbers[0], minute=numbers[1], second=numbers[2],
                microsecond=int((part or "0").ljust(6, "0")),
            )  # fmt: skip
        except ValueError:
            raise UserError(f"'{one_line(text, 60)}' {_TIME}.") from None
        return moment.timestamp()
    try:
        if "_" in text:
            raise ValueError  # Python would read 1_000
        seconds = float(text)
    except ValueError:
        try:
            # Python 3.10 does not read "Z".
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise UserError(f"'{one_line(text, 60)}' {_TIME}.") from None
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return zoned.timestamp()
    if not math.isfinite(seconds):
        raise UserError(f"'{one_line(text, 60)}' {_TIME}.")
    seconds = seconds / 1000 if abs(seconds) >= _MILLISECONDS else seconds
    if abs(seconds) > _CALENDAR:
        raise UserError(f"'{one_line(text, 60)}' is beyond the year 9999; give seconds since 1970.")
    return seconds


class NameReader:
    r"""Makes entries from names and columns; columns override names.

    Args:
        pattern: regular expression with some of the groups `pid` (a whole number), `camera` (a whole number
            or a name), `time` (see `parse_time`) and `tags` (words). It is searched in a file's name; if it
            holds a `/`, in the path from the named folder on: `crops/door/0001.jpg`.
        tags: tags of every entry, beside its own.
        folders: the camera is the folder of a file below the named one, such as `hall/2`.

    Attributes:
        groups: names of the pattern's groups.

    Raises:
        UserError: the pattern is not a regular expression or lacks these groups, or a tag is not a word.

    Example:
        >>> NameReader().entry("a/0002_c1s1_000451_03.jpg", "0002_c1s1_000451_03.jpg", {"tags": "door day"})
        Entry(key='a/0002_c1s1_000451_03.jpg', image='0002_c1s1_000451_03.jpg', camera=1, time=None, pid=2,
              tags=('door', 'day'))
    """

    def __init__(self, pattern: str = MARKET, tags: tuple[str, ...] = (), folders: bool = False) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"The pattern {pattern!r} is not a regular expression: {error}.") from error
        if not _GROUPS & set(self._pattern.groupindex):
            raise UserError(f"The pattern {pattern!r} has no group; write one as (?P<camera>\\d+).")
        for tag in tags:
            if not tag.isprintable() or tag.split() != [tag]:
                raise UserError(f"The tag {tag[:60]!a} is not a word; write others.")
        self.groups = set(self._pattern.groupindex)
        self._tags, self._folders = tags, folders
        self._numbers = WholeNumbers()

    def entry(
        self,
        key: str,
        image: str,
        columns: Mapping[str, str],
        path: str = "",
        name_camera: Callable[[str], int] | None = None,
    ) -> Entry:
        """Return the entry of a photograph.

        Args:
            key: key of the entry; its last part is the file's name.
            image: path in the gallery's folder of images, or "".
            columns: cells of the table: `pid`, `camid` (a whole number) or `camera`, `time`, `tags` (words).
            path: the path from the named folder on; "" for the key.
            name_camera: returns the number of a camera's name; None refuses names.

        Raises:
            UserError: a value cannot be read, or the same number was written differently before.
        """
        # The named folder itself is not a part of a camera's name.
        outer, path = (1 if path else 0), path or key
        match = self._pattern.search(path if "/" in self._pattern.pattern else PurePosixPath(path).name)
        told = {name: value for name, value in (match.groupdict() if match else {}).items() if value}
        folder = "/".join(PurePosixPath(path).parts[outer:-1])
        if self._folders and folder:
            told["camera"] = folder
        told |= {_singular(name): value for name, value in columns.items() if value.strip()}
        for what, name in (("identity", "pid"), ("camera", "camera")):
            self._numbers.check(what, told.get(name, ""), key)
        camera = told.get("camera")
        number = -1
        if camera is not None:
            named = name_camera is not None and not any(columns.get(name, "").strip() for name in _NUMBERED)
            number = _camera(key, camera.strip(), name_camera if named else None)
        return Entry(
            key,
            image,
            camera=number,
            time=parse_time(told["time"]) if "time" in told else None,
            pid=_whole("pid", key, told["pid"]) if "pid" in told else None,
            tags=(*self._tags, *told.get("tags", "").split()),
        )


def _camera(key: str, text: str, name_camera: Callable[[str], int] | None) -> int:
    if name_camera is None or re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        number = _whole("camera", key, text)
        if FIRST_NAMED <= number < FIRST_NAMED + 2**20:
            raise UserError(f"The camera of {key} is {number}; numbers from 2**40 on are those of names.")
        return number
    if not text.isprintable() or len(text) > _LONGEST_NAME:
        raise UserError(f"The camera of {key} is {text[:40]!a}; a name is printable and not so long.")
    return name_camera(text)


def _singular(name: str) -> str:
    return {"pids": "pid", "camids": "camera", "camid": "camera", "cameras": "camera"}.get(name, name)


def _whole(what: str, key: str, value: str) -> int:
    try:
        # Python refuses thousands of digits with its own message, and would accept 1_000.
        if "_" in value:
            raise ValueError
        return int(value) if len(value) < 40 else 10**40
    except ValueError:
        raise UserError(f"The {what} of {key} is {value[:40]!r}; it must be a whole number.") from None
