"""What the tests of benchmarks share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from benchmark_copies import DATASETS


@pytest.fixture
def copy_of(tmp_path):
    """A function that copies a benchmark's dummy data to a folder of downloads and returns that."""

    def copy(name: str) -> Path:
        downloads = tmp_path / "downloads"
        shutil.copytree(DATASETS / name.partition("/")[0] / "dummy_data", downloads)
        return downloads

    return copy
