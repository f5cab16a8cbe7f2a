"""The msmt17 builder, on drawn images in the published layout."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow_datasets as tfds

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from msmt17.msmt17_dataset_builder import Builder  # noqa: E402


class Msmt17V1Test(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["v1"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 4, "query": 2, "gallery": 3}  # noqa: RUF012


class Msmt17V2Test(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["v2"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 4, "query": 2, "gallery": 3}  # noqa: RUF012
