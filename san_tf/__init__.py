"""Semantics-aligned person re-identification for TensorFlow and Keras."""

from san_tf.version import __version__

__all__ = ["__version__"]
