"""TensorFlow Addons by name: errors in words; where it is installed, its losses and optimisers."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from test_san import repeated, tiny_batch, tiny_san

from san_tf import addons
from san_tf.errors import UserError
from san_tf.experiments.flags import parse
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.stages.train import optimizer_of
from san_tf.losses import batch_hard_triplet_loss
from san_tf.models import SAN
from san_tf.training.optimizers import build_addons_optimizer
from san_tf.training.schedules import Scaled, WarmupCosine, WarmupSteps

installed = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_addons") is None, reason="TensorFlow Addons is not installed"
)


def recipe_of(*flags: str) -> Recipe:
    # No experiment has this name, so no run in the checkout is taken for an interrupted one.
    return parse("of_addons", "", Recipe(), ("train",), flags)[1]


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addons.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("flag", ["--optimizer=tfa.LAMB", "--triplet=tfa.TripletSemiHardLoss"])
def test_without_tensorflow_addons_a_sentence_says_how_to_get_it(absent: None, flag: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_of(flag)
    field, name = flag.removeprefix("--").split("=")
    assert str(error.value).startswith(f"The {field} {name} needs TensorFlow Addons, which is not installed;")
    assert "pip install '.[addons]'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_library_user_gets_the_same_sentence(absent: None) -> None:
    with pytest.raises(UserError, match="needs TensorFlow Addons"):
        build_addons_optimizer("tfa.LAMB", 1e-3)
    with pytest.raises(UserError, match="needs TensorFlow Addons"):
        tiny_san(triplet="tfa.TripletHardLoss")


@pytest.mark.parametrize(
    "flag",
    ["--optimizer=LAMB", "--optimizer=tfa.LAMP", "--triplet=hard", "--triplet=tfa.LAMB", "--triplet=tfa."],
)
def test_unknown_names_are_told_from_known_ones(absent: None, flag: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_of(flag)
    assert f"{flag.split('=')[1]!r}" in str(error.value)
    assert ("tfa.LAMB" if "optimizer" in flag else "tfa.TripletHardLoss") in str(error.value)


def test_ours_need_nothing(absent: None) -> None:
    recipe = recipe_of()
    assert (recipe.training.optimizer, recipe.losses.triplet) == ("adam", "batch-hard")


@pytest.mark.parametrize("schedule", [WarmupSteps(7, peak=1e-3), WarmupCosine(0.1, 20, 3)])
def test_a_scaled_schedule_follows_the_schedule(schedule: WarmupSteps | WarmupCosine) -> None:
    scaled = Scaled(schedule, 0.25)
    again = Scaled.from_config(scaled.get_config())
    for step in (0, 2, 6, 15):
        assert float(scaled(step)) == float(again(step)) == pytest.approx(0.25 * float(schedule(step)))


# --- with TensorFlow Addons ---


def value_and_gradient(loss, label, embedding, margin=0.3):
    embedding = tf.constant(embedding, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        value = loss(tf.constant(label), embedding, margin)
    return float(value), tf.convert_to_tensor(tape.gradient(value, embedding)).numpy()


@installed
@pytest.mark.parametrize(
    "label",
    [
        np.repeat(np.arange(8), 4),  # P x K
        np.r_[np.repeat(np.arange(5), 3), [-1] * 6],  # with rows of no identity
        np.r_[np.repeat(np.arange(4), 2), [7, 8, 9]],  # identities of one image
    ],
)
@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_our_batch_hard_loss_is_theirs(label: np.ndarray, margin: float) -> None:
    theirs = addons.triplet_loss("tfa.TripletHardLoss")
    for seed in range(5):
        embedding = np.random.default_rng(seed).normal(size=(len(label), 16))
        value, gradient = value_and_gradient(batch_hard_triplet_loss, label, embedding, margin)
        other, other_gradient = value_and_gradient(theirs, label, embedding, margin)
        assert other == pytest.approx(value, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(other_gradient, gradient, atol=1e-5)
        assert margin == 0.0 or value > 0


@installed
@pytest.mark.parametrize("name", addons.TRIPLET_LOSSES)
@pytest.mark.parametrize("label", [[3, 3, 3, 3], [-1, -1, -1, -1], [0, 1, 2, 3], [2, 2, -1, -1]])
def test_a_batch_without_a_triplet_gives_zero_and_no_gradient(name: str, label: list[int]) -> None:
    embedding = np.random.default_rng(0).normal(size=(4, 3))
    value, gradient = value_and_gradient(addons.triplet_loss(f"tfa.{name}"), label, embedding)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((4, 3)))


@installed
def test_the_semi_hard_loss_by_a_naive_loop() -> None:
    rng = np.random.default_rng(1)
    label = np.r_[np.repeat(np.arange(4), 3), -1, -1]
    embedding = rng.normal(size=(14, 5))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    distance = np.linalg.norm(embedding[:, None] - embedding[None], axis=2)
    hinges, kinds = [], set()
    for a in range(12):
        negatives = [distance[a, n] for n in range(12) if label[n] != label[a]]
        for p in range(12):
            if p != a and label[p] == label[a]:
                outside = [d for d in negatives if d > distance[a, p]]
                kinds.add(bool(outside))
                hinges.append(max(0.0, 0.3 + distance[a, p] - (min(outside) if outside else max(negatives))))
    assert kinds == {True, False}  # both rules were asked for
    value, _ = value_and_gradient(addons.triplet_loss("tfa.TripletSemiHardLoss"), label, embedding)
    assert value == pytest.approx(np.mean(hinges), rel=1e-4)


@installed
@pytest.mark.parametrize(
    "flags",
    [
        ("--optimizer=tfa.AdamW", "--weight_decay=0.01", "--triplet=tfa.TripletSemiHardLoss"),
        ("--optimizer=tfa.LAMB", "--weight_decay=0.01", "--triplet=tfa.TripletHardLoss"),
    ],
)
def test_a_recipe_trains_with_them(flags: tuple[str, ...]) -> None:
    schedule = ("--schedule=cosine", "--epochs=3", "--warmup_epochs=0.2", "--learning_rate=0.02")
    recipe = recipe_of(*schedule, *flags)
    san = tiny_san(triplet=recipe.losses.triplet)
    san.compile(optimizer=optimizer_of(recipe, 10), jit_compile=False)
    assert type(san.optimizer).__module__.startswith("tensorflow_addons")
    before = san.encoder.get_layer("classifier").get_weights()
    history = san.fit(repeated(tiny_batch()), epochs=3, steps_per_epoch=10, verbose=0).history
    # Seen: at most 0.44, 0 and 0.53. The identity loss falls by no more than 2 % with LAMB, so its weights
    # are looked at instead.
    for loss, share in {"loss": 0.7, "triplet_loss": 0.5, "rec_loss": 0.8}.items():
        assert history[loss][-1] < share * history[loss][0], loss
    for old, new in zip(before, san.encoder.get_layer("classifier").get_weights(), strict=True):
        assert np.abs(new - old).max() > 1e-3
    again = SAN.from_config(san.get_config())
    assert again.triplet == recipe.losses.triplet


@installed
def test_every_optimiser_that_is_offered_can_be_had() -> None:
    for name in addons.OPTIMIZERS:
        optimizer = build_addons_optimizer(f"tfa.{name}", WarmupCosine(0.1, steps=5))
        variable = tf.Variable([3.0, -2.0])
        for _ in range(2):
            optimizer.apply_gradients([(2 * variable, variable)])
        assert np.linalg.norm(variable) < np.linalg.norm([3.0, -2.0]), name
        assert type(optimizer).__name__ == name


@installed
def test_adamw_decays_by_the_rate_of_the_step() -> None:
    """Decoupled: w - rate * decay * w; with no gradient, nothing else."""
    schedule = WarmupCosine(0.5, steps=4, warmup_steps=1)
    for name in ("AdamW", "SGDW"):
        optimizer = build_addons_optimizer(f"tfa.{name}", schedule, weight_decay=0.1)
        variable, expected = tf.Variable([4.0]), 4.0
        for step in range(3):
            optimizer.apply_gradients([(tf.zeros(1), variable)])
            expected -= float(schedule(step)) * 0.1 * expected
        assert float(variable[0]) == pytest.approx(expected, rel=1e-6)
        fixed = build_addons_optimizer(f"tfa.{name}", 0.5, weight_decay=0.1)
        variable = tf.Variable([4.0])
        fixed.apply_gradients([(tf.zeros(1), variable)])
        assert float(variable[0]) == pytest.approx(4.0 * 0.95)


@installed
@pytest.mark.parametrize("name", ["LazyAdam", "Yogi"])
def test_a_decay_that_an_optimiser_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"tfa.{name} has no weight decay"):
        build_addons_optimizer(f"tfa.{name}", 1e-3, weight_decay=0.1)
