"""Loads an encoder by name and embeds images of any kind: `load_encoder("people_scratch").embed(...)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from san_tf.data.upright import MAX_PIXELS, PhotographError, upright
from san_tf.embedding.exported_encoder import ExportedEncoder
from san_tf.errors import UserError, one_line
from san_tf.image_formats import read_regular
from san_tf.models.encoder import build_encoder
from san_tf.models.presets import PRESETS
from san_tf.serving.inference import inference_endpoints
from san_tf.serving.runtime_sessions import checked_images
from san_tf.trusted import model_path

_MAX_BYTES = 6 * MAX_PIXELS + 2**20
_KINDS = "a path, the bytes of a file, a PIL image or a uint8 array (H, W, 3)"

Picture = str | os.PathLike[str] | bytes | np.ndarray | Image.Image
Images = Picture | Iterable[Any]
_Function = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


class LoadedEncoder:
    """Encoder for inference: takes images of any kind and size, returns embeddings of length 1.

    Get one from `load_encoder`. It resizes and normalises images, as an export does.

    Attributes:
        name: name or path that it was loaded from.
        dimensions: dimensions of an embedding, D.
        image_size: height and width of the network's input, in pixels; images are resized to it.
    """

    def __init__(
        self,
        name: str,
        dimensions: int,
        image_size: tuple[int, int],
        from_files: _Function,
        from_pixels: _Function,
        kept: Any = None,
    ) -> None:
        self.name, self.dimensions, self.image_size = name, dimensions, image_size
        self._from_files, self._from_pixels, self._kept = from_files, from_pixels, kept

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"LoadedEncoder({self.name!r}, {height}x{width} pixels to {self.dimensions} numbers)"

    def embed(self, images: Images, batch_size: int = 32) -> np.ndarray:
        """Embed images; the cosine similarity of two embeddings is their inner product.

        Args:
            images: one image or many. An image is a path, the bytes of a file, a PIL image or a uint8 RGB
                array `(H, W, 3)`. Many images are a list or other iterable of images, an array
                `(N, H, W, 3)`, or batches of such arrays, such as a `tf.data.Dataset`. EXIF orientation is
                applied.
            batch_size: images in a batch of the network.

        Returns:
            `(N, dimensions)` float32, each row of length 1, in the order of the images; N is 1 for one image
            and 0 for none.

        Raises:
            UserError: a value is not an image, or a file is missing or damaged; the message names it.

        Example:
            >>> encoder = load_encoder("people_scratch")
            >>> first, second = encoder.embed(["0001_c1.jpg", "0001_c2.jpg"])
            >>> similarity = float(first @ second)
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1; received {batch_size}.")
        rows: list[np.ndarray] = []
        waiting: list[tuple[str, bytes | np.ndarray]] = []
        for name, content in _pictures(images):
            # A batch holds arrays of one size, or files of any size.
            if waiting and (len(waiting) == batch_size or _kind(content) != _kind(waiting[0][1])):
                rows.append(self._embed(waiting))
                waiting = []
            waiting.append((name, content))
        if waiting:
            rows.append(self._embed(waiting))
        return np.concatenate(rows) if rows else np.empty((0, self.dimensions), np.float32)

    def _embed(self, batch: list[tuple[str, bytes | np.ndarray]]) -> np.ndarray:
        contents = [content for _, content in batch]
        if isinstance(contents[0], np.ndarray):
            answer = self._from_pixels(tf.constant(np.stack(contents)))
        else:
            try:
                answer = self._from_files(tf.constant(contents, tf.string))
            except tf.errors.InvalidArgumentError as error:
                if len(batch) > 1:
                    return np.concatenate([self._embed([one]) for one in batch])
                raise UserError(
                    f"{batch[0][0]} is damaged: it cannot be decoded; leave it out or copy it again."
                ) from error
        embedding: np.ndarray = answer["embedding"].numpy()
        return embedding


