"""Lets the site's reader of docstrings see `Example:` sections, which it knows as `Examples:`."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section while a module is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename it in one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
