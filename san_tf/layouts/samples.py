"""The images of a split as a benchmark's names and lists describe them, and the published numbers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from san_tf.archives.files import Files
from san_tf.errors import UserError
from san_tf.layouts.layout import Counts, listed

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
