"""Processor cores available to this process, and its peak memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def core_count() -> int:
    """Return the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_STATUS = Path("/proc/self/status")


def peak_memory() -> float:
    """Return the peak resident memory of this process in GB (10^9 bytes); NaN if unknown.

    Memory of child processes and GPUs is not included.

    Example:
        >>> peak_memory() > 0.01
        True
    """
    if _STATUS.exists():
        # Not `ru_maxrss`: there, a process inherits the peak of the process that started it.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
