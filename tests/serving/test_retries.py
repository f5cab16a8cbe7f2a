"""Pauses grow, differ and end; against a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from san_tf.serving.retries import Backoff, GaveUpError, TransientError, ask


class Clock:
    """Time passes only in pauses and in attempts that say so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def stopped(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return False


def test_pauses_by_hand() -> None:
    backoff = Backoff(first=0.1, longest=1.0)
    # 0.1, 0.2, 0.4, 0.8, then min(1.6, 1.0): whole with a draw of 1, half with 0.
    assert [backoff.pause(n, lambda: 1.0) for n in (1, 2, 3, 4, 5)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1.0]
    )
    assert [backoff.pause(n, lambda: 0.0) for n in (1, 2, 3, 4, 5)] == pytest.approx(
        [0.05, 0.1, 0.2, 0.4, 0.5]
    )
    assert len({backoff.pause(3) for _ in range(20)}) > 10


@given(st.floats(1e-3, 10), st.floats(1e-3, 100), st.integers(1, 10_000))
def test_pauses_stay_within_bounds(first: float, longest: float, failures: int) -> None:
    pause = Backoff(first, longest).pause(failures)
    assert min(first, longest) / 2 <= pause <= longest


def test_answer_after_failures() -> None:
    clock, left = Clock(), [3]

    def attempt(seconds: float) -> str:
        assert seconds == 7
        left[0] -= 1
        if left[0]:
            raise TransientError("busy")
        return "answer"

    assert ask(attempt, Backoff(), 7, None, clock.stopped, clock) == "answer"
    assert len(clock.pauses) == 2


@given(st.integers(1, 12))
def test_no_more_attempts_than_allowed(attempts: int) -> None:
    clock, asked = Clock(), []

    def attempt(seconds: float) -> str:
        asked.append(seconds)
        raise TransientError("busy")

    with pytest.raises(GaveUpError, match=rf"busy \({attempts} tries\)"):
        ask(attempt, Backoff(attempts=attempts), 7, None, clock.stopped, clock)
    assert len(asked) == attempts and len(clock.pauses) == attempts - 1


@given(st.floats(0.1, 60), st.floats(0.01, 20), st.floats(0.01, 20))
def test_the_deadline_is_kept(deadline: float, timeout: float, lasting: float) -> None:
    clock = Clock()
    until = clock() + deadline

    def attempt(seconds: float) -> str:
        assert 0 < seconds <= timeout
        clock.now += min(lasting, seconds)
        raise TransientError("no answer in time")

    with pytest.raises(GaveUpError, match="deadline"):
        ask(attempt, Backoff(attempts=10**6), timeout, until, clock.stopped, clock)
    assert clock() <= until + 1e-6


def test_stopping_and_other_errors_end_it() -> None:
    def busy(seconds: float) -> str:
        raise TransientError("busy")

    with pytest.raises(GaveUpError, match=r"busy \(stopped\)"):
        ask(busy, Backoff(), 1, None, lambda seconds: True)

    def broken(seconds: float) -> str:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        ask(broken, Backoff(), 1, None, lambda seconds: False)
