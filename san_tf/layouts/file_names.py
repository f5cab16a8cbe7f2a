"""Reads identity and camera from the file names of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from san_tf.archives.files import Files
from san_tf.errors import UserError
from san_tf.layouts.samples import Sample


@dataclass(frozen=True)
class NamePattern:
    r"""Pattern of a benchmark's image names.

    Attributes:
        expression: regular expression for a whole file name (without folders), with the groups `pid` and
            `camera`.
        cameras: number of cameras, which count from 1; 0 if names contain no camera.
        example: an example name, for messages.

    Example:
        >>> NamePattern(r"(?P<pid>-1|\d+)_c(?P<camera>\d).*", 6, "0002_c1s1_03.jpg").parse("0007_c2s1_00.jpg")
        (7, 1)
    """

    expression: str
    cameras: int
    example: str

    def parse(self, name: str) -> tuple[int, int] | None:
        """Return identity and camera (from 0, -1 if unknown) of a file name; None if it does not match."""
        match = re.fullmatch(self.expression, name, re.ASCII)
        if match is None:
            return None
        camid = int(match["camera"]) - 1 if self.cameras else -1
        if self.cameras and not 0 <= camid < self.cameras:
            return None
        return int(match["pid"]), camid


def samples_in(files: Files, folder: str, benchmark: str, pattern: NamePattern) -> list[Sample]:
    """Return the images of a folder, sorted by name.

    Args:
        files: the user's copy.
        folder: one of its folders.
        benchmark: name of the benchmark, for messages.
        pattern: pattern of the image names.

    Raises:
        UserError: the folder is empty, contains folders, or contains a file with another name.
    """
    paths = files.paths(folder)
    if not paths:
        raise UserError(f"{files.describe(folder)} holds no images; copy {benchmark} again.")
    return [_sample(files, folder, path, benchmark, pattern) for path in paths]


def _sample(files: Files, folder: str, path: str, benchmark: str, pattern: NamePattern) -> Sample:
    name = path.removeprefix(f"{folder}/")
    if "/" in name:
        raise UserError(
            f"{files.describe(path)} is too deep; {benchmark} has its images in {folder} itself, so move "
            "them there."
        )
    parsed = pattern.parse(name)
    if parsed is None:
        raise UserError(
            f"{files.describe(path)} is not named as {benchmark} names its images ({pattern.example}); "
            "remove it, or copy the benchmark again."
        )
    return Sample(path, *parsed, name)


def refuse_junk(files: Files, benchmark: str, split: str, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of a split, after checking that it has no junk or distractors.

    Args:
        files: the user's copy.
        benchmark: name of the benchmark, for messages.
        split: name of the split: training set or query.
        samples: the samples.

    Raises:
        UserError: a sample is junk or a distractor.
    """
    for sample in samples:
        if sample.pid < 1:
            raise UserError(
                f"{files.describe(sample.path)} has the identity {sample.pid}, which {benchmark} has in its "
                f"gallery, not in {split}; copy the benchmark again."
            )
    return list(samples)
