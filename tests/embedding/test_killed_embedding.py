"""kill -9 at any moment: the same command goes on, and ends with the table of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

parquet = pytest.importorskip("pyarrow.parquet")

KILLS, NUMBER = 12, 9000


def _command(folder: Path, model: Path, out: Path) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "san_tf",
        "embed",
        folder,
        "--model",
        model,
        "--out",
        out,
        "--batch",
        "64",
    ]
    return [str(part) for part in command]


@pytest.mark.slow
def test_killed_runs_end_as_an_undisturbed_one(model, crops, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(NUMBER):
        shutil.copyfile(crops / f"{number % 25:02}.jpg", folder / f"{number:05}.jpg")
    began = time.monotonic()
    subprocess.run(_command(folder, model, tmp_path / "whole.parquet"), check=True, capture_output=True)
    whole_run = time.monotonic() - began
    out, rng, kept = tmp_path / "killed.parquet", np.random.default_rng(0), []
    for _ in range(KILLS):
        process = subprocess.Popen(
            _command(folder, model, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.3, 1.0) * whole_run)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if out.exists():  # it was done, or killed on its way out
            kept.append(out.rename(tmp_path / f"{len(kept)}.parquet"))
            listed = (tmp_path / "killed.left_out.csv").read_text()
            assert listed == (tmp_path / "whole.left_out.csv").read_text()
    subprocess.run(_command(folder, model, out), check=True, capture_output=True)
    expected = parquet.read_table(tmp_path / "whole.parquet")
    assert expected.num_rows == NUMBER * 22 // 25
    for path in [*kept, out]:
        assert parquet.read_table(path).equals(expected)
    # Nothing half-written is left behind.
    assert {path.name for path in tmp_path.iterdir()} == {
        "many", "whole.parquet", "whole.left_out.csv", "killed.parquet", "killed.left_out.csv",
        *(path.name for path in kept),
    }  # fmt: skip
