"""Feature files of made-up people, and the command that evaluates them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from san_tf.evaluation import evaluate_command as evaluate


def people(seed: int, number: int, noise: float = 0.7, cameras: int = 3) -> dict[str, np.ndarray]:
    """Embeddings of 30 people in clusters that overlap a little."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).standard_normal((30, 12))
    pids = rng.integers(0, 30, number)
    features = (means[pids] + noise * rng.standard_normal((number, 12))).astype(np.float32)
    return {"features": features, "pids": pids, "camids": rng.integers(0, cameras, number)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    np.savez(folder / "q.npz", **people(1, 80))
    np.savez(folder / "g.npz", **people(2, 300))
    # The same images through a worse encoder.
    for name, seed, number in (("q", 1, 80), ("g", 2, 300)):
        worse = people(seed, number)
        worse["features"] = worse["features"] + np.random.default_rng(seed).normal(0, 1.5, (number, 12))
        np.savez(folder / f"worse_{name}.npz", **worse)
    return folder


@pytest.fixture
def run(files: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process; returns exit code, stdout, stderr."""

    def call(*arguments: str, sets: bool = True) -> tuple[int, str, str]:
        named = [f"--query={files / 'q.npz'}", f"--gallery={files / 'g.npz'}"] if sets else []
        with pytest.raises(SystemExit) as leaving:
            evaluate.main([*named, *arguments])
        captured = capsys.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err

    return call
