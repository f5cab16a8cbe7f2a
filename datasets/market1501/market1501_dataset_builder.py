"""market1501: Market-1501, with or without the 500,000 distractors, from a user's copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from san_tf.archives.files import Files
from san_tf.errors import UserError
from san_tf.image_formats import is_image_name
from san_tf.layouts.benchmark_builder import BenchmarkBuilder, BenchmarkConfig
from san_tf.layouts.file_names import NamePattern
from san_tf.layouts.layout import Layout, three_folders
from san_tf.layouts.manual_folder import find_copy
from san_tf.layouts.samples import Counts, Sample, Source

HOMEPAGE = "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html"
TERMS = "Its authors published it for research and ask for a citation of their paper."
LAYOUT = Layout(
    name="Market-1501",
    folders=("Market-1501-v15.09.15", "Market-1501", "market1501"),
    parts=("bounding_box_train", "query", "bounding_box_test"),
    homepage=HOMEPAGE,
    terms=TERMS,
    counts={
        "train": Counts(12_936, 751),
        "query": Counts(3_368, 750),
        "gallery": Counts(19_732, 750),  # 3,819 of the images are junk
    },
)
DISTRACTORS = Layout(
    name="the set of distractors of Market-1501",
    folders=("distractors_500k",),
    parts=(),
    homepage=HOMEPAGE,
    terms=TERMS,
)
NAMES = NamePattern(r"(?P<pid>-1|\d{4})_c(?P<camera>\d)s\d.*\.(jpg|png)", 6, "0002_c1s1_000451_03.jpg")


@dataclasses.dataclass(kw_only=True)
class Market1501Config(BenchmarkConfig):
    """Builder configuration of Market-1501.

    Attributes:
        distractors: whether the gallery has the images of `distractors_500k` too.
    """

    distractors: bool = False


class Builder(BenchmarkBuilder):
    """Builder of Market-1501."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT.instructions
    BUILDER_CONFIGS = [  # noqa: RUF012
        Market1501Config(name="standard", description="The benchmark as published."),
        Market1501Config(
            name="distractors_500k",
            description="The benchmark with the 500,000 distractors (identity 0) in its gallery.",
            distractors=True,
        ),
    ]

    def _layout(self) -> Layout:
        return LAYOUT

    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        splits = three_folders(files, LAYOUT.name, LAYOUT.parts, NAMES)
        if self.builder_config.distractors:
            splits["gallery"].append(_distractors(find_copy(manual_dir, DISTRACTORS)))
        return splits


def _distractors(files: Files) -> Source:
    """All images, as identity 0; their cameras do not matter, because they match nobody."""
    paths = [path for path in files.paths() if is_image_name(path)]
    if not paths:
        raise UserError(f"{files.place} holds no images; copy {DISTRACTORS.name} there again.")
    return Source(files, [Sample(path, 0, -1, f"{DISTRACTORS.folders[0]}/{path}") for path in paths])
