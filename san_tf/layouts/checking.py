"""Reads and checks all images in parallel, so that damaged files are found before training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import tensorflow as tf

from san_tf.archives.files import Files
from san_tf.data.headers import read_header
from san_tf.data.images import decode_image
from san_tf.image_formats import jpeg_or_png
from san_tf.layouts.samples import Sample
from san_tf.resources import core_count

MAX_SIDE = 4096
# Images read ahead: enough to keep the threads busy, few enough to limit the memory.
_AHEAD = 64


class Checked(NamedTuple):
    """An image that was read and checked.

    Attributes:
        sample: the image.
        content: the stored bytes of a JPEG or PNG file; other formats are converted to PNG.
        problem: half a sentence ("is empty"); None for a good image.
    """

    sample: Sample
    content: bytes
    problem: str | None


def image_problem(content: bytes) -> str | None:
    """Check an image: first its header, then all pixels with training's decoder.

    Args:
        content: bytes of a file.

    Returns:
        None for a good image, else half a sentence, such as "is empty".

    Example:
        >>> image_problem(b"")
        'is empty'
    """
    try:
        header = read_header(content)
    except ValueError as error:
        return str(error)
    if max(header.height, header.width) > MAX_SIDE:
        return f"has {header.width}x{header.height} pixels, more than {MAX_SIDE}x{MAX_SIDE}"
    try:
        with tf.device("CPU"):
            decode_image(tf.constant(content))
    except (tf.errors.InvalidArgumentError, ValueError):
        return "is damaged: it cannot be decoded"
    return None


def checked_images(files: Files, samples: Sequence[Sample], threads: int | None = None) -> Iterator[Checked]:
    """Read and check images, in the cheapest reading order.

    Memory holds only some tens of images at a time.

    Args:
        files: the user's copy.
        samples: the images to read.
        threads: number of threads that read and decode; None takes twice the number of cores, because some
            wait for the disk.

    Raises:
        UserError: an archive is truncated.
    """
    number = threads or 2 * core_count()
    with ThreadPoolExecutor(number) as pool:
        pending: deque[Future[Checked]] = deque()
        try:
            for index, read in files.stream([sample.path for sample in samples]):
                pending.append(pool.submit(read_checked, samples[index], read))
                if len(pending) >= _AHEAD + number:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def read_checked(sample: Sample, read: Callable[[], bytes], look: bool = True) -> Checked:
    """Read an image, convert it to PNG if it is neither JPEG nor PNG, and check it.

    Args:
        sample: the image.
        read: reads its file.
        look: also decode the pixels, to find damage.
    """
    try:
        content = jpeg_or_png(read(), MAX_SIDE**2)
    except ValueError as error:  # it cannot be read, or not be converted to PNG
        return Checked(sample, b"", str(error))
    return Checked(sample, content, image_problem(content) if look else None)
