"""Runs an exported encoder in this process: embeds image files as a model server would."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from san_tf.embedding.sources import is_decodable
from san_tf.errors import UserError
from san_tf.serving.encoder_export import read_metadata
from san_tf.serving.fingerprint import fingerprint, verify_export
from san_tf.serving.servable import check_export, newest_export


class ExportedEncoder:
    """An exported encoder.

    An export is a program that runs with the rights of this process: load only exports you trust.

    Args:
        model: `saved_models/market/1`, or `saved_models/market` for its newest version.

    Attributes:
        folder: folder of the version.
        metadata: metadata of the export, see `serving.read_metadata`.
        size: dimensions of an embedding.
        signatures: TensorFlow signatures of the export, by name.

    Raises:
        UserError: the folder is not an export of this package, or is damaged.

    Example:
        >>> encoder = ExportedEncoder("saved_models/market")
        >>> encoder.embed([Path("crop.jpg").read_bytes()]).shape
        (1, 2048)
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self.folder = folder = newest_export(model)
        self.metadata = read_metadata(folder)
        verify_export(folder)
        check_export(folder)
        try:
            # Kept, because its variables are freed with it.
            self._loaded = tf.saved_model.load(str(folder))
            self.signatures = self._loaded.signatures
            self._embed = self.signatures["serving_bytes"]
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{folder} cannot be loaded ({reason}); export it again.") from error
        self.size = int(self.metadata["embedding_size"])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of weights and preprocessing, 16 hexadecimal digits; see `serving.fingerprint`."""
        return fingerprint(self.folder, self.metadata)

    def embed(self, files: Sequence[bytes]) -> np.ndarray:
        """Embed files, all of which must be decodable.

        Args:
            files: contents of JPEG or PNG files, at least one.

        Returns:
            `(N, size)` float32.

        Raises:
            tf.errors.InvalidArgumentError: a file cannot be decoded.
        """
        answer: np.ndarray = self._embed(image_bytes=tf.constant(list(files), tf.string))["embedding"].numpy()
        return answer

    def embed_each(self, files: Sequence[bytes]) -> list[np.ndarray | None]:
        """Embed files; None for each damaged one, which alone costs extra time."""
        try:
            return list(self.embed(files)) if files else []
        except tf.errors.InvalidArgumentError:
            good = [is_decodable(content) for content in files]
            kept = [content for content, fine in zip(files, good, strict=True) if fine]
            embedded = iter(self.embed(kept) if kept else ())
            return [next(embedded) if fine else None for fine in good]
