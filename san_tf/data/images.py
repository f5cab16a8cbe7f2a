"""Decoding, resizing and normalisation of images, the same for training and inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from san_tf.data.headers import ORIENTATION_TAG, TIFF_LONG, TIFF_SHORT, read_orientation
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

# How to turn the stored image upright, by EXIF orientation from 1: exchange rows and columns, then reverse
# the rows, then the columns.
_EXCHANGE = (False, False, False, False, True, True, True, True)
_TURN_ROWS = (False, False, True, True, False, False, True, True)
_TURN_COLUMNS = (False, True, True, False, False, True, True, False)


def decode_image(encoded: tf.Tensor, orientation: tf.Tensor | int | None = None) -> tf.Tensor:
    """Decode a JPEG or PNG file to an upright RGB image.

    Greyscale is repeated to three channels, alpha is dropped, and the EXIF orientation is applied, as
    `data.upright` and browsers do. JPEGs are always decoded with `INTEGER_ACCURATE`, so that pixels do not
    depend on how TensorFlow was compiled.

    Args:
        encoded: scalar string.
        orientation: scalar int32, 1 to 8, if it is already known (see `orientations`); None reads it from
            the file, in the graph.

    Returns:
        `(height, width, 3)` uint8.

    Raises:
        tf.errors.InvalidArgumentError: the bytes cannot be decoded. `Records` checks its images on creation,
            so this does not happen in training.
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    # decode_jpeg also decodes PNG, and is the fastest decoder for both.
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.ensure_shape(image, (None, None, 3))
    if orientation is None and tf.executing_eagerly():
        orientation = read_orientation(encoded.numpy())
    if orientation is not None:
        return image if isinstance(orientation, int) and orientation == 1 else _turned(image, orientation)
    # Crops of surveillance cameras have no EXIF data, and searching for its name is quick.
    marked = tf.strings.regex_full_match(encoded, r"\C*(?:Exif|eXIf)\C*")
    return tf.cond(marked, lambda: _turned(image, _orientation(encoded)), lambda: image)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the data set without TensorFlow's tuning of its threads.

    The tuner sleeps for up to a minute at a time, and whoever destroys an iterator waits until it wakes
    (TensorFlow 2.21: after a minute of training, 20 seconds). `AUTOTUNE` then means a call for each core, at
    most 16.

    Example:
        >>> batches = untuned(tf.data.Dataset.range(9).map(abs, num_parallel_calls=tf.data.AUTOTUNE))
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def orientations(files: Iterable[bytes]) -> Callable[[tf.Tensor], tf.Tensor | int]:
    """Read the orientations of many files once, so that pipelines need not read them in every step.

    Args:
        files: contents of JPEG or PNG files.

    Returns:
        Function from the scalar index of a file to its orientation, for `decode_image`.
    """
    found = np.fromiter(map(read_orientation, files), np.int32)
    if (found == 1).all():
        return lambda index: 1
    known = tf.constant(found)
    return lambda index: tf.gather(known, index)


def _turned(image: tf.Tensor, orientation: tf.Tensor | int) -> tf.Tensor:
    """The image `(height, width, 3)` turned upright; `orientation` is a scalar int32, 1 to 8."""

    def when(
        which: tuple[bool, ...], change: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor
    ) -> tf.Tensor:
        changed = tf.cond(tf.constant(which)[orientation - 1], lambda: change(image), lambda: image)
        return tf.ensure_shape(changed, (None, None, 3))

    image = when(_EXCHANGE, lambda stored: tf.transpose(stored, (1, 0, 2)), image)
    image = when(_TURN_ROWS, lambda stored: tf.reverse(stored, [0]), image)
    return when(_TURN_COLUMNS, lambda stored: tf.reverse(stored, [1]), image)


