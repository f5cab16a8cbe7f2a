"""A worker that was killed ends the others with one sentence, not with TensorFlow's page."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import tensorflow as tf

from san_tf.errors import UserError

# What a worker meets when another is gone: its connection is cut, its collective operations are aborted.
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
    """Another worker is gone, so that this one cannot go on."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} ({reason})")
        self.reason = reason


@contextlib.contextmanager
def lost_workers(workers: int, where: str | Callable[[], str] = "Another worker was lost.") -> Iterator[None]:
    """Turn what TensorFlow raises when a worker is gone into one sentence.

    Args:
        workers: with one, nobody can be lost, and errors stay what they are.
        where: the sentence, or what gives it then; of two blocks inside each other the outer's counts.

    Raises:
        WorkerLost: a worker is gone.
    """
    try:
        yield
    except (WorkerLost, *LOST) as error:
        if workers == 1:
            raise
        reason = error.reason if isinstance(error, WorkerLost) else reason_of(str(error.message))
        raise WorkerLost(where if isinstance(where, str) else where(), reason) from error


def reason_of(message: str) -> str:
    """Of the page that TensorFlow raises, the line that says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search("abort|reset|refus|navail|eartbeat|clos|timed? ?out", line)
    ]
    return f"TensorFlow: {(telling or lines or ['no reason'])[0][:160]}"
