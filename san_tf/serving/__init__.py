"""Serving: the encoder as a SavedModel that answers in TensorFlow alone."""

from san_tf.serving.export import export_encoder, next_version, read_calibration, read_metadata

__all__ = ["export_encoder", "next_version", "read_calibration", "read_metadata"]
