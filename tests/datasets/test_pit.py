"""The pit builder, on its smallest sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from san_tf.synthesis import generator
from san_tf.synthesis.crop_plans import PitConfig

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

from pit.pit_dataset_builder import Builder, PitBuilderConfig  # noqa: E402

SMALL = PitConfig("small", 2, 1, images_per_texture=3, image_height=64)


class PitTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = [PitBuilderConfig(name="small", rendering=SMALL)]  # noqa: RUF012
    EXAMPLE_DIR = str(DATASETS / "pit")  # nothing is downloaded, so there is no dummy data
    MOCK_OUT_FORBIDDEN_OS_FUNCTIONS = False  # the body's asset is a package resource, read by path
    SPLITS = {"train": 6, "test": 3}  # noqa: RUF012


def test_pairs_of_one_person_share_the_texture_and_nothing_else(tmp_path: Path) -> None:
    builder = Builder(config=PitBuilderConfig(name="small", rendering=SMALL), data_dir=str(tmp_path))
    builder.download_and_prepare()
    records = sorted(
        builder.as_dataset(split="train").as_numpy_iterator(), key=lambda record: record["filename"]
    )
    assert [record["pid"] for record in records] == [1, 1, 1, 2, 2, 2]
    first, second, third, other = (record for record in records[:4])
    assert first["texture"].shape == (256, 256, 3) and first["image"].shape == (64, 32, 3)
    np.testing.assert_array_equal(first["texture"], second["texture"])
    assert np.abs(first["texture"].astype(int) - other["texture"]).mean() > 1
    assert len({record["image"].tobytes() for record in (first, second, third)}) == 3
    spec = generator.pit_index(SMALL, "train")[0]
    np.testing.assert_array_equal(first["texture"], generator.clothes_texture(spec.wearer))
