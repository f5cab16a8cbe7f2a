"""Serving: the encoder as a SavedModel that answers in TensorFlow alone, and what it takes to serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from san_tf.serving.export import export_encoder, next_version, read_calibration, read_metadata

__all__ = ["export_encoder", "next_version", "read_calibration", "read_metadata"]


def __getattr__(name: str) -> Any:
    """Import the export, and with it TensorFlow, when it is asked for; the other modules do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from san_tf.serving import export

    return getattr(export, name)
