"""A client of a model server that serves our exports: images in, embeddings out, by gRPC or REST."""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from san_tf.errors import UserError, one_line
from san_tf.progress import with_bar
from san_tf.serving.outgoing import Image, OutgoingImage, checked_images, good_picture, read_image
from san_tf.serving.retries import Backoff, GaveUpError, ask
from san_tf.serving.transport import (
    MOST_NUMBERS,
    GoneError,
    Model,
    Prediction,
    RefusedError,
    TooLargeError,
    Transport,
    WrongAnswerError,
    check_shape,
)

Answer = TypeVar("Answer")

# How often batches of an older version are asked again before a server that goes to and fro is reported.
_ROUNDS = 4
# How far two embeddings of one image may be apart, of their length, if one model made them: batches of other
# sizes and float16 round otherwise. Those of two models differ by tenths.
_SAME = 1e-2
# Seconds that a request may be late for the deadline before the call ends without it.
_GRACE = 0.5


class _Piece(NamedTuple):
    """A batch, or a part of one that had to be divided, and its answer."""

    items: Sequence[OutgoingImage]
    answer: Prediction


class _Call:
    """What one call of `embed` or `stream` has come to know, for all of its requests.

    Attributes:
        until: its deadline by `time.monotonic`, or None.
        stop: set when nobody wants the rest.
        lock: for what follows.
        pins: whether the version is to be asked for, because there may be several requests.
        version: that its requests name; None for none.
        answered: whether the server has embedded anything, so that a refusal is about its request.
    """

    def __init__(self, until: float | None, pins: bool) -> None:
        self.until, self.pins = until, pins
        self.stop, self.lock = threading.Event(), threading.RLock()
        self.version: int | None = None
        self.answered = False