def _orientation(encoded: tf.Tensor) -> tf.Tensor:
    """`headers.read_orientation` in TensorFlow operations that every server has; scalar int32."""
    stored = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int64)
    size = tf.size(stored, tf.int64)

    def number(position: tf.Tensor, width: int, big: bool | tf.Tensor = True) -> tf.Tensor:
        """The unsigned integer at a position; bytes beyond the end of the file count as 0."""
        places = position + tf.range(width, dtype=tf.int64)
        values = tf.where(places < size, tf.gather(stored, tf.clip_by_value(places, 0, size - 1)), 0)
        values = tf.where(big, values, tf.reverse(values, [0]))
        return tf.reduce_sum(values * tf.constant([256**power for power in reversed(range(width))], tf.int64))

    def is_text(position: tf.Tensor, text: bytes) -> tf.Tensor:
        return tf.equal(number(position, len(text)), int.from_bytes(text, "big"))

    nothing = (tf.constant(-1, tf.int64), tf.constant(0, tf.int64))  # where EXIF data begin and end

    def jpeg_step(position: tf.Tensor, _: tf.Tensor, __: tf.Tensor) -> tuple[tf.Tensor, ...]:
        marker, length = number(position + 1, 1), number(position + 2, 2)
        end = position + 2 + length
        found = tf.equal(marker, 0xE1) & is_text(position + 4, b"Exif\0\0")
        stop = (number(position, 1) != 0xFF) | tf.equal(marker, 0xD9) | tf.equal(marker, 0xDA) | found
        bare = tf.equal(marker, 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        following = tf.where(tf.equal(marker, 0xFF), position + 1, tf.where(bare, position + 2, end))
        found &= tf.equal(number(position, 1), 0xFF)
        return (
            tf.where(stop, size, following),
            tf.where(found, position + 10, nothing[0]),
            tf.where(found, tf.minimum(end, size), nothing[1]),
        )

    def png_step(position: tf.Tensor, _: tf.Tensor, __: tf.Tensor) -> tuple[tf.Tensor, ...]:
        begin, length = position + 8, number(position, 4)
        found = is_text(position + 4, b"eXIf")
        # Some programs repeat the prefix that JPEG files have.
        skipped = tf.where(is_text(begin, b"Exif\0\0"), tf.constant(6, tf.int64), 0)
        return (
            tf.where(found, size, begin + length + 4),
            tf.where(found, begin + skipped, nothing[0]),
            tf.where(found, tf.minimum(begin + length, size), nothing[1]),
        )

    def walk(
        step: Callable[..., tuple[tf.Tensor, ...]], start: int, least: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        _, begin, end = tf.while_loop(
            lambda position, *_: position + least <= size, step, (tf.constant(start, tf.int64), *nothing)
        )
        return begin, end

    begin, end = tf.cond(
        is_text(tf.constant(0, tf.int64), b"\xff\xd8"),
        lambda: walk(jpeg_step, 2, 4),
        lambda: walk(png_step, 8, 8),
    )
    big = tf.equal(number(begin, 1), ord("M"))
    whole = (begin >= 0) & (is_text(begin, b"II*\0") | is_text(begin, b"MM\0*"))
    directory = begin + number(begin + 4, 4, big)
    whole &= directory + 2 <= end
    entries = tf.where(whole, tf.minimum(number(directory, 2, big), (end - directory - 2) // 12), 0)

    def entry_step(index: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        entry = directory + 2 + 12 * index
        kind = number(entry + 2, 2, big)
        is_long = tf.equal(kind, TIFF_LONG)
        value = tf.where(is_long, number(entry + 8, 4, big), number(entry + 8, 2, big))
        known = (tf.equal(kind, TIFF_SHORT) | is_long) & tf.equal(number(entry + 4, 4, big), 1)
        value = tf.where(known & (value >= 1) & (value <= 8), value, 1)
        found = tf.equal(number(entry, 2, big), ORIENTATION_TAG)
        return tf.where(found, entries, index + 1), tf.where(found, value, 1)

    start = (tf.constant(0, tf.int64), tf.constant(1, tf.int64))
    _, value = tf.while_loop(lambda index, _: index < entries, entry_step, start)
    return tf.cast(value, tf.int32)


def resize_image(image: tf.Tensor, size: tf.Tensor | tuple[int, int]) -> tf.Tensor:
    """Resize bilinearly with half-pixel centres and without antialiasing (`tf.image.resize`'s defaults).

    Re-ID crops are seldom larger than the network's input, so antialiasing would change little. Every server
    and converter has the plain operation.

    Args:
        image: `(height, width, 3)` or `(N, height, width, 3)` of any numeric dtype.
        size: new height and width in pixels; may be a tensor.

    Returns:
        float32 of the same rank, in the value range of `image`.
    """
    return tf.image.resize(image, size, method="bilinear")


def normalize_images(images: tf.Tensor) -> tf.Tensor:
    """Normalise images as `san_tf.normalization.normalize` does, but faster.

    A row of pixels is one vector of `3 W` values. On a CPU, multiplying along a last axis of length 3 is
    several times slower than along one of a few hundred.

    Args:
        images: `(N, H, W, 3)` float32, 0-255, with static H and W.

    Returns:
        `(N, H, W, 3)` float32.
    """
    height, width = images.shape[1], images.shape[2]
    scale = tf.tile(tf.constant(1.0 / (255.0 * IMAGENET_STD), tf.float32), [width])
    shift = tf.tile(tf.constant(IMAGENET_MEAN / IMAGENET_STD, tf.float32), [width])
    rows = tf.reshape(images, (-1, height, width * 3))
    return tf.reshape(rows * scale - shift, (-1, height, width, 3))
