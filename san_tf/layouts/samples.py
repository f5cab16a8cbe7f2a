"""Images of a split by a benchmark's names and lists, and their published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from san_tf.archives.files import Files
from san_tf.errors import UserError


@dataclass(frozen=True)
class Counts:
    """Published numbers of a split; None if not published.

    Attributes:
        images: number of images, including distractors and junk.
        identities: number of people (or vehicles), without distractors (0) and junk (-1).
    """

    images: int | None = None
    identities: int | None = None


def record(sample: Sample, content: bytes) -> dict[str, Any]:
    """Return an image's record: `image` (bytes as stored), `pid`, `camid` and `filename`."""
    return {"image": content, "pid": sample.pid, "camid": sample.camid, "filename": sample.filename}


def refuse_corrupt(problems: list[str]) -> None:
    """Raise UserError about damaged images, if there are any.

    Args:
        problems: for each image, its file and half a sentence, such as "query/0001.jpg is empty".
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
        path: path in the benchmark's files.
        pid: identity; 0 is a distractor, -1 junk.
        camid: camera from 0; -1 is unknown.
        filename: name in the records, unique within a split.
    """

    path: str
    pid: int
    camid: int
    filename: str


class Source(NamedTuple):
    """Images of a split in one folder or archive; a split may have several sources.

    Attributes:
        files: the folder or archive.
        samples: the images in it.
    """

    files: Files
    samples: Sequence[Sample]


def check_counts(name: str, splits: Mapping[str, Sequence[Source]], published: Mapping[str, Counts]) -> None:
    """Raise UserError unless every split has the published numbers of images and identities.

    Args:
        name: name of the benchmark.
        splits: sources by split; only the first source of a split is compared.
        published: published numbers by split; missing splits and numbers are not checked.
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
            "check_counts off to use it as it is."
        )


def listed(words: tuple[str, ...] | list[str], last: str = "and") -> str:
    """Join words with commas and a final "and", or the word `last`.

    Example:
        >>> listed(["train", "query", "gallery"])
        'train, query and gallery'
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
