"""Semantics-aligned person re-identification for TensorFlow and Keras.

The names below are the public interface, which the README, the guides and the version numbers refer to. It
also includes the names that these folders list: `san_tf.models`, `san_tf.losses`, `san_tf.data`,
`san_tf.training`, `san_tf.evaluation`, `san_tf.retrieval`, `san_tf.serving`, `san_tf.visualization`,
`san_tf.synthesis`, `san_tf.adaptation` and `san_tf.convert`. Everything else is internal and may change
without notice.

Names are imported on first use, so `import san_tf` is quick and does not import TensorFlow.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from san_tf.version import __version__

# TensorFlow reads this when it is imported. It takes oneDNN's convolutions of its own accord only where the
# processor has AVX-512. With AVX2 alone (AMD EPYC), small networks train 1.4 to 1.75 times as fast with them.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:
    from san_tf.data.dataset_loading import load_dataset
    from san_tf.embedding.encoder_loading import LoadedEncoder, load_encoder
    from san_tf.embedding.frames import FrameEncoder
    from san_tf.embedding.track_encoder import Track, TrackEncoder
    from san_tf.errors import UserError
    from san_tf.evaluation.embedding import evaluate
    from san_tf.models.decoder import build_decoder
    from san_tf.models.encoder import build_encoder
    from san_tf.models.san import SAN, SANPG, LossWeights
    from san_tf.registry import register_backbone, register_loss
    from san_tf.retrieval.gallery import Gallery
    from san_tf.retrieval.opening import open_gallery
    from san_tf.training.fitting import train

_HOMES = {
    "SAN": "san_tf.models.san",
    "SANPG": "san_tf.models.san",
    "LossWeights": "san_tf.models.san",
    "build_encoder": "san_tf.models.encoder",
    "build_decoder": "san_tf.models.decoder",
    "load_encoder": "san_tf.embedding.encoder_loading",
    "FrameEncoder": "san_tf.embedding.frames",
    "Track": "san_tf.embedding.track_encoder",
    "TrackEncoder": "san_tf.embedding.track_encoder",
    "LoadedEncoder": "san_tf.embedding.encoder_loading",
    "load_dataset": "san_tf.data.dataset_loading",
    "train": "san_tf.training.fitting",
    "evaluate": "san_tf.evaluation.embedding",
    "Gallery": "san_tf.retrieval.gallery",
    "open_gallery": "san_tf.retrieval.opening",
    "register_backbone": "san_tf.registry",
    "register_loss": "san_tf.registry",
    "UserError": "san_tf.errors",
}

__all__ = [
    "SAN",
    "SANPG",
    "FrameEncoder",
    "Gallery",
    "LoadedEncoder",
    "LossWeights",
    "Track",
    "TrackEncoder",
    "UserError",
    "__version__",
    "build_decoder",
    "build_encoder",
    "evaluate",
    "load_dataset",
    "load_encoder",
    "open_gallery",
    "register_backbone",
    "register_loss",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a name of the interface on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the interface, for completion."""
    return sorted({*globals(), *__all__})
