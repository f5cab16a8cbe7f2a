"""The market1501 builder, on drawn images in the published layout."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow_datasets as tfds

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from market1501.market1501_dataset_builder import Builder  # noqa: E402


class Market1501Test(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["standard"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 4, "query": 4, "gallery": 6}  # noqa: RUF012


class Market1501DistractorsTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["distractors_500k"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 4, "query": 4, "gallery": 8}  # noqa: RUF012
