"""What a photograph's name and its row in a table say: who, which camera, when."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import PurePosixPath

from san_tf.errors import UserError
from san_tf.retrieval.entries import Entry
from san_tf.whole_numbers import WholeNumbers

# Market-1501 and its kin: 0002_c1s1_000451_03.jpg. Other names match nothing and tell nothing.
MARKET = r"(?P<pid>-?\d+)_c(?P<camera>\d+)"
_GROUPS = {"pid", "camera", "time"}


def parse_time(text: str) -> float:
    """Return seconds since 1970 of such a number, or of a date and time by ISO 8601 (UTC if it says no zone).

    Raises:
        UserError: it is neither.

    Example:
        >>> parse_time("2026-01-01"), parse_time("2026-01-01T01:00+01:00"), parse_time("12.5")
        (1767225600.0, 1767225600.0, 12.5)
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            # Python 3.10 knows no Z.
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
    r"""Makes entries from names and columns; a column wins over the name.

    Args:
        pattern: regular expression that is looked for in a file's name, with some of the groups `pid`,
            `camera` (numbers, kept as they are written) and `time` (see `parse_time`).
        tags: of every entry, beside its own.

    Raises:
        UserError: it is not a regular expression, or has none of these groups; or a tag is not a word.

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
            key: of the entry; its last part is the file's name.
            image: path in the gallery's folder of images, or "".
            columns: what a table says: `pid`, `camid` or `camera`, `time`, `tags` (words).

        Raises:
            UserError: a value is none of its kind, or one number was written in another way before.
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
        # Python itself refuses to read some thousands of digits, with another sentence, and reads 1_000.
        if "_" in value:
            raise ValueError
        return int(value) if len(value) < 40 else 10**40
    except ValueError:
        raise UserError(f"The {what} of {key} is {value[:40]!r}; it must be a whole number.") from None
