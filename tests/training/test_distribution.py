"""Replicas: two devices of one process compute what one does; the cures that Keras needs for it are tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3
from san_tf.training.distribution import Distribution, start
from san_tf.training.loop import distributed_fit

HERE = Path(__file__).resolve().parent


def run_mirrored(folder: Path, *arguments: str) -> dict[str, np.ndarray]:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    subprocess.run(
        [sys.executable, HERE / "mirrored_process.py", folder / "found.npz", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        timeout=500,
    )
    with np.load(folder / "found.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return run_mirrored(tmp_path_factory.mktemp("mirrored"))


@pytest.mark.parametrize("loss", ["triplet", "identity"])
def test_losses_and_gradients_are_those_of_the_whole_batch(found: dict[str, np.ndarray], loss: str):
    assert found["devices"] == 2
    assert found[f"{loss} alone"] > 0.1
    np.testing.assert_allclose(found[f"{loss} replicas"], found[f"{loss} alone"], rtol=1e-6)
    slope = found[f"{loss} slope alone"]
    assert np.abs(slope).max() > 0.1
    np.testing.assert_allclose(found[f"{loss} slope replicas"], slope, atol=1e-6)


def test_a_loss_that_no_replica_can_judge_is_zero(found: dict[str, np.ndarray]):
    assert (found["nothing replicas"] == 0).all()


def test_tensorflow_counts_a_gathered_gradient_once_for_each_replica(found: dict[str, np.ndarray]):
    # Sum of squares of 1, 2, 3, 4, computed whole on both replicas: 2x each, times two. It is why
    # `WholeBatch.rows` holds the others' rows constant. Should this change, nothing of ours does.
    np.testing.assert_allclose(found["all_gather slope"], [4.0, 8.0, 12.0, 16.0])


def test_a_data_set_without_row_numbers_keeps_the_order_in_which_it_is_dealt_out(
    found: dict[str, np.ndarray],
):
    for replica in range(2):
        np.testing.assert_array_equal(found["own rows"][replica], found["own rows expected"])
        np.testing.assert_array_equal(found["own labels"][replica], found["own labels expected"])
    np.testing.assert_array_equal(found["penalty"], [3.0, 3.0])


def test_an_overflow_on_one_replica_skips_the_step_on_both(found: dict[str, np.ndarray]):
    assert (found["kernel after overflow"] == 1.0).all()
    assert found["scale after overflow"] == 4.0, "halved from 8"
    # Normalised within each replica, both images of a pair are -1 and 1: with the weights 1, 3 and 2, 1 the
    # gradient is (3 - 1) + (1 - 2) = 1, and the rate 0.1.
    np.testing.assert_allclose(found["kernel after fine"], np.full((2, 2, 1), 0.9), atol=1e-3)
    assert found["scale after fine"] == 4.0


def test_moving_statistics_of_batch_norms_of_their_own_are_the_mean(found: dict[str, np.ndarray]):
    # Means of the replicas (2, 3.5) and (4, 2), on average (3, 2.75); variances (1, 2.25) and (16, 1), on
    # average (8.5, 1.625). Half of each, and half of the initial 0 and 1.
    np.testing.assert_allclose(found["moving means"], [[1.5, 1.375]] * 2, rtol=1e-5)
    np.testing.assert_allclose(found["moving variances"], [[4.75, 1.3125]] * 2, rtol=1e-5)


@pytest.mark.slow  # compiles a SAN twice; `test_workers.py` does it with two processes
@pytest.mark.parametrize("kind", ["san", "frozen"])
def test_a_san_on_two_devices_is_that_of_one(tmp_path: Path, kind: str):
    trained = run_mirrored(tmp_path, kind)
    names = [name.removeprefix("alone ") for name in trained if name.startswith("alone ")]
    assert len(names) > (100 if kind == "san" else 60)
    for name in names:
        np.testing.assert_allclose(
            trained[f"replicas {name}"], trained[f"alone {name}"], atol=1e-4, rtol=1e-4, err_msg=name
        )


def test_one_device_needs_nothing():
    alone = start()
    assert (alone.strategy, alone.replicas, alone.workers, alone.shard, alone.is_chief) == (
        None,
        1,
        1,
        None,
        True,
    )
    assert alone.of_chief([3.0, 4.0]).tolist() == [3.0, 4.0]
    alone.wait()
    alone.check(jit_compile=True, identities_per_batch=7)
    model = object()
    assert alone.local_copy(model, lambda: None) is model


class TwoReplicas:
    """A strategy, as far as its number of replicas goes."""

    num_replicas_in_sync = 2


def test_what_replicas_cannot_share_and_xla_are_refused():
    two = Distribution(TwoReplicas())
    two.check(identities_per_batch=4, pit_per_batch=0)
    with pytest.raises(UserError, match=r"pit_per_batch is 3, which 2 replicas cannot share equally"):
        two.check(identities_per_batch=4, pit_per_batch=3)
    with pytest.raises(UserError, match="--jit_compile does not work together with --strategy"):
        two.check(jit_compile=True, identities_per_batch=4)


@pytest.mark.parametrize(
    ("settings", "jit", "named"),
    [
        ({"gradient_accumulation_steps": 2}, False, "gradient_accumulation_steps does not work together"),
        ({"use_ema": True}, False, "use_ema does not work together"),
        ({}, True, "jit_compile"),
    ],
)
def test_what_keras_cannot_do_under_a_strategy_is_refused(settings: dict, jit: bool, named: str):
    if "gradient_accumulation_steps" in settings and not KERAS_3:
        pytest.skip("Keras 2 has no accumulation")
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(**settings), jit_compile=jit)
    with pytest.raises(UserError, match=named):
        distributed_fit(model, Distribution(TwoReplicas()), None, 0, 1, 1, [], None)


def test_a_strategy_of_another_name_and_one_processor():
    with pytest.raises(UserError, match="no strategy 'mirror'; choose one of mirrored, multiworker"):
        start("mirror")
    said: list[str] = []
    if not tf.config.list_physical_devices("GPU"):
        assert start("mirrored", said.append) == Distribution()
        assert said == ["This machine has one device, so it trains alone."]


def test_a_process_asks_its_own_replica_alone():
    plain = Distribution()
    assert plain.alone(len) is len
    mirrored = Distribution(tf.distribute.MirroredStrategy(["CPU:0"]))
    with mirrored.scope():
        image = keras.Input((6,))
        hidden = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(4)(image))
        model = keras.Model(image, {"hidden": hidden, "sum": keras.layers.Dense(1)(hidden)})
        model.get_layer("norm").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    places = []

    def ask(values):
        places.append(tf.distribute.in_cross_replica_context())
        return model(values, training=False)

    values = tf.random.stateless_normal((3, 6), (1, 2))
    answers = tf.function(mirrored.alone(ask))(values)
    assert places == [False]  # where reading a variable asks nobody
    for name, expected in model(values, training=False).items():
        np.testing.assert_allclose(answers[name], expected, atol=1e-6)
