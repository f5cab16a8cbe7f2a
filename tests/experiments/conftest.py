"""The smallest data sets there are, made once for all tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SMALLEST = (
    "--dataset=synthetic_reid/smoke",
    "--pit=pit/smoke",
    "--identities_per_batch=4",
    "--images_per_identity=2",
    "--pit_per_batch=4",
    "--generator_batch=8",
    "--generator_epochs=1",
    "--epochs=1",
    "--warmup_epochs=0.5",
    "--panels=0",
)
Run = Callable[..., int]


@pytest.fixture(scope="session")
def smallest() -> tuple[str, ...]:
    """Flags that make every stage as short as it can be."""
    return SMALLEST


@pytest.fixture(scope="session")
def smoke_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the smallest data sets lie prepared."""
    from san_tf.data.builders import find_builder

    folder = tmp_path_factory.mktemp("data")
    for name in ("synthetic_reid", "pit"):
        find_builder(name, "smoke", folder).download_and_prepare()
    return folder


@pytest.fixture
def run_synthetic(smoke_data: Path) -> Run:
    """Runs `san_tf.experiments.synthetic` on the smallest data and returns its exit code."""
    from san_tf.experiments import synthetic

    def run(workdir: Path, *arguments: str) -> int:
        with pytest.raises(SystemExit) as leaving:
            synthetic.main([f"--workdir={workdir}", f"--data_dir={smoke_data}", *SMALLEST, *arguments])
        return int(leaving.value.code or 0)

    return run


@pytest.fixture(scope="session")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manual folder of somebody who has all benchmarks: drawn images in the published layouts."""
    from tiny_runs import DATASETS, PUBLISHED

    folder = tmp_path_factory.mktemp("manual")
    for name in PUBLISHED:
        shutil.copytree(DATASETS / name / "dummy_data", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def run(smoke_data: Path, manual: Path) -> Run:
    """Runs a benchmark's experiment on drawn images, at the smallest size, and returns its exit code."""
    from tiny_runs import run_tiny

    def run(module: ModuleType, workdir: Path, *flags: str, manual_dir: Path = manual) -> int:
        places = (f"--workdir={workdir}", f"--data_dir={smoke_data}", f"--manual_dir={manual_dir}")
        return run_tiny(module, *places, *flags)

    return run