def load_encoder(model: str | os.PathLike[str] | keras.Model) -> LoadedEncoder:
    """Load an encoder to embed images.

    An export is a program that runs with the rights of this process: load only exports you trust.

    Args:
        model: one of: the folder of an export, `saved_models/market/1`, or of its versions, for the newest;
            the name of one that comes along, `people`, `people_scratch` or `synthetic`; a preset, by its
            name, folder (from `save_to_preset`) or `hf://user/name`; an encoder from `build_encoder`.

    Returns:
        The encoder.

    Raises:
        UserError: the encoder does not exist, or its files are damaged.

    Example:
        >>> load_encoder("people_scratch").embed("crop.jpg").shape
        (1, 192)
    """
    if isinstance(model, keras.Model):
        return _of_model(model.name, getattr(model, "encoder", model))
    text = os.fspath(model)
    folder = model_path(text)
    if folder.is_dir() and not (folder / "config.json").is_file():
        export = ExportedEncoder(folder)
        height, width = export.metadata["image_size"]
        return LoadedEncoder(
            text,
            export.size,
            (int(height), int(width)),
            lambda files: export.signatures["serving_bytes"](image_bytes=files),
            lambda pixels: export.signatures["serving_default"](images=pixels),
            export,
        )
    # The classifier of a named preset is not used here, so its size does not matter.
    classes = 1 if text in PRESETS else None
    return _of_model(text, build_encoder.from_preset(text, classes))


def _of_model(name: str, encoder: keras.Model) -> LoadedEncoder:
    _, height, width, _ = encoder.input.shape
    endpoints = inference_endpoints(encoder, None, (int(height), int(width)))
    from_files, from_pixels = (
        tf.function(endpoints[signature].function, [endpoints[signature].spec], autograph=False)
        for signature in ("serving_bytes", "serving_default")
    )
    dimensions = int(encoder.output["embedding"].shape[-1])
    return LoadedEncoder(name, dimensions, (int(height), int(width)), from_files, from_pixels, encoder)


def _kind(content: bytes | np.ndarray) -> tuple[int, ...] | None:
    return content.shape if isinstance(content, np.ndarray) else None


def _pictures(images: Images) -> Iterator[tuple[str, bytes | np.ndarray]]:
    """Yield the name of each image for messages, and its content: bytes of a file, or pixels."""
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        yield _picture(0, images)
        return
    if isinstance(images, (np.ndarray, tf.Tensor)):
        yield from _pixels(0, np.asarray(images))
        return
    if isinstance(images, (Mapping, set, frozenset)) or not hasattr(images, "__iter__"):
        raise UserError(f"Images must be {_KINDS}, or a list of these; received {type(images).__name__}.")
    number = 0
    for item in images:
        if isinstance(item, (np.ndarray, tf.Tensor)):
            for found in _pixels(number, np.asarray(item)):
                yield found
                number += 1
        else:
            yield _picture(number, item)
            number += 1


def _picture(number: int, image: Any) -> tuple[str, bytes | np.ndarray]:
    name = f"Image {number}"
    try:
        if isinstance(image, (bytes, bytearray, memoryview)):
            return name, upright(bytes(image))
        if isinstance(image, (str, os.PathLike)):
            name = one_line(os.fspath(image), 400)
            return name, upright(read_regular(image, _MAX_BYTES))
        if isinstance(image, Image.Image):
            return name, np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except PhotographError as error:
        raise UserError(f"{name} {error}; leave it out or copy it again.") from error
    except IsADirectoryError as error:
        raise UserError(
            f"{name} is a folder; give its files, such as sorted(Path({name!r}).glob('*.jpg'))."
        ) from error
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); check the path.") from error
    raise UserError(f"{name} is a {type(image).__name__}; give {_KINDS}.")


def _pixels(number: int, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the images of an array `(H, W, 3)` or `(N, H, W, 3)`, with their names."""
    for place, image in enumerate(checked_images(array[None] if array.ndim == 3 else array)):
        yield f"Image {number + place}", image
