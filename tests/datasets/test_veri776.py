"""The veri776 builder, on drawn images in the published layout."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow_datasets as tfds

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from veri776.veri776_dataset_builder import Builder  # noqa: E402


class Veri776Test(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["standard"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 4, "query": 2, "gallery": 4}  # noqa: RUF012
    OVERLAPPING_SPLITS = ["query"]  # noqa: RUF012
