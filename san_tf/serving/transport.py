"""What the two ways to a model server have in common: a request, an answer, and what can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

SIGNATURE, INPUT, OUTPUT = "serving_bytes", "image_bytes", "embedding"


class Prediction(NamedTuple):
    """Embeddings `(N, D)` float32, and the version that made them; None where it is not told."""

    embeddings: np.ndarray
    version: int | None


class RefusedError(Exception):
    """The server will not answer this request: most often, an image cannot be decoded."""


class WrongAnswerError(Exception):
    """The server answered, but not with embeddings."""


class Model(NamedTuple):
    """Which model is asked: its name, and a version or a label; neither for the highest version."""

    name: str
    version: int | None = None
    label: str | None = None


class Transport(Protocol):
    """A way to a model server; used by several threads at once."""

    address: str

    def predict(self, files: Sequence[bytes], timeout: float) -> Prediction:
        """Embed JPEG or PNG files.

        Args:
            files: their contents.
            timeout: seconds.

        Raises:
            TransientError: it may go better later.
            RefusedError: the server refused this request.
            WrongAnswerError: what came is no embedding.
            UserError: there is no such model, or the request is not allowed.
        """

    def close(self) -> None:
        """Close connections."""
