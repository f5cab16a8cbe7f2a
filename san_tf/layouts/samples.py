"""The images of a split as a benchmark's names and lists describe them, and the published numbers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from san_tf.archives.files import Files
from san_tf.errors import UserError


@dataclass(frozen=True)
class Counts:
    """Published numbers of a split; None where none is published.

    Attributes:
        images: all of them, distractors and junk included.
        identities: different people (or vehicles), distractors (0) and junk (-1) left out.
    """

    images: int | None = None
    identities: int | None = None


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


_SHOWN = {"train": "training", "query": "query", "gallery": "gallery"}


class Sample(NamedTuple):
    """One image of a split.

    Attributes:
        path: where it lies in the benchmark's files.
        pid: identity; 0 is a distractor, -1 junk.
        camid: camera from 0; -1 is unknown.
        filename: its name in the records, unique within a split.
    """

    path: str
    pid: int
    camid: int
    filename: str


class Source(NamedTuple):
    """Images of a split that lie in one place; a split may have several.

    Attributes:
        files: the place.
        samples: the images in it.
    """

    files: Files
    samples: Sequence[Sample]


def check_counts(name: str, splits: Mapping[str, Sequence[Source]], published: Mapping[str, Counts]) -> None:
    """Raise UserError unless every split has the published numbers of images and identities.

    Args:
        name: of the benchmark.
        splits: sources by split; only the first source of a split is what was published.
        published: by split; splits and numbers that are not there are not checked.
    """
    wrong = []
    for split, counts in published.items():
        files, samples = splits[split][0]
        images = len(samples)
        identities = len({sample.pid for sample in samples if sample.pid > 0})
        if counts.images is not None and images != counts.images:
            wrong.append(f"{images:,} {_SHOWN[split]} images where {counts.images:,} are published")
        if counts.identities is not None and identities != counts.identities:
            wrong.append(
                f"{identities:,} {_SHOWN[split]} identities where {counts.identities:,} are published"
            )
    if wrong:
        raise UserError(
            f"The copy of {name} in {files.place} has {listed(wrong)}; copy it again, or switch "
            "check_counts off to take it as it is."
        )


def listed(words: tuple[str, ...] | list[str], last: str = "and") -> str:
    """Join words as English does.

    Example:
        >>> listed(["train", "query", "gallery"])
        'train, query and gallery'
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
