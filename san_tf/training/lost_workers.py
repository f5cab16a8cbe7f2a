"""Reports a lost worker in one sentence instead of TensorFlow's long message."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import tensorflow as tf

from san_tf.errors import UserError

# Errors that a worker gets when another is lost: cut connections, aborted collective operations.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


class WorkerLost(UserError):
    """Another worker was lost, so this one cannot continue."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} ({reason})")
        self.reason = reason


@contextlib.contextmanager
def lost_workers(workers: int, where: str | Callable[[], str] = "Another worker was lost.") -> Iterator[None]:
    """Turn TensorFlow's errors about a lost worker into one sentence.

    Args:
        workers: number of workers; with one, errors are not changed.
        where: the sentence, or a function that returns it; of nested blocks, the outer one's is used.

    Raises:
        WorkerLost: a worker was lost.
    """
    try:
        yield
    except (WorkerLost, *LOST) as error:
        if workers == 1:
            raise
        reason = error.reason if isinstance(error, WorkerLost) else reason_of(str(error.message))
        raise WorkerLost(where if isinstance(where, str) else where(), reason) from error


def reason_of(message: str) -> str:
    """Return the line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search("abort|reset|refus|navail|eartbeat|clos|timed? ?out", line)
    ]
    return f"TensorFlow: {(telling or lines or ['no reason'])[0][:160]}"
