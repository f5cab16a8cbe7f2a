"""Cost of a step from two small ones: a line, held to what steps are like."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_san import TEXTURE, build, encoder

from san_tf.experiments.dry_run import StepCost, measure_steps
from san_tf.models.san import SAN
from san_tf.training.optimizers import build_optimizer


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((0.5, 0.8), 2.6),  # 0.3 s for 4 rows more: 0.8 + 24 x 0.075
        ((0.8, 0.8), 2.0),  # a smaller step that was held up: half of the larger is taken for fixed
        ((1.2, 0.8), 2.0),
        ((0.1, 0.8), 3.2),  # a larger one that was held up: nothing is fixed, so in proportion
    ],
)
def test_seconds(seconds: tuple[float, float], expected: float) -> None:
    cost = StepCost((4, 8), seconds, (100, 140))
    assert cost.seconds_of(32) == pytest.approx(expected)
    assert cost.seconds_of(8) == pytest.approx(0.8)
    assert cost.peak_of(32) == 140 + 24 * 10


def test_memory_never_falls() -> None:
    assert StepCost((4, 8), (1, 1), (150, 140)).peak_of(32) == 140


@pytest.mark.parametrize("texture_size", [TEXTURE, None])
def test_steps_of_a_san_are_measured_with_and_without_decoder(texture_size: int | None) -> None:
    if texture_size:
        model = build()
    else:
        model = SAN(encoder(4))
        model.compile(optimizer=build_optimizer())
    before = [np.array(weight) for weight in model.encoder.get_weights()]
    cost = measure_steps(model, texture_size, rows=16)
    assert cost.rows == (4, 8)
    assert min(cost.seconds) > 0 and min(cost.peak_bytes) > 2**20
    # These are steps of training: they change the weights.
    assert any((a != b).any() for a, b in zip(before, model.encoder.get_weights(), strict=True))
