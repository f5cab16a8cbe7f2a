"""Converts checkpoints of PyTorch re-ID code to Keras weights and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.convert.converter import Conversion, convert_checkpoint
    from san_tf.convert.to_pytorch import convert_weights, write_state_dict

__all__ = [
    "Conversion",
    "convert_checkpoint",
    "convert_weights",
    "write_state_dict",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Conversion": "converter",
        "convert_checkpoint": "converter",
        "convert_weights": "to_pytorch",
        "write_state_dict": "to_pytorch",
    },
)
