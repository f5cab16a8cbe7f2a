"""A one-line repr for dataclasses with arrays."""

from __future__ import annotations

import dataclasses
from typing import Any


class ShortRepr:
    """Mixin for a dataclass with `repr=False`: shows arrays by shape and dtype only.

    Example:
        >>> FeatureSet(features, pids, camids)
        FeatureSet(features=(3368, 2048) float32, pids=(3368,) int64, camids=(3368,) int64)
    """

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        shown = (f"{item.name}={_shown(getattr(self, item.name))}" for item in fields if item.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{tuple(value.shape)} {value.dtype}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_shown(item)}" for key, item in value.items()) + "}"
    return repr(value)
