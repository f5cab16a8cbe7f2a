"""Memory for batches that is used again when TensorFlow has let go of the last batch in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# TensorFlow takes an array as it is, without a copy, if it begins at a multiple of this.
_ALIGNMENT = 64
# Batches of one size that are kept for later; more are on the way at once only while several trainings run.
_KEPT = 8


class ArrayLender:
    """Lends float32 arrays; the memory of one that nobody holds any longer goes to the next.

    A fresh array of 25 MB costs as much as all that is written into it: the system clears it page by page.

    Example:
        >>> array = ArrayLender().lend((64, 256, 128, 3))
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}

    def lend(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array `shape` float32, of any content."""
        size = math.prod(shape) * np.dtype(np.float32).itemsize
        free = self._free.setdefault(size, [])
        # One operation: two threads may come at once.
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        loan = _Loan(memory[first : first + size], memory, free)
        return np.asarray(loan).view(np.float32).reshape(shape)


class _Loan:
    """What an array rests on; gives the memory back when the array and all its views are gone."""

    def __init__(self, part: np.ndarray, memory: np.ndarray, free: list[np.ndarray]) -> None:
        self.__array_interface__: dict[str, Any] = part.__array_interface__
        self._memory = memory
        self._free = free

    def __del__(self) -> None:
        if len(self._free) < _KEPT:
            self._free.append(self._memory)
