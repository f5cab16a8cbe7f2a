"""What the two ways to a model server have in common: a request, an answer, and what can go wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from san_tf.errors import UserError, one_line

SIGNATURE, INPUT, OUTPUT = "serving_bytes", "image_bytes", "embedding"
# Numbers that an embedding has at most, unless the caller expects more: what an answer may take follows.
MOST_NUMBERS = 16_384


class Prediction(NamedTuple):
    """Embeddings `(N, D)` float32, and the version that made them; None where it is not told."""

    embeddings: np.ndarray
    version: int | None


class RefusedError(Exception):
    """The server will not answer this request: an image cannot be decoded, or none would be taken."""


class TooLargeError(Exception):
    """The request is larger than the server takes: in bytes, or in images where `images` says how many."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        found = re.search(r"maximum batch size (\d+)", message, re.I)
        self.images = int(found.group(1)) if found else None


class GoneError(Exception):
    """The version that a call was answered by is no longer there."""


class WrongAnswerError(Exception):
    """The server answered, but not with embeddings."""


class Model(NamedTuple):
    """Which model is asked: its name, and a version or a label; neither for the highest version."""

    name: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"version {self.version} of the model {self.name!r}"
        return f"the model {self.name!r}" + (f" with the label {self.label!r}" if self.label else "")


class Transport(Protocol):
    """A way to a model server; used by several threads at once."""

    address: str
    model: Model

    def predict(self, files: Sequence[bytes], timeout: float, version: int | None = None) -> Prediction:
        """Embed JPEG or PNG files.

        Args:
            files: their contents.
            timeout: seconds, for all that it takes.
            version: what `current_version` gave, so that a swap cannot change it; None for the model's own.

        Raises:
            TransientError: it may go better later.
            RefusedError: the server refused this request.
            TooLargeError: it might take a smaller one.
            GoneError: `version` is no longer there.
            WrongAnswerError: what came is not an embedding.
            UserError: there is no such model, or the request is not allowed.
        """

    def current_version(self, timeout: float) -> int | None:
        """Return the version to ask for in one call; None where each answer tells it, or nothing does.

        Raises:
            TransientError: it may go better later.
        """

    def close(self) -> None:
        """Close connections."""


# What is said of requests that no other picture would mend, and what that means here: by TensorFlow Serving
# (server_core.cc, predict_util.cc, batching_session.cc, http_rest_api_handler.cc), gRPC and proxies.
_TOO_LARGE = re.compile(
    r"larger than (the )?max|maximum batch size|(message|request|entity|body|payload).{0,20} too large", re.I
)
_MEANINGS = (
    (r"version label", "has no version with the label {label!r}; see the labels in its models.config"),
    (
        r"servable not found|could not find (any )?version|no versions of servable",
        "does not serve {model}; see the names, versions and labels in its models.config",
    ),
    (
        r"signature (name|key|def)|in signature|tensor alias",
        f"serves another kind of model as {{model}}, without the signature {SIGNATURE} from {INPUT} to "
        f"{OUTPUT}; serve an export of this package",
    ),
)  # fmt: skip


def refusal(address: str, model: Model, message: str) -> Exception:
    """Return what a server's refusal means: of the request's size, of what is served, or of its contents.

    Args:
        address: of the server.
        model: that was asked.
        message: the server's, on one line.
    """
    if _TOO_LARGE.search(message):
        return TooLargeError(message)
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, message, re.I):
            said = meaning.format(label=model.label, model=model)
            said, _, todo = said.partition("; ")
            return UserError(f"{address} {said} ({message}); {todo}.")
    return RefusedError(message)


def check_shape(shape: Sequence[int], rows: int, most: int) -> None:
    """Raise `WrongAnswerError` unless an answer is `(rows, D)`, D from 1 to `most`, before it takes room."""
    shape = tuple(shape)
    if len(shape) != 2 or shape[1] < 1:
        raise WrongAnswerError(f"the embeddings have the shape {one_line(shape, 60)} in place of (N, D)")
    if shape[0] != rows:
        raise WrongAnswerError(f"there are {shape[0]} embeddings")
    if shape[1] > most:
        raise WrongAnswerError(f"an embedding has {shape[1]:,} numbers, more than {most:,}")
