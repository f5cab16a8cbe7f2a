"""The benchmark that people run on their own GPU, in miniature, and how it survives rows that fail."""

import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


@pytest.mark.slow  # four training steps are traced, and an encoder is exported
def test_the_gpu_benchmark_runs_in_miniature(gpu, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu.main(["--miniature", "--out", str(out)])
    results = json.loads(out.read_text())
    rows = results["rows"]
    assert set(rows) == {row.name for row in gpu.plan(gpu.MINIATURE)}
    assert "NVIDIA" in rows["step, TF32"]["failed"]  # and the rows after it were measured
    exact = rows["step, float32"]
    assert len(exact["losses"]) == gpu.MINIATURE.steps
    assert exact["loss_difference"] == {"first": 0.0, "largest": 0.0, "steps": gpu.MINIATURE.steps}
    assert exact["losses"][-1] < exact["losses"][0]
    for name in ("step, bfloat16", "step, float16"):
        row = rows[name]
        first, largest = (row["loss_difference"][key] for key in ("first", "largest"))
        assert 0 < first < 0.03 and first <= largest
        assert row["images_per_second"] == pytest.approx(1000 * gpu.MINIATURE.batch / row["step_ms"])
    assert set(rows["inference, float32"]) >= {"1", "2", "peak_GB"}
    assert rows["input pipeline"]["share_of_waiting"] < 1
    assert results["versions"]["tensorflow"] and results["machine"]["findings"]["san_tf"]
    assert f"{exact['images_per_second']:.1f}" in capsys.readouterr().out


def test_a_full_run_without_a_gpu_says_what_to_do(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "alone", gpu.here)
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert "finds no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("measure", "argument", "reason"),
    [
        (os._exit, 3, "exit code 3"),
        (time.sleep, 60, "longer than 2 s"),
        (json.loads, "{", "JSONDecodeError"),
    ],
)
def test_a_row_that_fails_is_recorded(gpu, measure, argument, reason):
    assert reason in gpu.alone(measure, (argument,), 2 if measure is time.sleep else 60)["failed"]


def test_rows_without_units_are_refused(gpu):
    with pytest.raises(gpu.RefusedError, match=r"7\.5; units for bfloat16 come with 8\.0"):
        gpu._check_units("bfloat16", (7, 5))
    gpu._check_units("float16", (7, 5))


def test_time_that_is_over_and_losses_that_are_not_numbers(gpu, tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "machine", dict)
    gpu.main(["--miniature", "--minutes", "0", "--out", str(out)])
    assert all("left out" in row["failed"] for row in json.loads(out.read_text())["rows"].values())
    with pytest.raises(gpu.RefusedError, match="step 2"):
        gpu._speed([1.0, float("nan"), 2.0, 1.0], [1.0] * 4, 8)


def test_losses_are_compared_with_float32_step_by_step(gpu):
    rows = {
        "step, float32": {"losses": [4.0, 2.0]},
        "step, bfloat16": {"losses": [4.0, 4.0]},  # the second step was skipped
        "step, TF32": {"losses": [4.0, 2.5]},
        "step, TF32, PyTorch": {"losses": [9.0, 9.0]},
        "step, float16": {"failed": "Out of memory."},
    }
    gpu.compare_losses(rows)
    assert rows["step, TF32"]["loss_difference"] == {"first": 0.0, "largest": 0.25, "steps": 2}
    assert rows["step, TF32"]["skipped_steps"] == 0
    assert rows["step, bfloat16"]["loss_difference"] == {"first": 0.0, "largest": 0.0, "steps": 1}
    assert rows["step, bfloat16"]["skipped_steps"] == 1
    assert "loss_difference" not in rows["step, TF32, PyTorch"] | rows["step, float16"]
    gpu.show({key: {"failed": "[x]"} for key in rows}, Console())
