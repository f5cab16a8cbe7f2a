"""How much memory this process has held."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory() -> float:
    """Most memory this process has held at a time, in GB (10^9 bytes): the peak of its resident set.

    Memory of child processes, and of GPUs, is not in it. NaN where the system does not tell.

    Example:
        >>> peak_memory() > 0.01
        True
    """
    if _STATUS.exists():
        # Not `ru_maxrss`: a process started from a large one inherits that one's peak there.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    try:
        import resource  # Windows has none
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
