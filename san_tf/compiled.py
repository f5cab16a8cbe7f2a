"""One decorator for the inner loops, so that all of them are compiled by the same rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function of NumPy arrays with numba: cached on disk, without the GIL.

    No `fastmath` and no parallel loops: additions keep their written order, so the same input gives the same
    bits in any number of threads and processes.

    Args:
        function: Function in numba's nopython subset.

    Returns:
        The compiled function; compilation happens at the first call of each argument type.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package folder nor a user cache is writable: compile afresh in each process.
        return numba.njit(**options)(function)
