"""Client of a model server with an export: images in, embeddings out, by gRPC or REST."""

from __future__ import annotations

import concurrent.futures
import io
import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps

from san_tf.data.upright import MAX_PIXELS, PhotographError, upright
from san_tf.errors import UserError, one_line
from san_tf.image_formats import read_regular
from san_tf.progress import with_bar
from san_tf.serving.retries import Backoff, BrokenOffError, GaveUpError, TransientError, ask
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

Image = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | PIL.Image.Image
# Size of `MAX_PIXELS` in an incompressible PNG file with 16 bits per colour.
_MAX_BYTES = 6 * MAX_PIXELS + 2**20
# Pillow's modes that a PNG file stores unchanged.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TAKEN = "give the path or the contents of a JPEG or PNG file, a uint8 array (H, W, 3) or a PIL image"


class OutgoingImage(NamedTuple):
    """An image's name in messages, and the contents of its file."""

    name: str
    contents: bytes


def checked_images(images: Any) -> Iterable[Image]:
    """Return the images to embed, after checking that they are an ordered sequence.

    Raises:
        UserError: they are a single image, or have no order.
    """
    single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, PIL.Image.Image))
    # NumPy arrays, and tensors of other packages. One without dimensions is a path or the contents of a file.
    shape = tuple(images.shape) if hasattr(images, "shape") and not single else (1,)
    if single or len(shape) in (0, 2, 3):
        path = isinstance(images, (str, os.PathLike)) or not shape
        kind = "path" if path else "image"
        raise UserError(f"The images are a single {kind}; put it into a list: [{kind}].")
    if hasattr(images, "read"):
        raise UserError("The images are an open file; put its path, or what it reads, into a list: [path].")
    if isinstance(images, (Mapping, set, frozenset)) or not hasattr(images, "__iter__"):
        raise UserError(
            f"The images are a {type(images).__name__}; give a list, so that their embeddings have an order."
        )
    found: Iterable[Image] = images
    return found


def read_image(number: int, image: Image) -> OutgoingImage:
    """Turn an image into the contents of a JPEG or PNG file to send.

    Args:
        number: number of the image, its name in messages if it has no path.
        image: path or contents of an image file, an `(H, W, 3)` uint8 array, or a PIL image. Upright JPEG and
            PNG files are sent unchanged. Everything else is sent as PNG without loss, turned upright.

    Raises:
        UserError: the image cannot be read, is of another kind, or has more than `MAX_PIXELS`.
    """
    name = f"Image {number}"
    try:
        if isinstance(image, (bytes, bytearray, memoryview)):
            contents = upright(bytes(image))
        elif isinstance(image, (str, os.PathLike)):
            name = one_line(os.fspath(image), 400)
            contents = upright(read_regular(image, _MAX_BYTES))
        elif isinstance(image, PIL.Image.Image):
            contents = _png(name, image)
        elif hasattr(image, "__array__"):
            contents = _png(name, _picture(name, np.asarray(image)))
        else:
            raise UserError(f"{name} is a {type(image).__name__}; {_TAKEN}.")
    except (UserError, MemoryError):
        raise
    except PhotographError as error:
        raise UserError(f"{name} {error}; leave it out or copy it again.") from error
    except IsADirectoryError as error:
        raise UserError(f"{name} cannot be read (Is a directory); name the files in it.") from error
    except OSError as error:
        raise UserError(
            f"{name} cannot be read ({error.strerror}); leave it out or copy it again."
        ) from error
    except ValueError as error:  # a pipe, a device, or a name with a zero byte
        raise UserError(f"{name} cannot be read ({one_line(error)}); leave it out.") from error
    return OutgoingImage(name, contents)


def good_picture() -> OutgoingImage:
    """A grey image that every export can embed: a server that refuses it refuses all images."""
    return OutgoingImage("A grey picture", _png("A grey picture", PIL.Image.new("RGB", (16, 32), (128,) * 3)))


def _picture(name: str, array: np.ndarray) -> PIL.Image.Image:
    if (
        array.dtype != np.uint8
        or array.ndim != 3
        or array.shape[2] != 3
        or isinstance(array, np.ma.MaskedArray)
    ):
        raise UserError(
            f"{name} is a {array.dtype} array {array.shape}; give uint8 (H, W, 3), RGB from 0 to 255."
        )
    if not array.size:
        raise UserError(f"{name} has no pixels, {array.shape}; leave it out.")
    _check_pixels(name, *array.shape[:2])
    return PIL.Image.fromarray(np.ascontiguousarray(array))


def _png(name: str, picture: PIL.Image.Image) -> bytes:
    _check_pixels(name, picture.height, picture.width)
    if picture.mode not in _MODES:
        raise UserError(f"{name} is a PIL image in the mode {picture.mode}; give image.convert('RGB').")
    if not picture.height or not picture.width:
        raise UserError(f"{name} has no pixels; leave it out.")
    stream = io.BytesIO()
    try:
        # Turned upright, because the PNG file gets no EXIF orientation.
        PIL.ImageOps.exif_transpose(picture).save(stream, "PNG", compress_level=1, exif=b"")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name} cannot be read ({one_line(error)}); leave it out.") from error
    return stream.getvalue()


