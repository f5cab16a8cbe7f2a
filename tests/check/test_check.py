"""`python -m san_tf.check`: what it finds, what it advises, and when it fails."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import tensorflow as tf
from rich.console import Console

from san_tf.check import trial_steps
from san_tf.check.trial_steps import (
    CASES,
    FLOAT32,
    Case,
    Outcome,
    advice,
    check,
    difference,
    findings,
    instructions,
    try_case,
)

FINE = Outcome((2.0, 1.9, 1.8), (9.0, 0.2, 0.1))
XLA = Case("float32", xla=True)


def test_findings_name_versions_and_devices():
    found = dict(findings())
    assert found["tensorflow"] == tf.__version__
    assert found["cores"].startswith(tuple("123456789"))
    assert "GiB" in found["memory"] or found["memory"] == "unknown"
    assert ("GPU" in found) == (not tf.config.list_physical_devices("GPU"))


def test_instructions_are_those_of_the_processor():
    try:
        with open("/proc/cpuinfo") as file:
            text = file.read()
    except OSError:
        pytest.skip("this system does not list them")
    assert all(f" {name}" in text for name in instructions())


@pytest.mark.parametrize(
    ("capabilities", "units", "said"),
    [
        ([], False, "--precision float32: this processor has no units"),
        ([], True, "mixed_bfloat16 is worth a try"),
        ([(8, 6)], False, "--precision mixed_bfloat16"),
        ([(7, 5)], False, "--precision mixed_float16"),
        ([(6, 1)], False, "--precision float32."),
        ([(9, 0), (7, 0)], False, "--precision mixed_float16"),
    ],
)
def test_advice_goes_by_the_weakest_device(
    monkeypatch: pytest.MonkeyPatch, capabilities, units: bool, said: str
):
    monkeypatch.setattr(trial_steps, "gpus", lambda: [{"compute_capability": pair} for pair in capabilities])
    monkeypatch.setattr(trial_steps, "has_bfloat16_units", lambda: units)
    lines = advice({case: FINE for case in CASES})
    assert said in lines[0]
    assert ("--strategy mirrored trains on all 2 GPUs." in lines) == (len(capabilities) == 2)


def test_advice_leaves_out_what_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial_steps, "gpus", lambda: [{"compute_capability": (8, 0)}])
    failed = Outcome(problem="NotFoundError: no kernel")
    outcomes = {FLOAT32: FINE, Case("mixed_bfloat16"): failed, Case("mixed_float16"): FINE, XLA: failed}
    assert advice(outcomes) == ["Train with --precision mixed_float16: the GPU has units for it."]
    slower = advice({FLOAT32: FINE, XLA: Outcome((2.0, 1.9, 1.8), (30.0, 0.3, 0.2))})
    assert "took 30 s to compile and made this small step 0.50 times as fast" in slower[1]


def test_difference_is_relative_and_of_the_first_loss():
    assert difference(Outcome((2.2, 9.0), (1.0, 1.0)), Outcome((2.0, 1.0), (1.0, 1.0))) == pytest.approx(0.1)


@pytest.mark.parametrize("broken", [FLOAT32, XLA])
def test_only_float32_decides(monkeypatch: pytest.MonkeyPatch, broken: Case):
    failed = Outcome(problem="RuntimeError: no")
    monkeypatch.setattr(trial_steps, "try_case", lambda case: failed if case == broken else FINE)
    text = io.StringIO()
    assert check(Console(file=text, width=120), CASES) == (broken != FLOAT32)
    assert "fails: RuntimeError: no" in text.getvalue()


def test_a_failure_is_a_line(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise NotImplementedError("no kernel for this\nand a long trace")

    monkeypatch.setattr(trial_steps, "build_encoder", fail)
    assert try_case(FLOAT32) == Outcome(problem="NotImplementedError: no kernel for this")


@pytest.mark.slow  # compiles a training step four times
def test_the_command():
    done = subprocess.run([sys.executable, "-m", "san_tf.check"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    for case in CASES:
        assert str(case) in done.stdout
    assert "Train with --precision" in done.stdout