class Client:
    """Embeds images by a model server; may be used by several threads.

    Requests that fail for the moment (no connection, overload, timeout) are asked again with growing pauses.
    Answers are checked: one finite row an image, none of zeros alone, all of one length, all of one model.
    Only what is a JPEG or PNG by its first bytes is sent. A file that the server cannot decode is found
    by dividing its batch; batches that are too large for the server are divided, too. If a server refuses a
    plain grey picture as well, its configuration is blamed and no picture.

    Args:
        server: `grpc://HOST:8500` or `HOST:8500`, with TLS `grpcs://`; by REST `http://HOST:8501`, `https://`.
        model: its name on the server.
        version: of the model; None for the one with `label`, or the highest.
        label: such as "stable".
        batch_size: images a request; at most the server's `max_batch_size`, or its requests are divided.
        in_flight: requests under way at a time, so that the server need not wait for the next.
        timeout: seconds that a request may take before it is asked again.
        deadline: seconds that one call of `embed` or `stream` may take in all; None for no limit.
        backoff: how often a request is asked, and the pauses.
        embedding_size: numbers that the embeddings must have; None for whatever the first answer has, at most
            16,384.

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
        _check_values(server, model, version, label)
        for name, value in (
            ("batch_size", batch_size),
            ("in_flight", in_flight),
            ("embedding_size", 1 if embedding_size is None else embedding_size),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} must be at least 1; received {value!r}.")
        for name, seconds in (("timeout", timeout), ("deadline", 1.0 if deadline is None else deadline)):
            # NaN is not above 0; no clock of the system takes more than a few billion seconds.
            if not isinstance(seconds, (int, float)) or not 0 < seconds <= 1e6:
                raise UserError(f"{name} must be above 0 s and at most 1,000,000 s; received {seconds!r}.")
        most = max(MOST_NUMBERS, embedding_size or 0)
        self._transport = _connect(server, Model(model, version, label), batch_size, most)
        self._batch_size, self._in_flight = batch_size, in_flight
        self._timeout, self._deadline = timeout, deadline
        self._backoff = backoff or Backoff()
        self._size = embedding_size
        # What the server takes in one request, as far as it has shown.
        self._most_images: float = math.inf
        self._too_many_bytes: float = math.inf

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def embed(self, images: Iterable[Image], progress: str | None = None) -> np.ndarray:
        """Return the embeddings of images, in their order, all of one version of the model.

        If the server swaps the version meanwhile, what the other version answered is asked again. By REST the
        version is asked for first and then named; where the server does not tell it, the first image is asked
        again at the end.

        Args:
            images: paths or contents of JPEG or PNG files, `(H, W, 3)` uint8 RGB arrays, PIL images.
            progress: shown beside a bar; None for no bar.

        Returns:
            `(N, D)` float32. For no images `(0, D)`, for which the server is asked if D is not known.

        Raises:
            UserError: an image cannot be read or is none, the server cannot be reached, refuses, does not
                answer within the deadline, or answers what cannot be right.
        """
        images = checked_images(images)
        count = len(images) if isinstance(images, Sized) else None
        call = self._call(pins=count is None or count > self._batch_size)
        total = None if count is None else -(-count // self._batch_size)
        groups = with_bar(self._answers(self._batches(images), call), progress, total)
        pieces = [piece for group in groups for piece in group]
        if not pieces:
            return np.empty((0, self._size or self._dimensions(call)), np.float32)
        newest = pieces
        for _ in range(_ROUNDS):
            # What was answered last tells which version the server has come to.
            current = newest[-1].answer.version
            stale = [piece for piece in pieces if piece.answer.version != current]
            if not stale:
                if current is not None or len(pieces) == 1 or self._is_of_one_model(pieces, call):
                    return self._joined(pieces)
                stale = pieces
            fresh = list(self._answers([piece.items for piece in stale], call))
            newest = fresh[-1]
            again = dict(zip(map(id, stale), fresh, strict=True))
            pieces = [new for piece in pieces for new in again.get(id(piece), [piece])]
        told = sorted({str(piece.answer.version) for piece in pieces} - {"None"})
        versions = f"versions {' and '.join(told)}" if told else "several models"
        raise UserError(
            f"{self._transport.address} answers by {versions} in turn, whose embeddings cannot be compared; "
            "name one with version=."
        )

    def stream(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Yield embeddings batch by batch, in the order of the images, in memory that does not grow.

        Each batch is of one version of the model, which `Prediction.version` tells; a swap shows there. It is
        None where the server does not tell its versions by REST.

        Args:
            images: as of `embed`; taken as they are needed.

        Raises:
            UserError: as `embed`; also if embeddings change their length.
        """
        images = checked_images(images)
        size = self._size
        for group in self._answers(self._batches(images), self._call(pins=True)):
            for piece in group:
                size = self._checked_size(piece.answer, size)
                yield piece.answer

    def _call(self, pins: bool) -> _Call:
        return _Call(None if self._deadline is None else time.monotonic() + self._deadline, pins)

    def _batches(self, images: Iterable[Image]) -> Iterator[list[OutgoingImage]]:
        """Read the images batch by batch, each when it is about to be sent."""
        numbered = enumerate(images)
        while batch := list(itertools.islice(numbered, self._batch_size)):
            yield [read_image(number, image) for number, image in batch]

    def _answers(self, batches: Iterable[Sequence[OutgoingImage]], call: _Call) -> Iterator[list[_Piece]]:
        """Yield the pieces of each batch, in order, with `in_flight` requests under way.

        The first goes alone: what is wrong with the server shows there, in one request.
        """
        call.stop.clear()
        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="san_tf.client")
        waiting: deque[Future[list[_Piece]]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(self._embed_batch, batch, call))
                if len(waiting) > 2 * self._in_flight or not call.answered:
                    yield self._result(waiting.popleft(), call)
            while waiting:
                yield self._result(waiting.popleft(), call)
        finally:
            # After an error, or where nobody wants the rest: no further request, no waiting for the present.
            call.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, future: Future[list[_Piece]], call: _Call) -> list[_Piece]:
        """Wait for an answer, but never past the deadline, whatever the request waits for."""
        left = None if call.until is None else max(0.0, call.until - time.monotonic()) + _GRACE
        try:
            return future.result(left)
        except concurrent.futures.TimeoutError as error:
            raise self._gave_up("no answer in time (the deadline passed)") from error

    def _embed_batch(self, items: Sequence[OutgoingImage], call: _Call) -> list[_Piece]:
        """Ask for a batch; where it is refused, divide it until the image that is refused stands alone."""
        if len(items) > 1 and self._is_too_large(items):
            return self._embed_halves(items, call)
        try:
            return [_Piece(items, self._ask(items, call))]
        except TooLargeError as error:
            self._see_whether_it_refuses_all(error, call)
            self._remember(items, error)
            if len(items) > 1:
                return self._embed_halves(items, call)
            raise UserError(
                f"{items[0].name} has {len(items[0].contents):,} bytes, more than {self._transport.address} "
                f"takes in a request ({error}); send a smaller picture, or raise the server's limit."
            ) from error
        except RefusedError as error:
            refused = error
        self._see_whether_it_refuses_all(refused, call)
        if len(items) > 1:
            return self._embed_halves(items, call)
        try:
            # A server that runs requests together refuses all of them for one broken file, also a stranger's.
            return [_Piece(items, self._ask(items, call))]
        except RefusedError:
            raise UserError(
                f"{items[0].name} was refused by {self._transport.address} ({refused}); leave it out or "
                "repair it."
            ) from refused

    def _embed_halves(self, items: Sequence[OutgoingImage], call: _Call) -> list[_Piece]:
        middle = len(items) // 2
        return [piece for half in (items[:middle], items[middle:]) for piece in self._embed_batch(half, call)]

    def _is_too_large(self, items: Sequence[OutgoingImage]) -> bool:
        size = sum(len(item.contents) for item in items)
        return len(items) > self._most_images or size >= self._too_many_bytes

    def _remember(self, items: Sequence[OutgoingImage], error: TooLargeError) -> None:
        """Ask for no more than that the next time."""
        if error.images is not None:
            self._most_images = max(1, error.images)
        elif len(items) > 1:
            size = sum(len(item.contents) for item in items)
            self._too_many_bytes = min(self._too_many_bytes, size)

    def _see_whether_it_refuses_all(self, refused: RefusedError | TooLargeError, call: _Call) -> None:
        """Raise `UserError` if the server refuses a good picture too, and has answered nothing before."""
        with call.lock:
            for last in (False, True):
                if call.answered:
                    return
                try:
                    self._ask([good_picture()], call)
                except TooLargeError as error:
                    raise UserError(
                        f"{self._transport.address} finds a request of one small picture too large "
                        f"({error}); raise its limit, or that of the proxy before it."
                    ) from error
                except RefusedError as error:
                    # Once may be the fault of a stranger's picture in the same run.
                    if last:
                        raise UserError(
                            f"{self._transport.address} refuses a plain grey picture as well ({refused}); "
                            f"see that {self._transport.model} is an export of this package."
                        ) from error

    def _dimensions(self, call: _Call) -> int:
        """The length of the server's embeddings, by a picture of our own."""
        for group in self._answers([[good_picture()]], call):
            return self._checked_size(group[0].answer, None)
        raise AssertionError("one batch gives one answer")

    def _is_of_one_model(self, pieces: Sequence[_Piece], call: _Call) -> bool:
        """Whether the first image still has the embedding that it had first; versions are not told."""
        before = pieces[0].answer.embeddings[0]
        for group in self._answers([pieces[0].items[:1]], call):
            after = group[0].answer.embeddings[0]
            if before.shape != after.shape or np.linalg.norm(after - before) > _SAME * np.linalg.norm(before):
                return False
        return True

    def _ask(self, items: Sequence[OutgoingImage], call: _Call) -> Prediction:
        """One batch, asked again while that may help, with its answer checked."""
        files = [item.contents for item in items]
        try:
            version = self._pinned(call)
            try:
                answer = self._insist(lambda left: self._transport.predict(files, left, version), call)
            except GoneError:
                version = self._pinned(call, instead_of=version)
                answer = self._insist(lambda left: self._transport.predict(files, left, version), call)
            _check(answer, len(items))
        except GaveUpError as error:
            raise self._gave_up(str(error)) from error
        except GoneError as error:
            raise UserError(
                f"{self._transport.address} has no version of {self._transport.model} to answer ({error}); "
                "see which versions it serves."
            ) from error
        except WrongAnswerError as error:
            raise UserError(
                f"{self._transport.address} answered {len(items)} images wrongly: {error}; see which model "
                "it serves."
            ) from error
        call.answered = True
        return answer

    def _pinned(self, call: _Call, instead_of: int | None = None) -> int | None:
        """The version that all requests of a call name; asked for by the first, and when it is gone."""
        with call.lock:
            if call.pins or (instead_of is not None and call.version == instead_of):
                call.version = self._insist(self._transport.current_version, call)
                call.pins = False
            return call.version

    def _insist(self, attempt: Callable[[float], Answer], call: _Call) -> Answer:
        return ask(attempt, self._backoff, self._timeout, call.until, call.stop.wait)

    def _gave_up(self, reason: str) -> UserError:
        return UserError(
            f"{self._transport.address} did not answer: {reason}; see that the server runs, that the address "
            "is right, and that timeout and deadline are long enough."
        )

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
        return np.concatenate([piece.answer.embeddings for piece in pieces])


