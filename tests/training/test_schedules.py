import math

import keras
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.training.schedules import WarmupCosine, WarmupMilestones, WarmupSteps


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 8e-6),
        (1, 1.00720e-5),  # 8e-6 * 1.259
        (10, 8.00474e-05),  # nearly ten times as much after ten epochs
        (19, 6.36178e-04),
        (20, 8e-4),
        (59, 8e-4),
        (60, 4e-4),
        (99, 4e-4),
        (100, 2e-4),
        (319, 8e-4 / 2**7),
    ],
)
def test_the_papers_schedule(epoch, rate):
    schedule = WarmupSteps(steps_per_epoch=202)
    for step in (202 * epoch, 202 * epoch + 201):
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-4)


def test_epochs_start_exactly_however_large_the_step():
    schedule = WarmupSteps(steps_per_epoch=3, warmup_epochs=0, decay_epochs=10_000_000, peak=1.0)
    boundary = 30_000_000  # not a float32 integer apart from its neighbours
    assert float(schedule(boundary - 1)) == 1.0 and float(schedule(boundary)) == 0.5


def test_cosine_by_hand():
    schedule = WarmupCosine(peak=2.0, steps=13, warmup_steps=4, floor=1.0)
    rates = [float(schedule(step)) for step in range(15)]
    expected = [0.5, 1.0, 1.5, 2.0]
    expected += [1.0 + 0.5 * (1.0 + math.cos(math.pi * k / 8)) for k in range(9)] + [1.0, 1.0]
    assert rates == pytest.approx(expected, abs=1e-6)
    assert rates[8] == pytest.approx(1.5)  # half way between peak and floor


def test_cosine_without_warm_up_starts_at_the_peak():
    assert float(WarmupCosine(0.1, steps=10)(0)) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", [WarmupSteps(7, peak=1e-3), WarmupCosine(0.1, 20, 3)])
def test_schedules_work_in_a_graph_and_go_round(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    for step in (0, 2, 6, 15):
        eager = float(schedule(step))
        assert float(tf.function(again)(tf.constant(step, tf.int64))) == pytest.approx(eager, rel=1e-6)


def test_impossible_values_are_named():
    with pytest.raises(UserError, match="warmup_steps"):
        WarmupCosine(0.1, steps=5, warmup_steps=5)
    with pytest.raises(UserError, match="steps_per_epoch"):
        WarmupSteps(0)


def test_milestones_are_bag_of_tricks_equation():
    schedule = WarmupMilestones(steps_per_epoch=3, peak=3.5e-4, milestones=(40, 70), warmup_epochs=10)
    for step in range(360):
        epoch = step // 3
        warm = 3.5e-4 * (step + 1) / 30
        late = 3.5e-4 if epoch < 40 else 3.5e-5 if epoch < 70 else 3.5e-6
        assert float(schedule(step)) == pytest.approx(warm if step < 30 else late, rel=1e-5), step
    # The end of each epoch of the warm-up is the paper's 3.5e-5 t.
    assert float(schedule(2)) == pytest.approx(3.5e-5, rel=1e-5)
    again = WarmupMilestones.from_config(schedule.get_config())
    assert float(again(150)) == float(schedule(150))
    for wrong in ((70, 40), (0, 3), (4, 4)):
        with pytest.raises(UserError, match="rising epochs"):
            WarmupMilestones(3, 1e-3, wrong)
    assert float(WarmupMilestones(3, 1e-3, ())(10**6)) == pytest.approx(1e-3)
