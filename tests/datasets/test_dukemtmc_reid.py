"""The dukemtmc_reid builder, on drawn images in the published layout."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow_datasets as tfds

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from dukemtmc_reid.dukemtmc_reid_dataset_builder import Builder  # noqa: E402


class DukemtmcReidTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [Builder.builder_configs["standard"].uncounted()]  # noqa: RUF012
    SPLITS = {"train": 4, "query": 2, "gallery": 3}  # noqa: RUF012
