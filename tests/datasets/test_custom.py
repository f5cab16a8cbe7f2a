"""The custom builder, on drawn images that are named in each of its ways."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from custom.custom_dataset_builder import Builder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*have no camera")


class CustomTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [  # noqa: RUF012
        dataclasses.replace(config, name=f"{name}_drawn", place=name)
        for name, config in Builder.builder_configs.items()
    ]
    SPLITS = {"train": 4, "query": 2, "gallery": 4}  # noqa: RUF012
    OVERLAPPING_SPLITS = ["query"]  # noqa: RUF012  # drawn alike