def _check_pixels(name: str, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(
            f"{name} has {height}x{width} pixels, more than the {MAX_PIXELS:,} that are sent to a server; "
            "cut the person out first."
        )


Answer = TypeVar("Answer")

# How often batches of an older version are requested again, before reporting that the server alternates.
_ROUNDS = 4
# Largest relative distance of two embeddings of one image by the same model: rounding differs with batch size
# and float16. Those of two models differ by tenths.
_SAME = 1e-2
# Bytes of a request from which its size may be why the server closes the connection.
_LARGE = 2**19
# Seconds to wait for a request after the deadline.
_GRACE = 0.5


class _Piece(NamedTuple):
    """A batch, or a part of a divided batch, and its answer."""

    items: Sequence[OutgoingImage]
    answer: Prediction


class _Call:
    """State that all requests of one call of `embed` or `stream` share.

    Attributes:
        until: deadline of the call by `time.monotonic`, or None.
        stop: set when the remaining requests are no longer needed.
        lock: protects the attributes below.
        pins: whether to ask the server for its version first, because there may be several requests.
        version: version that the requests name, or None.
        answered: whether the server has returned an embedding; then a refusal concerns its own request only.
    """

    def __init__(self, until: float | None, pins: bool) -> None:
        self.until, self.pins = until, pins
        self.stop, self.lock = threading.Event(), threading.RLock()
        self.version: int | None = None
        self.answered = False


class Client:
    """Embeds images with a model server; several threads may use it.

    Requests that fail temporarily (no connection, overload, timeout) are repeated with growing pauses.
    Answers are checked: one finite, non-zero row per image, all of one length and of one model. Files are
    sent only if their first bytes are those of a JPEG or PNG. A batch that the server cannot decode is
    divided until the bad file is found; a batch that is too large is divided too. If the server also refuses
    a plain grey image, the error names its configuration instead of a file.

    Args:
        server: `grpc://HOST:8500` or `HOST:8500`, with TLS `grpcs://`; for REST `http://HOST:8501`, `https://`.
        model: name of the model on the server.
        version: version of the model; None for the one with `label`, or the highest.
        label: label of a version, such as "stable".
        batch_size: images per request; requests above the server's `max_batch_size` are divided.
        in_flight: number of simultaneous requests, so that the server need not wait for the next.
        timeout: seconds until a request is repeated.
        deadline: seconds for a whole call of `embed` or `stream`; None for no limit.
        backoff: number of attempts of a request, and the pauses between them.
        embedding_size: length of the embeddings; None accepts that of the first answer, up to 16,384.

    Raises:
        UserError: a value is invalid, or gRPC is used but `tensorflow-serving-api` is not installed.

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
            # This also refuses NaN. Clocks of the system take no more than a few billion seconds.
            if not isinstance(seconds, (int, float)) or not 0 < seconds <= 1e6:
                raise UserError(f"{name} must be above 0 s and at most 1,000,000 s; received {seconds!r}.")
        most = max(MOST_NUMBERS, embedding_size or 0)
        self._transport = _connect(server, Model(model, version, label), batch_size, most)
        self._batch_size, self._in_flight = batch_size, in_flight
        self._timeout, self._deadline = timeout, deadline
        self._backoff = backoff or Backoff()
        self._size = embedding_size
        # Most images that the server accepts in one request, as far as known.
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
        """Return the embeddings of images, in order, all from one version of the model.

        If the server changes the version meanwhile, images answered by another version are sent again. REST
        answers do not report a version, so the client asks for it first and names it in each request. If the
        server does not report it, the first image is sent again at the end, to compare its embedding.

        Args:
            images: paths or contents of JPEG or PNG files, `(H, W, 3)` uint8 RGB arrays, or PIL images.
            progress: text beside a progress bar; None for no bar.

        Returns:
            `(N, D)` float32; `(0, D)` for no images, where the server is asked for an unknown D.

        Raises:
            UserError: an image cannot be read or is not an image; or the server cannot be reached, refuses,
                does not answer within the deadline, or gives a wrong answer.
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
            # The last answer has the server's current version.
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
        """Yield embeddings batch by batch, in the order of the images, in constant memory.

        Each batch is from one version of the model, given by `Prediction.version`; the version may change
        between batches. It is None if a REST server does not report its version.

        Args:
            images: as for `embed`; read only as needed.

        Raises:
            UserError: as `embed`; also if the length of the embeddings changes.
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
        """Read the images batch by batch, just before they are sent."""
        numbered = enumerate(images)
        while batch := list(itertools.islice(numbered, self._batch_size)):
            yield [read_image(number, image) for number, image in batch]

    def _answers(self, batches: Iterable[Sequence[OutgoingImage]], call: _Call) -> Iterator[list[_Piece]]:
        """Yield the pieces of each batch, in order, with `in_flight` simultaneous requests.

        The first request is sent alone, so that a faulty server gets one request only.
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
            # After an error, or when the caller stops: send no more requests, and do not wait for open ones.
            call.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, future: Future[list[_Piece]], call: _Call) -> list[_Piece]:
        """Wait for an answer, but not beyond the deadline."""
        left = None if call.until is None else max(0.0, call.until - time.monotonic()) + _GRACE
        try:
            return future.result(left)
        except concurrent.futures.TimeoutError as error:
            raise self._gave_up("no answer in time (the deadline passed)") from error

    def _embed_batch(self, items: Sequence[OutgoingImage], call: _Call) -> list[_Piece]:
        """Embed a batch; if the server refuses it, divide it until the refused image is found."""
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
                f"takes in a request ({error}); send a smaller image, or raise the server's limit."
            ) from error
        except RefusedError as error:
            refused = error
        self._see_whether_it_refuses_all(refused, call)
        if len(items) > 1:
            return self._embed_halves(items, call)
        try:
            # A server that batches requests refuses all of them for one broken file, even of another client.
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
        """Remember the size that the server refused, for later requests."""
        if error.images is not None:
            self._most_images = max(1, error.images)
        elif len(items) > 1:
            size = sum(len(item.contents) for item in items)
            self._too_many_bytes = min(self._too_many_bytes, size)

    def _see_whether_it_refuses_all(self, refused: RefusedError | TooLargeError, call: _Call) -> None:
        """Raise `UserError` if the server also refuses a good image, and has answered nothing so far."""
        with call.lock:
            for last in (False, True):
                if call.answered:
                    return
                try:
                    self._ask([good_picture()], call)
                except TooLargeError as error:
                    raise UserError(
                        f"{self._transport.address} finds a request of one small image too large "
                        f"({error}); raise its limit, or that of the proxy before it."
                    ) from error
                except RefusedError as error:
                    # A single refusal may be due to another client's file in the same batch.
                    if last:
                        raise UserError(
                            f"{self._transport.address} refuses a plain grey image as well ({refused}); "
                            f"check that {self._transport.model} is an export of this package."
                        ) from error

    def _dimensions(self, call: _Call) -> int:
        """The length of the server's embeddings, found with a test image."""
        for group in self._answers([[good_picture()]], call):
            return self._checked_size(group[0].answer, None)
        raise AssertionError("one batch gives one answer")

    def _is_of_one_model(self, pieces: Sequence[_Piece], call: _Call) -> bool:
        """Whether the first image still gets the same embedding; used if versions are not reported."""
        before = pieces[0].answer.embeddings[0]
        for group in self._answers([pieces[0].items[:1]], call):
            after = group[0].answer.embeddings[0]
            if before.shape != after.shape or np.linalg.norm(after - before) > _SAME * np.linalg.norm(before):
                return False
        return True

    def _ask(self, items: Sequence[OutgoingImage], call: _Call) -> Prediction:
        """Request one batch, with retries, and check the answer."""
        files = [item.contents for item in items]
        broken_off = 0

        def predict(left: float) -> Prediction:
            nonlocal broken_off
            try:
                return self._transport.predict(files, left, version)
            except BrokenOffError as error:
                # Some servers and proxies close the connection instead of saying that a request is too large.
                broken_off += 1
                if broken_off == 2 and len(files) > 1 and sum(map(len, files)) > _LARGE:
                    raise TooLargeError(f"{error}, twice") from error
                raise
            except TooLargeError as error:
                if error.memory and len(files) == 1:  # cannot be divided, and others may need less soon
                    raise TransientError(str(error)) from error
                raise

        try:
            version = self._pinned(call)
            try:
                answer = self._insist(predict, call)
            except GoneError:
                version = self._pinned(call, instead_of=version)
                answer = self._insist(predict, call)
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
        """The version that all requests of a call name; looked up first, and again when it is gone."""
        with call.lock:
            if call.pins or (instead_of is not None and call.version == instead_of):
                call.version = self._insist(self._transport.current_version, call)
                call.pins = False
            return call.version

    def _insist(self, attempt: Callable[[float], Answer], call: _Call) -> Answer:
        return ask(attempt, self._backoff, self._timeout, call.until, call.stop.wait)

    def _gave_up(self, reason: str) -> UserError:
        return UserError(
            f"{self._transport.address} did not answer: {reason}; check that the server runs, that the "
            "address is right, and that timeout and deadline are long enough."
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
            raise UserError(f"{server} does not give the server's port; write grpc://HOST:8500.")
        from san_tf.serving.grpc_transport import GrpcTransport

        return GrpcTransport(rest, model, scheme == "grpcs", rows, most)
    raise UserError(
        f"{one_line(server)} is not an address of a server; write grpc://HOST:8500 or http://HOST:8501."
    )


def _check(answer: Prediction, rows: int) -> None:
    """Raise `WrongAnswerError` unless there is one finite, non-zero row per image."""
    embeddings = answer.embeddings
    check_shape(embeddings.shape, rows, embeddings.size or 1)
    if not np.isfinite(embeddings).all():
        raise WrongAnswerError("an embedding holds NaN or infinity")
    if not embeddings.any(axis=1).all():
        raise WrongAnswerError("an embedding holds only zeros, so it has no direction")
