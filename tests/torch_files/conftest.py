"""What the tests of the checkpoint reader share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_writer import legacy_checkpoint, zip_checkpoint

FORMATS = {"zip": zip_checkpoint, "legacy": legacy_checkpoint}


@pytest.fixture(params=FORMATS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Writes a value as a checkpoint, in each format that PyTorch has had."""

    def to_file(value: object, **options: object) -> Path:
        path = tmp_path / "model.pth"
        path.write_bytes(FORMATS[request.param](value, **options))
        return path

    return to_file
