"""What was used lately, in memory, up to so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A bounded memory that forgets what was not asked for the longest. May be used from several threads.

    Args:
        capacity: sum of the sizes that it holds at most.
        size: of a value; each counts 1 if None.

    Example:
        >>> thumbnails = Recent(64 * 2**20, len)
        >>> thumbnails.put("a.jpg", content)
        >>> thumbnails.get("a.jpg") is content
        True
    """

    def __init__(self, capacity: int, size: Callable[[Value], int] | None = None) -> None:
        self._capacity = capacity
        self._size = size or (lambda value: 1)
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> Value | None:
        """Return a value, or None if it was never here or is forgotten."""
        with self._lock:
            if name not in self._values:
                return None
            self._values.move_to_end(name)
            return self._values[name]

    def put(self, name: str, value: Value) -> None:
        """Remember a value, also one that is larger than everything together: until the next comes."""
        with self._lock:
            if name in self._values:
                self._held -= self._size(self._values.pop(name))
            self._values[name] = value
            self._held += self._size(value)
            while self._held > self._capacity and len(self._values) > 1:
                _, forgotten = self._values.popitem(last=False)
                self._held -= self._size(forgotten)

    def __len__(self) -> int:
        return len(self._values)
