"""From files to training batches: records, identity sampling, augmentation, tf.data pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.data.augmentation import Augmentation
    from san_tf.data.dataset_loading import load_dataset
    from san_tf.data.pipeline import inference_dataset, train_dataset
    from san_tf.data.quality import CropQuality, crop_quality
    from san_tf.data.records import Records
    from san_tf.data.textures import attach_textures, write_textures

__all__ = [
    "Augmentation",
    "CropQuality",
    "Records",
    "attach_textures",
    "crop_quality",
    "inference_dataset",
    "load_dataset",
    "train_dataset",
    "write_textures",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Augmentation": "augmentation",
        "CropQuality": "quality",
        "Records": "records",
        "attach_textures": "textures",
        "crop_quality": "quality",
        "inference_dataset": "pipeline",
        "load_dataset": "dataset_loading",
        "train_dataset": "pipeline",
        "write_textures": "textures",
    },
)
