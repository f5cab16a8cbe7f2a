"""dukemtmc_reid: DukeMTMC-reID, withdrawn by its authors, from a user's copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.archives.files import Files
from san_tf.layouts.benchmark_builder import BenchmarkBuilder, BenchmarkConfig
from san_tf.layouts.file_names import NamePattern
from san_tf.layouts.layout import Layout, three_folders
from san_tf.layouts.samples import Counts, Source

LAYOUT = Layout(
    name="DukeMTMC-reID",
    folders=("DukeMTMC-reID", "dukemtmc-reid"),
    parts=("bounding_box_train", "query", "bounding_box_test"),
    homepage="",
    terms=(
        "DukeMTMC was withdrawn by its authors over the consent of the people filmed, so nobody gives it out"
        " any more: this reads a copy you already hold. It was released for academic research only, under a"
        " licence that asks for a citation of both papers."
    ),
    counts={
        "train": Counts(16_522, 702),
        "query": Counts(2_228, 702),
        "gallery": Counts(17_661, 1_110),  # 408 of the identities have no query
    },
)
NAMES = NamePattern(r"(?P<pid>\d{4})_c(?P<camera>\d)_f\d{7}\.(jpg|png)", 8, "0005_c2_f0046985.jpg")


class Builder(BenchmarkBuilder):
    """Builder of DukeMTMC-reID."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT.instructions
    BUILDER_CONFIGS = [  # noqa: RUF012
        BenchmarkConfig(name="standard", description="The benchmark as published, since withdrawn.")
    ]

    def _layout(self) -> Layout:
        return LAYOUT

    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        return three_folders(files, LAYOUT.name, LAYOUT.parts, NAMES)
