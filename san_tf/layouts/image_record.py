"""The record that every benchmark has in common, and the sentence on an image that cannot become one."""

from __future__ import annotations

from typing import Any

from san_tf.errors import UserError
from san_tf.layouts.samples import Sample


def record(sample: Sample, content: bytes) -> dict[str, Any]:
    """The record of an image: `image` (bytes as they are stored), `pid`, `camid` and `filename`."""
    return {"image": content, "pid": sample.pid, "camid": sample.camid, "filename": sample.filename}


def refuse_corrupt(problems: list[str]) -> None:
    """Raise UserError about images that cannot be used.

    Args:
        problems: file and half a sentence of each, such as "query/0001.jpg is empty".
    """
    if problems:
        others = f" ({len(problems) - 1} other image(s) have problems too)" if len(problems) > 1 else ""
        raise UserError(
            f"The image {problems[0]}{others}; copy it again, or leave such images out with skip_corrupt."
        )
