"""msmt17: MSMT17, both versions, from a user's copy."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.archives.files import Files
from san_tf.errors import UserError
from san_tf.layouts.benchmark_builder import BenchmarkBuilder, BenchmarkConfig
from san_tf.layouts.layout import Layout
from san_tf.layouts.samples import Counts, Sample, Source

CAMERAS = 15
# 0000/0000_000_01_0303morning_0015_0.jpg 0: identity, number, camera, time, frame, box; then the identity.
_LINE = re.compile(r"(?P<path>\S+/\d+_\d+_(?P<camera>\d+)_\S+\.(jpg|png)) (?P<pid>\d+)", re.ASCII)


@dataclasses.dataclass(kw_only=True)
class Msmt17Config(BenchmarkConfig):
    """Builder configuration of MSMT17.

    Attributes:
        layout: layout of the version.
    """

    layout: Layout


def _config(name: str, folder: str, train: str, test: str, description: str) -> Msmt17Config:
    lists = tuple(f"list_{split}.txt" for split in ("train", "val", "query", "gallery"))
    layout = Layout(
        name=f"MSMT17 {name.upper()}",
        folders=(folder,),
        parts=(train, test, *lists),
        homepage="http://www.pkuvmc.com/publications/msmt17.html",
        terms="Its authors give it out on request; the terms that you agreed to there apply.",
        counts={
            "train": Counts(32_621, 1_041),  # 30,248 of training and 2,373 of validation
            "query": Counts(11_659, 3_060),
            "gallery": Counts(82_161, 3_060),
        },
    )
    return Msmt17Config(name=name, description=description, layout=layout)


CONFIGS = (
    _config("v1", "MSMT17_V1", "train", "test", "The first version."),
    _config(
        "v2", "MSMT17_V2", "mask_train_v2", "mask_test_v2", "The second version, in which faces are blurred."
    ),
)


class Builder(BenchmarkBuilder):
    """Builder of MSMT17."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = "\n".join(config.layout.instructions for config in CONFIGS)
    BUILDER_CONFIGS = list(CONFIGS)  # noqa: RUF012

    def _layout(self) -> Layout:
        return self.builder_config.layout

    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        train, test, *lists = self._layout().parts
        listed = [
            _listed(files, name, folder)
            for name, folder in zip(lists, (train, train, test, test), strict=True)
        ]
        return {
            "train": [Source(files, listed[0] + listed[1])],
            "query": [Source(files, listed[2])],
            "gallery": [Source(files, listed[3])],
        }


def _listed(files: Files, name: str, folder: str) -> list[Sample]:
    """The images of a list. Its identities begin at 0, which means distractor here, so 1 is added."""
    samples = []
    for number, line in enumerate(files.require(name).decode("utf-8-sig", "replace").splitlines(), 1):
        match = _LINE.fullmatch(line.strip())
        if match is None or not 1 <= int(match["camera"]) <= CAMERAS:
            raise UserError(
                f"{files.describe(name)}, line {number}, is not as MSMT17 has it"
                f" (0000/0000_000_01_0303morning_0015_0.jpg 0): {line[:80]!r}; copy the list again."
            )
        path = match["path"]
        samples.append(
            Sample(
                f"{folder}/{path}", int(match["pid"]) + 1, int(match["camera"]) - 1, path.rpartition("/")[2]
            )
        )
    if not samples:
        raise UserError(f"{files.describe(name)} is empty; copy the list again.")
    there = set(files.paths(folder))
    missing = [sample.path for sample in samples if sample.path not in there]
    if missing:
        raise UserError(
            f"{len(missing):,} of the {len(samples):,} images that {files.describe(name)} names are missing,"
            f" first {missing[0]}; copy {folder} again, completely."
        )
    return samples
