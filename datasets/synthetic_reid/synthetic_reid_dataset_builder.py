"""synthetic_reid: a rendered re-identification data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from san_tf.layouts.rendered_builder import RenderedBuilder
from san_tf.synthesis import generator
from san_tf.synthesis.crop_plans import ACTIONS, CropSpec, ReidConfig


@dataclasses.dataclass(kw_only=True)
class SyntheticReidConfig(tfds.core.BuilderConfig):
    """Builder configuration with sizes and seed of the rendering.

    Attributes:
        rendering: what to render; for photographs as backgrounds give
            `dataclasses.replace(generator.SYNTHETIC_REID["tiny"], backgrounds="DIR")`.
    """

    rendering: ReidConfig


class Builder(RenderedBuilder):
    """Builder of the synthetic re-identification data set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012  # TFDS wants a plain class attribute
    BUILDER_CONFIGS = [  # noqa: RUF012
        SyntheticReidConfig(
            name=name,
            description=(
                f"{rendering.train_identities} training and {rendering.test_identities} test identities, "
                f"{rendering.cameras} cameras, {rendering.image_height}x{rendering.image_height // 2} pixels."
            ),
            rendering=rendering,
        )
        for name, rendering in generator.SYNTHETIC_REID.items()
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "pid": np.int64,
                    "camid": np.int64,
                    "filename": tfds.features.Text(),
                    "yaw": np.float32,
                    "pose": tfds.features.ClassLabel(names=list(ACTIONS)),
                    "visibility": np.float32,
                }
            ),
            supervised_keys=("image", "pid"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in generator.REID_SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        specs = generator.synthetic_reid_index(self.builder_config.rendering, split)
        items = self.parts.items(split, generator.stamps(specs), lambda indices: _records(specs, indices))
        for item in tfds.core.utils.tqdm(items, desc=f"Rendering {split}", total=len(specs), unit=" images"):
            yield item["filename"], item


def _records(specs: Sequence[CropSpec], indices: Sequence[int]) -> Iterator[dict[str, Any]]:
    for crop in generator.render_crops([specs[index] for index in indices]):
        yield {
            "image": crop.image,
            "pid": crop.pid,
            "camid": crop.camid,
            "filename": crop.filename,
            "yaw": crop.yaw,
            "pose": crop.pose,
            "visibility": crop.visibility,
        }
