"""A client of a model server that serves our exports: files in, embeddings out, by gRPC or REST."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.progress import with_bar
from san_tf.serving.outgoing import Image, OutgoingImage, read_image
from san_tf.serving.retries import Backoff, GaveUpError, ask
from san_tf.serving.transport import Model, Prediction, RefusedError, Transport, WrongAnswerError

# How often batches of an older version are asked again before a server that goes to and fro is reported.
_ROUNDS = 4


class _Piece(NamedTuple):
    """A batch, or a part of one that had to be divided, and its answer."""

    items: Sequence[OutgoingImage]
    answer: Prediction


class Client:
    """Embeds images by a model server; may be used by several threads.

    Requests that fail for the moment (no connection, overload, timeout) are asked again with growing pauses.
    Answers are checked: one finite row an image, all of one length. Nothing is sent that is no JPEG or PNG
    by its first bytes; a file that the server cannot decode is found by dividing its batch.

    Args:
        server: `grpc://HOST:8500` or `HOST:8500`, with TLS `grpcs://`; by REST `http://HOST:8501`, `https://`.
        model: its name on the server.
        version: of the model; None for the one with `label`, or the highest.
        label: such as "stable".
        batch_size: images a request; no more than the server's `max_batch_size`.
        in_flight: requests under way at a time, so that the server need not wait for the next.
        timeout: seconds that a request may take before it is asked again.
        deadline: seconds that one call of `embed` or `stream` may take in all; None for no limit.
        backoff: how often a request is asked, and the pauses.
        embedding_size: what the embeddings must have; None for whatever the first answer has.

    Raises:
        UserError: a value is impossible, or gRPC is wanted and `tensorflow-serving-api` not installed.

    Example:
        >>> with Client("localhost:8500", "market", label="stable") as client:
        ...     embeddings = client.embed(["0001_c1.jpg", "0002_c3.jpg"], progress="Embedding")
    """

    def __init__(
        self,
        server: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        batch_size: int = 32,
        in_flight: int = 2,
        timeout: float = 30.0,
        deadline: float | None = None,
        backoff: Backoff | None = None,
        embedding_size: int | None = None,
    ) -> None:
        if version is not None and label is not None:
            raise UserError(f"Name a version ({version}) or a label ({label!r}), not both.")
        for name, value in (("batch_size", batch_size), ("in_flight", in_flight)):
            if value < 1:
                raise UserError(f"{name} must be at least 1; received {value}.")
        if timeout <= 0 or (deadline is not None and deadline <= 0):
            raise UserError(f"timeout and deadline must be above 0 s; received {timeout} and {deadline}.")
        self._transport = _connect(server, Model(model, version, label))
        self._batch_size, self._in_flight = batch_size, in_flight
        self._timeout, self._deadline = timeout, deadline
        self._backoff = backoff or Backoff()
        self._size = embedding_size

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def embed(self, images: Sequence[Image], progress: str | None = None) -> np.ndarray:
        """Return the embeddings of images, in their order, all of one version of the model.

        If the server swaps the version meanwhile, what the other version answered is asked again. REST does
        not tell versions: name one (`version=`), or a swap may go unnoticed.

        Args:
            images: paths or contents of JPEG or PNG files.
            progress: shown beside a bar; None for no bar.

        Returns:
            `(N, D)` float32.

        Raises:
            UserError: a file cannot be read or is no image, the server cannot be reached, refuses, does not
                answer within the deadline, or answers what cannot be right.
        """
        until = self._until()
        total = -(-len(images) // self._batch_size)
        groups = with_bar(self._answers(self._batches(images), until), progress, total)
        pieces = [piece for group in groups for piece in group]
        newest = pieces
        for _ in range(_ROUNDS):
            # What was answered last tells which version the server has come to.
            current = newest[-1].answer.version if newest else None
            stale = [piece.items for piece in pieces if piece.answer.version != current]
            if not stale:
                return self._joined(pieces)
            fresh = list(self._answers(stale, until))
            newest = fresh[-1]
            again = iter(fresh)
            pieces = [
                new
                for piece in pieces
                for new in ([piece] if piece.answer.version == current else next(again))
            ]
        versions = sorted({str(piece.answer.version) for piece in pieces})
        raise UserError(
            f"{self._transport.address} answers by versions {' and '.join(versions)} in turn, whose "
            "embeddings cannot be compared; name one with version=."
        )

    def stream(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Yield embeddings batch by batch, in the order of the images, in memory that does not grow.

        Each batch is of one version of the model, which `Prediction.version` tells; a swap shows there.

        Args:
            images: paths or contents of JPEG or PNG files; taken as they are needed.

        Raises:
            UserError: as `embed`; also if embeddings change their length.
        """
        size = self._size
        for group in self._answers(self._batches(images), self._until()):
            for piece in group:
                size = self._checked_size(piece.answer, size)
                yield piece.answer

    def _until(self) -> float | None:
        return None if self._deadline is None else time.monotonic() + self._deadline

    def _batches(self, images: Iterable[Image]) -> Iterator[list[OutgoingImage]]:
        """Read the images batch by batch, each when it is about to be sent."""
        numbered = enumerate(images)
        while batch := list(itertools.islice(numbered, self._batch_size)):
            yield [read_image(number, image) for number, image in batch]

    def _answers(
        self, batches: Iterable[Sequence[OutgoingImage]], until: float | None
    ) -> Iterator[list[_Piece]]:
        """Yield the pieces of each batch, in order, with `in_flight` requests under way."""
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="san_tf.client")
        waiting: deque[Future[list[_Piece]]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(self._embed_batch, batch, until, stop))
                if len(waiting) > 2 * self._in_flight:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # After an error, or where nobody wants the rest: no further request, no waiting for the present.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _embed_batch(
        self, items: Sequence[OutgoingImage], until: float | None, stop: threading.Event
    ) -> list[_Piece]:
        """Ask for a batch; where it is refused, divide it until the image that is refused stands alone."""
        try:
            return [_Piece(items, self._ask(items, until, stop))]
        except RefusedError as error:
            if len(items) > 1:
                middle = len(items) // 2
                halves = (items[:middle], items[middle:])
                return [piece for half in halves for piece in self._embed_batch(half, until, stop)]
            refused = error
        try:
            # A server that runs requests together refuses all of them for one broken file, also a stranger's.
            return [_Piece(items, self._ask(items, until, stop))]
        except RefusedError:
            raise UserError(
                f"{items[0].name} was refused by {self._transport.address} ({refused}); leave it out or "
                "repair it."
            ) from refused

    def _ask(self, items: Sequence[OutgoingImage], until: float | None, stop: threading.Event) -> Prediction:
        """One batch, asked again while that may help, with its answer checked."""
        files = [item.contents for item in items]
        address = self._transport.address
        try:
            answer = ask(
                lambda seconds: self._transport.predict(files, seconds),
                self._backoff,
                self._timeout,
                until,
                stop.wait,
            )
            _check(answer, len(items))
        except GaveUpError as error:
            raise UserError(
                f"{address} did not answer: {error}; see that the server runs, that the address is right, "
                "and that timeout and deadline are long enough."
            ) from error
        except WrongAnswerError as error:
            raise UserError(
                f"{address} answered {len(items)} images wrongly: {error}; see which model it serves."
            ) from error
        return answer

    def _checked_size(self, answer: Prediction, size: int | None) -> int:
        found = answer.embeddings.shape[1]
        if size is not None and found != size:
            raise UserError(
                f"{self._transport.address} answers with embeddings of {found} numbers where {size} were "
                "expected; see which model and version it serves."
            )
        return found

    def _joined(self, pieces: Sequence[_Piece]) -> np.ndarray:
        size = self._size
        for piece in pieces:
            size = self._checked_size(piece.answer, size)
        if not pieces:
            return np.empty((0, size or 0), np.float32)
        return np.concatenate([piece.answer.embeddings for piece in pieces])


def _connect(server: str, model: Model) -> Transport:
    scheme, _, rest = server.partition("://") if "://" in server else ("grpc", "", server)
    if scheme in ("http", "https"):
        from san_tf.serving.rest import RestTransport

        return RestTransport(server, model)
    if scheme in ("grpc", "grpcs") and rest and "/" not in rest:
        from san_tf.serving.grpc_transport import GrpcTransport

        return GrpcTransport(rest, model, secure=scheme == "grpcs")
    raise UserError(f"{server} is no address of a server; write grpc://HOST:8500 or http://HOST:8501.")


def _check(answer: Prediction, rows: int) -> None:
    """Raise `WrongAnswerError` unless there is one finite row an image."""
    shape = answer.embeddings.shape
    if len(shape) != 2 or shape[1] == 0:
        raise WrongAnswerError(f"the embeddings have the shape {shape} in place of (N, D)")
    if shape[0] != rows:
        raise WrongAnswerError(f"there are {shape[0]} embeddings")
    if not np.isfinite(answer.embeddings).all():
        raise WrongAnswerError("an embedding holds NaN or infinity")
