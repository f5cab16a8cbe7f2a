"""Counts the processor cores available to this process."""

from __future__ import annotations

import os


def core_count() -> int:
    """Return the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
