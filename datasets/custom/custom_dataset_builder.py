"""custom: images of one's own, told apart by their paths or by a table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.benchmarks.archives import open_archive
from san_tf.benchmarks.builder import BenchmarkBuilder
from san_tf.benchmarks.custom_layout import CustomConfig, custom_sources
from san_tf.benchmarks.files import Files, FolderFiles
from san_tf.benchmarks.layout import ARCHIVE_SUFFIXES, Layout
from san_tf.benchmarks.samples import Source
from san_tf.errors import UserError

SPLITS = "train|query|gallery|test|bounding_box_train|bounding_box_test"
LAYOUT = Layout(
    name="The custom data set",
    folders=("custom",),
    parts=(),
    homepage="",
    terms="Whether its people agreed to being searched is for you to know.",
)


class Builder(BenchmarkBuilder):
    """Builder of images of one's own."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put your images into the manual folder, as the configuration describes."
    BUILDER_CONFIGS = [  # noqa: RUF012
        CustomConfig(
            name="names",
            description="train/0002_c1_anything.jpg: identity and camera in the name, as Market-1501 has it.",
            pattern=rf"(?P<split>{SPLITS})/(?P<identity>-1|\d+)_c(?P<camera>\d+).*",
        ),
        CustomConfig(
            name="folders",
            description="train/anybody/anything.jpg: a folder an identity, cameras unknown.",
            pattern=rf"(?P<split>{SPLITS})/(?P<identity>[^/]+)/.*",
        ),
        CustomConfig(
            name="table",
            description="images.csv with the columns path, identity and, where known, camera and split.",
            table="images.csv",
        ),
    ]

    def _layout(self) -> Layout:
        return LAYOUT

    def _find(self, manual_dir: Path) -> Files:
        place = manual_dir / self.builder_config.place
        if place.is_dir():
            return FolderFiles(place)
        if place.is_file() and place.name.lower().endswith(ARCHIVE_SUFFIXES):
            return open_archive(place)
        raise UserError(f"There is no folder and no archive {place}; put your images there.")

    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        splits = custom_sources(files, self.builder_config)
        samples = [sample for sources in splits.values() for source in sources for sample in source.samples]
        unknown = sum(sample.camid < 0 for sample in samples)
        if unknown:
            warnings.warn(
                f"{unknown:,} of {len(samples):,} images have no camera, so the evaluation cannot leave out"
                " gallery images by the query's own camera: pictures of the same moment count, and scores"
                " come out higher.",
                stacklevel=2,
            )
        return splits
