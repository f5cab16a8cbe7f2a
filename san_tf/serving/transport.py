"""Common parts of the gRPC and REST transports: requests, answers and errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from san_tf.errors import UserError, one_line

SIGNATURE, INPUT, OUTPUT = "serving_bytes", "image_bytes", "embedding"
# Most numbers of an embedding, unless the caller expects more; it limits the size of answers.
MOST_NUMBERS = 16_384


class Prediction(NamedTuple):
    """Embeddings `(N, D)` float32, and the version that made them, or None if unknown."""

    embeddings: np.ndarray
    version: int | None


class RefusedError(Exception):
    """The server refuses this request: it cannot decode an image, or refuses all images."""


class TooLargeError(Exception):
    """The request is too large for the server.

    Attributes:
        images: most images that it takes, if it told so.
        memory: whether it ran out of memory, which may also be due to other clients.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        found = re.search(r"maximum (?:input )?batch size (\d+)", message, re.I)
        self.images = int(found.group(1)) if found else None
        self.memory = _NO_MEMORY.search(message) is not None


class GoneError(Exception):
    """The version that answered a call no longer exists."""


class WrongAnswerError(Exception):
    """The server answered, but not with embeddings."""


class Model(NamedTuple):
    """The model to use: its name, and a version or label; neither for the highest version."""

    name: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"version {self.version} of the model {self.name!r}"
        return f"the model {self.name!r}" + (f" with the label {self.label!r}" if self.label else "")


class Transport(Protocol):
    """A transport to a model server; several threads may use it."""

    address: str
    model: Model

    def predict(self, files: Sequence[bytes], timeout: float, version: int | None = None) -> Prediction:
        """Embed JPEG or PNG files.

        Args:
            files: contents of the files.
            timeout: seconds for the whole request.
            version: result of `current_version`, so that all requests use it; None for the model's choice.

        Raises:
            TransientError: a later attempt may succeed.
            RefusedError: the server refused this request.
            TooLargeError: a smaller request may succeed.
            GoneError: `version` no longer exists.
            WrongAnswerError: the answer does not contain embeddings.
            UserError: there is no such model, or the request is not allowed.
        """

    def current_version(self, timeout: float) -> int | None:
        """Return the version to name in requests; None if answers report it, or if it is unknown.

        Raises:
            TransientError: a later attempt may succeed.
        """

    def close(self) -> None:
        """Close connections."""


# Refusals that do not depend on the image, and what they mean. The texts are those of TensorFlow Serving
# (server_core.cc, predict_util.cc, json_tensor.cc, shared_batch_scheduler.h, http_rest_api_handler.cc), gRPC
# and proxies. gRPC reports a proxy's status as "Received http2 header with status: 413".
_NO_MEMORY = re.compile(r"\bOOM\b|out of memory|failed to allocate", re.I)
_TOO_LARGE = re.compile(
    r"larger than (the )?max|maximum (input )?batch size|header with status: 413|"
    r"(message|request|entity|body|payload|content).{0,20} too large",
    re.I,
)
_MEANINGS = (
    (r"version label", "has no version with the label {label!r}; see the labels in its models.config"),
    (
        r"servable not found|could not find (any )?version|no versions of servable",
        "does not serve {model}; see the names, versions and labels in its models.config",
    ),
    (
        r"signature (name|key|def|method_name)|(in|match) signature|tensor alias|have named input|"
        r"is not of expected type",
        f"serves another kind of model as {{model}}, without the signature {SIGNATURE} from {INPUT} to "
        f"{OUTPUT}; serve an export of this package",
    ),
    (
        r"malformed request",
        "does not know the path of the request for {model}; see the address and the model's name, which has "
        "no ':' and no '/', and name a version if the server is too old for labels",
    ),
)  # fmt: skip


def refusal(address: str, model: Model, message: str) -> Exception:
    """Return the error for a server's refusal: of the request's size, the model, or the images.

    Args:
        address: address of the server.
        model: the requested model.
        message: the server's message, on one line.
    """
    if _TOO_LARGE.search(message) or _NO_MEMORY.search(message):
        return TooLargeError(message)
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, message, re.I):
            said = meaning.format(label=model.label, model=model)
            said, _, todo = said.partition("; ")
            return UserError(f"{address} {said} ({message}); {todo}.")
    return RefusedError(message)


def check_shape(shape: Sequence[int], rows: int, most: int) -> None:
    """Raise `WrongAnswerError` unless an answer's `shape` is `(rows, D)` with D from 1 to `most`."""
    shape = tuple(shape)
    if len(shape) != 2 or shape[1] < 1:
        raise WrongAnswerError(f"the embeddings have the shape {one_line(shape, 60)} instead of (N, D)")
    if shape[0] != rows:
        raise WrongAnswerError(f"there are {shape[0]} embeddings")
    if shape[1] > most:
        raise WrongAnswerError(f"an embedding has {shape[1]:,} numbers, more than {most:,}")
