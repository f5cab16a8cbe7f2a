"""veri776: VeRi-776, vehicles instead of people, from a user's copy."""

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
    name="VeRi-776",
    folders=("VeRi", "VeRi-776", "VeRi776", "veri"),
    parts=("image_train", "image_query", "image_test"),
    homepage="https://github.com/JDAI-CV/VeRidataset",
    terms=(
        "Its authors send it to people who state their full name and affiliation, for non-commercial "
        "purposes, and it must not be passed on."
    ),
    counts={
        "train": Counts(37_778, 576),
        "query": Counts(1_678, 200),
        "gallery": Counts(11_579, 200),
    },
)
NAMES = NamePattern(r"(?P<pid>\d{4})_c(?P<camera>\d{3})_\d{8}_\d+\.(jpg|png)", 20, "0001_c001_00016450_0.jpg")


class Builder(BenchmarkBuilder):
    """Builder of VeRi-776."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT.instructions
    BUILDER_CONFIGS = [  # noqa: RUF012
        BenchmarkConfig(name="standard", description="The benchmark as published.")
    ]

    def _layout(self) -> Layout:
        return LAYOUT

    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        return three_folders(files, LAYOUT.name, LAYOUT.parts, NAMES)
