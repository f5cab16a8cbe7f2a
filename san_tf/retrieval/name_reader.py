"""Reads identity, camera and time from a photograph's name and its row in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import PurePosixPath

from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry
from san_tf.whole_numbers import WholeNumbers

# Names of Market-1501 and similar data sets: 0002_c1s1_000451_03.jpg. Other names do not match.
MARKET = r"(?P<pid>-?\d+)_c(?P<camera>\d+)"
_GROUPS = {"pid", "camera", "time"}


def parse_time(text: str) -> float:
    """Return the seconds since 1970 of a number, or of an ISO 8601 date and time (UTC without a zone).

    Raises:
        UserError: the text is neither.

    Example:
        >>> parse_time("2026-01-01"), parse_time("2026-01-01T01:00+01:00"), parse_time("12.5")
        (1767225600.0, 1767225600.0, 12.5)
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            # Python 3.10 does not read "Z".
            moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        except ValueError:
            raise UserError(
                f"{text!r} is not a time; write 2026-01-31, 2026-01-31T08:30 or seconds since 1970."
            ) from None
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return zoned.timestamp()
    if not math.isfinite(seconds):
        raise UserError(f"{text!r} is not a time; write 2026-01-31, 2026-01-31T08:30 or seconds since 1970.")
    return seconds


class NameReader:
    r"""Makes entries from names and columns; columns override names.

    Args:
        pattern: regular expression to find in a file's name, with some of the groups `pid`, `camera` (whole
            numbers) and `time` (see `parse_time`).
        tags: tags of every entry, beside its own.

    Raises:
        UserError: the pattern is not a regular expression or lacks these groups, or a tag is not a word.

    Example:
        >>> NameReader().entry("a/0002_c1s1_000451_03.jpg", "0002_c1s1_000451_03.jpg", {"tags": "door day"})
        Entry(key='a/0002_c1s1_000451_03.jpg', image='0002_c1s1_000451_03.jpg', camera=1, time=None, pid=2,
              tags=('door', 'day'))
    """

    def __init__(self, pattern: str = MARKET, tags: tuple[str, ...] = ()) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"The pattern {pattern!r} is not a regular expression: {error}.") from error
        if not _GROUPS & set(self._pattern.groupindex):
            raise UserError(f"The pattern {pattern!r} has no group; write one as (?P<camera>\\d+).")
        for tag in tags:
            if not tag.isprintable() or tag.split() != [tag]:
                raise UserError(f"The tag {tag[:60]!a} is not a word; write others.")
        self._tags = tags
        self._numbers = WholeNumbers()

    def entry(self, key: str, image: str, columns: Mapping[str, str]) -> Entry:
        """Return the entry of a photograph.

        Args:
            key: key of the entry; its last part is the file's name.
            image: path in the gallery's folder of images, or "".
            columns: cells of the table: `pid`, `camid` or `camera`, `time`, `tags` (words).

        Raises:
            UserError: a value cannot be read, or the same number was written differently before.
        """
        match = self._pattern.search(PurePosixPath(key).name)
        told = {name: value for name, value in (match.groupdict() if match else {}).items() if value}
        told |= {_singular(name): value for name, value in columns.items() if value.strip()}
        for what, name in (("identity", "pid"), ("camera", "camera")):
            self._numbers.check(what, told.get(name, ""), key)
        camera = told.get("camera")
        return Entry(
            key,
            image,
            camera=-1 if camera is None else _whole("camera", key, camera),
            time=parse_time(told["time"]) if "time" in told else None,
            pid=_whole("pid", key, told["pid"]) if "pid" in told else None,
            tags=(*self._tags, *told.get("tags", "").split()),
        )


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
