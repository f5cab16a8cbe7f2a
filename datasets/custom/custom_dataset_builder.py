"""custom: your own images, labelled by their paths or by a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.archives.archive_types import open_archive
from san_tf.archives.files import Files, FolderFiles
from san_tf.errors import UserError
from san_tf.layouts.benchmark_builder import BenchmarkBuilder
from san_tf.layouts.custom_layout import FOLDERS, NAMES, CustomConfig, find_images
from san_tf.layouts.layout import ARCHIVE_SUFFIXES, Layout
from san_tf.layouts.samples import Source

LAYOUT = Layout(
    name="The custom data set",
    folders=("custom",),
    parts=(),
    homepage="",
    terms="You must know whether its people agreed to being searched.",
)


class Builder(BenchmarkBuilder):
    """Builder of your own images."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put your images into the manual folder, as the configuration describes."
    BUILDER_CONFIGS = [  # noqa: RUF012
        CustomConfig(
            name="names",
            description="train/0002_c1_anything.jpg: identity and camera in the name, as in Market-1501.",
            pattern=NAMES,
        ),
        CustomConfig(
            name="folders",
            description="train/anybody/1.jpg: a folder per identity; cameras unknown, or folders like cam1.",
            pattern=FOLDERS,
        ),
        CustomConfig(
            name="table",
            description="images.csv with the columns path, identity and, if known, camera and split.",
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
        self._found = find_images(files, self.builder_config)
        return self._found.sources

    def _remarks(self) -> tuple[dict[str, int], list[str]]:
        return self._found.left_out, self._found.notes
