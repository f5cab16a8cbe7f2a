"""The cuhk03 builder, on drawn images in the published layout."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow_datasets as tfds

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from cuhk03.cuhk03_dataset_builder import Builder  # noqa: E402


class Cuhk03LabeledTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["labeled"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 24, "query": 4, "gallery": 4}  # noqa: RUF012


class Cuhk03ClassicTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["detected_classic_20"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 16, "query": 8, "gallery": 8}  # noqa: RUF012
    OVERLAPPING_SPLITS = ["query"]  # noqa: RUF012  # the protocol draws its gallery from all test images
