"""Two layers of the public SAN decoder: reflection padding and corner-aligned resizing."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("san_tf")
class ReflectionPadding2D(keras.layers.Layer):
    """Pads all sides with the map's mirror image, without repeating the border row, like PyTorch's layer.

    Args:
        padding: rows and columns per side.
        kwargs: arguments of `keras.layers.Layer`.

    Example:
        >>> ReflectionPadding2D(1)(keras.Input((8, 4, 32))).shape
        (None, 10, 6, 32)
    """

    def __init__(self, padding: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map `(batch, h, w, c)` to `(batch, h + 2 padding, w + 2 padding, c)`."""
        sides = (self.padding, self.padding)
        return tf.pad(x, ((0, 0), sides, sides, (0, 0)), "REFLECT")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Input shape with height and width larger by twice the padding."""
        batch, height, width, channels = input_shape
        more = 2 * self.padding
        return batch, height and height + more, width and width + more, channels

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config() | {"padding": self.padding}


@keras.saving.register_keras_serializable("san_tf")
class CornerAlignedResizing(keras.layers.Layer):
    """Bilinear resize that keeps corner pixels at the corners: PyTorch's `align_corners=True`.

    Args:
        size: output height and width.
        kwargs: arguments of `keras.layers.Layer`.

    Example:
        >>> CornerAlignedResizing((256, 256))(keras.Input((256, 128, 3))).shape
        (None, 256, 256, 3)
    """

    def __init__(self, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = (int(size[0]), int(size[1]))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map `(batch, h, w, c)` to `(batch, *size, c)`."""
        # TensorFlow only has this as a raw operation; tf.image.resize dropped it.
        return tf.raw_ops.ResizeBilinear(
            images=x, size=self.size, align_corners=True, half_pixel_centers=False
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Input shape with height and width replaced by `size`."""
        return input_shape[0], *self.size, input_shape[3]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config() | {"size": self.size}
