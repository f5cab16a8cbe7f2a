"""Puts the figures of recorded experiments on the site, so that they lie in the repository once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FIGURES = Path(__file__).resolve().parents[1] / "experiments" / "synthetic" / "figures"


def on_files(files: Files, config: Any) -> Files:
    """Add every figure as `figures/<name>`."""
    for path in sorted(FIGURES.iterdir()):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files
