"""Encoder of the page: embeds image files and paints their textures."""

from __future__ import annotations

import io
import os
import threading
from typing import Protocol

import numpy as np
import tensorflow as tf
from PIL import Image

from san_tf.data.images import decode_image
from san_tf.data.upright import PhotographError, upright
from san_tf.embedding.exported_encoder import ExportedEncoder
from san_tf.page.questions import RefusedError

_UNDECODABLE = "is damaged: it cannot be decoded"


class Network(Protocol):
    """Interface that the page needs of an encoder.

    Attributes:
        size: dimensions of an embedding.
        name: name to show, such as `market/1`.
        fingerprint: of weights and preprocessing; "" where unknown.
        paints: whether `paint` works.
    """

    size: int
    name: str
    fingerprint: str
    paints: bool

    def embed(self, content: bytes) -> np.ndarray:
        """Return the `(D,)` float32 embedding of a file; RefusedError if it cannot be used."""

    def paint(self, content: bytes) -> np.ndarray:
        """Return the `(T, T, 3)` uint8 texture of the person in a file; RefusedError if it cannot be used."""

    def warm_up(self) -> None:
        """Run everything once."""


class ExportedNetwork:
    """Encoder from an export, with its signature `texture` if it has one.

    Args:
        model: `saved_models/market/1`, or `saved_models/market` for its newest version.

    Raises:
        UserError: the folder is not an export of this package, or is damaged.

    Example:
        >>> network = ExportedNetwork("saved_models/synthetic/1")
        >>> network.paint(Path("crop.jpg").read_bytes()).shape
        (128, 128, 3)
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self.encoder = ExportedEncoder(model)
        self.size = self.encoder.size
        folder = self.encoder.folder.resolve()
        self.name = f"{folder.parent.name}/{folder.name}"
        self.fingerprint = self.encoder.fingerprint
        self._paint = self.encoder.signatures.get("texture")
        self.paints = self._paint is not None
        # TensorFlow uses all cores for one picture, so more in parallel gain nothing. Turning a large
        # photograph upright takes half a gigabyte, so that waits, too.
        self._turn = threading.Lock()

    def embed(self, content: bytes) -> np.ndarray:
        """Return the `(D,)` float32 embedding of a JPEG or PNG file.

        Raises:
            RefusedError: the file is neither, is damaged, or has too many pixels.
        """
        with self._turn:
            embedding = self.encoder.embed_each([_upright(content)])[0]
        if embedding is None:
            raise RefusedError(f"The picture {_UNDECODABLE}.")
        return embedding

    def paint(self, content: bytes) -> np.ndarray:
        """Return the `(T, T, 3)` uint8 RGB texture of the person in a JPEG or PNG file.

        Raises:
            RefusedError: as `embed`, or the export has no signature `texture`.
        """
        if self._paint is None:
            raise RefusedError(f"{self.name} paints no textures; export it with --export_texture.")
        try:
            with self._turn:
                image = decode_image(tf.constant(_upright(content)))
                texture: np.ndarray = self._paint(images=image[None])["texture"][0].numpy()
        except tf.errors.InvalidArgumentError as error:
            raise RefusedError(f"The picture {_UNDECODABLE}.") from error
        return texture

    def warm_up(self) -> None:
        """Run everything once, because the first run of TensorFlow is slow."""
        file = io.BytesIO()
        Image.new("RGB", (64, 128), (127, 127, 127)).save(file, "PNG")
        self.embed(file.getvalue())
        if self.paints:
            self.paint(file.getvalue())


def _upright(content: bytes) -> bytes:
    try:
        return upright(content)
    except PhotographError as error:
        raise RefusedError(f"The picture {error}.") from error
