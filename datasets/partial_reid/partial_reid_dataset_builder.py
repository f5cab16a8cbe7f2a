"""partial_reid: Partial-REID, partial queries and whole-body gallery, from a user's copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.archives.files import Files
from san_tf.layouts.benchmark_builder import BenchmarkBuilder, BenchmarkConfig
from san_tf.layouts.file_names import NamePattern, samples_in
from san_tf.layouts.layout import Layout
from san_tf.layouts.samples import Counts, Source

NAMES = NamePattern(r"(?P<pid>\d{3})_\d{3}\.(jpg|png)", 0, "001_001.jpg")


def _layout(queries: str) -> Layout:
    return Layout(
        name="Partial-REID",
        folders=("Partial_REID", "PartialREID", "Partial-REID_Dataset", "partial_reid"),
        parts=(queries, "whole_body_images"),
        homepage="https://www.cv-foundation.org/openaccess/content_iccv_2015/html/"
        "Zheng_Partial_Person_Re-Identification_ICCV_2015_paper.html",
        terms="It was published with this paper; its authors state the terms.",
        counts={"query": Counts(300, 60), "gallery": Counts(300, 60)},
    )


@dataclasses.dataclass(kw_only=True)
class PartialReidConfig(BenchmarkConfig):
    """Builder configuration of Partial-REID.

    Attributes:
        queries: folder of the queries.
    """

    queries: str


class Builder(BenchmarkBuilder):
    """Builder of Partial-REID. It has no training set: the field trains on Market-1501."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = _layout("partial_body_images").instructions
    BUILDER_CONFIGS = [  # noqa: RUF012
        PartialReidConfig(
            name="standard",
            description="Partial bodies as queries, whole bodies as gallery.",
            queries="partial_body_images",
        ),
        PartialReidConfig(
            name="occluded",
            description="Occluded bodies as queries, whole bodies as gallery.",
            queries="occluded_body_images",
        ),
    ]

    def _layout(self) -> Layout:
        return _layout(self.builder_config.queries)

    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        layout = self._layout()
        return {
            split: [Source(files, samples_in(files, folder, layout.name, NAMES))]
            for split, folder in zip(("query", "gallery"), layout.parts, strict=True)
        }
