"""The partial_reid builder, on drawn images in the published layout."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow_datasets as tfds

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from partial_reid.partial_reid_dataset_builder import Builder  # noqa: E402


class PartialReidTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["standard"].uncounted()]  # noqa: RUF012
    SPLITS = {"query": 4, "gallery": 4}  # noqa: RUF012


class PartialReidOccludedTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["occluded"].uncounted()]  # noqa: RUF012
    SPLITS = {"query": 4, "gallery": 4}  # noqa: RUF012
