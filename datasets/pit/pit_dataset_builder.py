"""pit: rendered paired image-texture data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from san_tf.layouts.rendered_builder import RenderedBuilder
from san_tf.synthesis import generator
from san_tf.synthesis.crop_plans import CropSpec, PitConfig


@dataclasses.dataclass(kw_only=True)
class PitBuilderConfig(tfds.core.BuilderConfig):
    """Builder configuration with sizes and seed of the rendering.

    Attributes:
        rendering: what to render; for photographs as backgrounds, as in the paper, give
            `dataclasses.replace(generator.PIT["paper"], backgrounds="coco/val2017")`.
    """

    rendering: PitConfig


class Builder(RenderedBuilder):
    """Builder of the paired image-texture data set."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {  # noqa: RUF012  # TFDS wants a plain class attribute
        "1.2.0": "The colour cast of each picture, which maps a texture to the picture's colours. Textures "
        "without bags. Shorts, skirts and dresses of any length.",
        "1.1.0": "Half of the clothes in arbitrary colours.",
        "1.0.0": "First release.",
    }
    BUILDER_CONFIGS = [  # noqa: RUF012
        PitBuilderConfig(
            name=name,
            description=(
                f"{rendering.train_textures} training and {rendering.test_textures} test textures, "
                f"{rendering.images_per_texture} images each, "
                f"{rendering.image_height}x{rendering.image_height // 2} pixels."
            ),
            rendering=rendering,
        )
        for name, rendering in generator.PIT.items()
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "texture": tfds.features.Image(shape=(256, 256, 3), encoding_format="png"),
                    "cast": tfds.features.Tensor(shape=(3, 4), dtype=np.float32),
                    "pid": np.int64,
                    "filename": tfds.features.Text(),
                    "yaw": np.float32,
                    "visibility": np.float32,
                }
            ),
            supervised_keys=("image", "texture"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in generator.PIT_SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        specs = generator.pit_index(self.builder_config.rendering, split)
        items = self.parts.items(split, generator.stamps(specs), lambda indices: _pairs(specs, indices))
        for pair in tfds.core.utils.tqdm(items, desc=f"Rendering {split}", total=len(specs), unit=" pairs"):
            yield pair["filename"], pair


def _pairs(specs: Sequence[CropSpec], indices: Sequence[int]) -> Iterator[dict[str, Any]]:
    for crop in generator.render_crops([specs[index] for index in indices]):
        yield {
            "image": crop.image,
            "texture": crop.texture,
            "cast": crop.cast,
            "pid": crop.pid,
            "filename": crop.filename,
            "yaw": crop.yaw,
            "visibility": crop.visibility,
        }
