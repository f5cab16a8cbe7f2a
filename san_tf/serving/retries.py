"""Repeats requests to a busy, restarting or slow server: back-off with jitter, within a deadline."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from san_tf.errors import UserError

Answer = TypeVar("Answer")


class TransientError(Exception):
    """A failure that may be temporary: no connection, an overloaded server, no answer in time."""


class BrokenOffError(TransientError):
    """The connection broke off while a request was sent or answered."""


class GaveUpError(Exception):
    """There were too many `TransientError`s, or the deadline passed."""


@dataclass(frozen=True)
class Backoff:
    """Number of attempts, and the pauses between them.

    The pause after the n-th failure is random between half and all of `min(longest, first * 2 ** (n - 1))`
    seconds. It grows, so that a server can recover. It is random, so that clients do not return together.

    Example:
        >>> Backoff(first=0.1, longest=5.0).pause(3, lambda: 1.0)
        0.4
    """

    first: float = 0.1
    """Pause after the first failure, in seconds."""
    longest: float = 5.0
    """Longest pause, in seconds."""
    attempts: int = 10
    """Most attempts of one request."""

    def __post_init__(self) -> None:
        if not (0 < self.first < math.inf and 0 < self.longest < math.inf) or self.attempts < 1:
            raise UserError(
                f"Pauses are above 0 s and there is at least one attempt; received first={self.first}, "
                f"longest={self.longest}, attempts={self.attempts}."
            )

    def pause(self, failures: int, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after the `failures`-th failure; `draw` gives a number in [0, 1)."""
        # The exponent is limited, because 2.0 ** 2000 overflows.
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return full * (1 + draw()) / 2


def ask(
    attempt: Callable[[float], Answer],
    backoff: Backoff,
    timeout: float,
    until: float | None,
    stopped: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Return what `attempt` returns, trying again after each `TransientError`.

    Args:
        attempt: function of the seconds that it may take.
        backoff: number of attempts, and pauses.
        timeout: seconds that one attempt may take.
        until: deadline for all attempts, by `clock`; None for none.
        stopped: waits the given seconds, and returns whether to give up (`threading.Event.wait`).
        clock: returns the time in seconds.

    Raises:
        GaveUpError: there were too many failures, the deadline passed, or `stopped` returned True. Other
            errors of `attempt` pass through.
    """
    failures = 0
    while True:
        left = timeout if until is None else min(timeout, until - clock())
        if left <= 0:
            raise GaveUpError("the deadline passed")
        try:
            return attempt(left)
        except TransientError as error:
            failures += 1
            if failures >= backoff.attempts:
                raise GaveUpError(f"{error} ({failures} tries)") from error
            pause = backoff.pause(failures)
            if until is not None and clock() + pause >= until:
                raise GaveUpError(f"{error} (the deadline passed)") from error
            if stopped(pause):
                raise GaveUpError(f"{error} (stopped)") from error
