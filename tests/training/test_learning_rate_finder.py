"""The sweep on losses whose answer to a learning rate is known."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.experiments.rate_sweep import RateSweep, rising_rates, sweep_rates
from san_tf.keras_compat import apply_gradients


class Parabola(keras.Model):
    """L = x^2 / 2, trained by plain gradient descent: x is multiplied by 1 - rate at each step."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.x = self.add_weight(name="x", shape=(), initializer=keras.initializers.Constant(start))
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.tracker]

    def train_step(self, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.convert_to_tensor(self.x)
        self.tracker.update_state(x**2 / 2)
        apply_gradients(self.optimizer, [x], [self.x])
        return {"loss": self.tracker.result()}


def swept(highest: float, steps: int, start: float = 1.0) -> tuple[RateSweep, np.ndarray]:
    model = Parabola(start)
    model.compile(keras.optimizers.SGD(rising_rates(1e-3, highest, steps)), jit_compile=False)
    sweep = sweep_rates(model, tf.data.Dataset.range(steps), 1e-3, highest, steps)
    rates = np.geomspace(1e-3, highest, steps)[: len(sweep.losses)]
    x = start * np.cumprod([1.0, *(1 - rates[:-1])])
    np.testing.assert_allclose(sweep.losses, x**2 / 2, rtol=1e-3)
    np.testing.assert_allclose(sweep.rates, rates, rtol=1e-6)
    return sweep, rates


def test_each_step_has_the_next_rate_and_the_loss_is_that_of_its_batch() -> None:
    sweep, _ = swept(1.0, 40)
    assert len(sweep.losses) == 40
    # Falls ever faster until it is almost nothing: rates near 1 end it at once, those below 0.01 do little.
    assert sweep.suggestion is not None
    assert 0.01 < sweep.suggestion < 1.0


def test_it_ends_when_the_loss_explodes() -> None:
    sweep, _ = swept(100.0, 60)
    assert len(sweep.losses) < 60
    assert sweep.losses[-1] > 4 * sweep.losses.min()
    assert sweep.suggestion is not None
    assert sweep.suggestion < 2.0  # above 2 the steps diverge


def test_a_loss_that_only_rises_suggests_nothing() -> None:
    rates = np.geomspace(1e-5, 1, 30)
    assert RateSweep(rates, np.linspace(1, 2, 30)).suggestion is None


def test_smoothing_by_hand() -> None:
    # (4 + 0.8 * 2 + 0.64) / 2.44; (0.8 * 4 + 2 + 0.8) / 2.6; (0.64 * 4 + 0.8 * 2 + 1) / 2.44.
    sweep = RateSweep(np.array([1e-3, 1e-2, 1e-1]), np.array([4.0, 2.0, 1.0]))
    np.testing.assert_allclose(sweep.smoothed, [6.24 / 2.44, 6 / 2.6, 5.16 / 2.44])


def test_what_cannot_be_swept_is_refused() -> None:
    with pytest.raises(UserError, match="10 steps"):
        swept(1.0, 5)
    with pytest.raises(UserError, match="lowest < highest"):
        swept(1e-4, 20)
    with pytest.raises(UserError, match="not a number at the lowest"):
        model = Parabola(float("nan"))
        model.compile(keras.optimizers.SGD(rising_rates(1e-3, 1.0, 20)), jit_compile=False)
        sweep_rates(model, tf.data.Dataset.range(20), 1e-3, 1.0, 20)
