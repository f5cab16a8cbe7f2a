"""What every test shares: quiet TensorFlow, and the reference data."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `import san_tf` does
os.environ.setdefault("MPLBACKEND", "Agg")
# What commands remember of exports and folders, see `san_tf.trusted`, belongs to the tests alone.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="san_tf_tests_")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], True)


@pytest.fixture(scope="session")
def shared() -> Path | None:
    """The folder `shared` beside the checkout, with photographs and large arrays; None where absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    return folder if (folder / "parity").is_dir() else None


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of numbers that the public implementations computed; its README says how."""
    return Path(__file__).parent / "parity"