def _check_values(server: object, model: object, version: object, label: object) -> None:
    if version is not None and label is not None:
        raise UserError(f"Name a version ({version}) or a label ({label!r}), not both.")
    for name, value in (
        ("server", server),
        ("model", model),
        ("label", "stable" if label is None else label),
    ):
        if not isinstance(value, str) or not value or not value.isprintable():
            raise UserError(f"The {name} must be a name of letters; received {value!r}.")
    number = 1 if version is None else version
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**63:
        raise UserError(f"The version must be a number from 1; received {version!r}.")


def _connect(server: str, model: Model, rows: int, most: int) -> Transport:
    scheme, _, rest = server.partition("://") if "://" in server else ("grpc", "", server)
    if scheme in ("http", "https"):
        from san_tf.serving.rest import RestTransport

        return RestTransport(server, model, most)
    if scheme in ("grpc", "grpcs") and rest and "/" not in rest and " " not in rest:
        port = rest.rpartition(":")[2]
        if not (port.isdecimal() and 0 < int(port) < 2**16 and rest != port):
            raise UserError(f"{server} does not tell the server's port; write grpc://HOST:8500.")
        from san_tf.serving.grpc_transport import GrpcTransport

        return GrpcTransport(rest, model, scheme == "grpcs", rows, most)
    raise UserError(
        f"{one_line(server)} is not an address of a server; write grpc://HOST:8500 or http://HOST:8501."
    )


def _check(answer: Prediction, rows: int) -> None:
    """Raise `WrongAnswerError` unless there is one finite row an image, and none of zeros alone."""
    embeddings = answer.embeddings
    check_shape(embeddings.shape, rows, embeddings.size or 1)
    if not np.isfinite(embeddings).all():
        raise WrongAnswerError("an embedding holds NaN or infinity")
    if not embeddings.any(axis=1).all():
        raise WrongAnswerError("an embedding holds zeros alone, which point nowhere")
