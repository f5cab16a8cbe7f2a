"""Serving: exports an encoder as a SavedModel for plain TensorFlow, and serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.serving.encoder_export import export_encoder, next_version, read_calibration, read_metadata

__all__ = ["export_encoder", "next_version", "read_calibration", "read_metadata"]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "encoder_export"))
