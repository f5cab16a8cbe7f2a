"""What the page is told, and what can be carried away: JSON, and CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from datetime import datetime, timedelta, timezone
from typing import Any

from san_tf.page.service import Found
from san_tf.retrieval.entries import Entry

_COLUMNS = ("rank", "key", "score", "camera", "time", "pid", "tags", "right")
_FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def entry_facts(entry: Entry) -> dict[str, Any]:
    """An entry for the page, without its path."""
    return {
        "key": entry.key,
        "camera": None if entry.camera < 0 else entry.camera,
        "time": time_of(entry),
        "pid": entry.pid,
        "tags": list(entry.tags),
        "picture": bool(entry.image),
    }


def is_right(query: int | None, hit: int | None) -> bool | None:
    """Whether a hit shows the person looked for; None where that is not known.

    By Market-1501's numbers: 0 is somebody whom nobody looks for, -1 a picture that counts as nobody.

    Example:
        >>> is_right(7, 7), is_right(7, 0), is_right(7, -1), is_right(None, 7)
        (True, False, None, None)
    """
    if query is None or hit is None or query < 1 or hit < 0:
        return None
    return query == hit


def answer_facts(found: Found) -> dict[str, Any]:
    """An answer for the page."""
    return {
        "query": None if found.query is None else entry_facts(found.query),
        "pid": found.pid,
        "seconds": round(found.seconds, 4),
        "hits": [
            {
                "rank": rank,
                **entry_facts(hit.entry),
                "score": round(hit.score, 6),
                "right": is_right(found.pid, hit.entry.pid),
            }
            for rank, hit in enumerate(found.hits, 1)
        ],
    }


def answer_csv(found: Found) -> str:
    """An answer as a table.

    Keys and tags that a spreadsheet would take for a formula get an apostrophe in front, as spreadsheets
    themselves mark text; `answer_facts` has everything as it is.
    """
    target = io.StringIO()
    rows = csv.writer(target, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for rank, hit in enumerate(found.hits, 1):
        entry, right = hit.entry, is_right(found.pid, hit.entry.pid)
        time = time_of(entry)
        rows.writerow(
            [
                rank,
                _as_text(entry.key),
                f"{hit.score:.6f}",
                "" if entry.camera < 0 else entry.camera,
                "" if time is None else written_time(time),
                "" if entry.pid is None else entry.pid,
                _as_text(" ".join(entry.tags)),
                "" if right is None else ("yes" if right else "no"),
            ]
        )
    return target.getvalue()


def written_time(seconds: float) -> str:
    """A time in words that sort, UTC; the number itself where no calendar has it.

    Example:
        >>> written_time(1767225600.0)
        '2026-01-01T00:00:00Z'
    """
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return f"{seconds:g}"
    text = moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def time_of(entry: Entry) -> float | None:
    """Its time; None also where the gallery holds a number that is none."""
    return entry.time if entry.time is not None and math.isfinite(entry.time) else None


def _as_text(text: str) -> str:
    # Spreadsheets pass over white space and control characters, and some take the wide signs of East Asia.
    first = next((letter for letter in text if not letter.isspace() and letter.isprintable()), "")
    return f"'{text}" if first in _FORMULAS or text[:1].isspace() else text
