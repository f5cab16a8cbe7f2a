"""A training that learns nothing is told, one that learns is not; spread, soft margin and warm-up by hand."""

import math
from io import StringIO

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tiny_san import IDENTITIES, SIZE, encoder

from san_tf.losses import batch_hard_triplet_loss
from san_tf.models import SAN, LossWeights
from san_tf.models.san import spread
from san_tf.training.callbacks.clock import Clock
from san_tf.training.callbacks.guards import CollapseWatch
from san_tf.training.callbacks.reports import ProgressLine
from san_tf.training.optimizers import build_optimizer


def batches(telling: bool):
    """Noise of no identity, which nothing but a single point can answer; or each identity in its colour."""
    rng = np.random.default_rng(0)

    def draw():
        while True:
            label = rng.permutation(IDENTITIES).repeat(4).astype(np.int32)
            image = rng.normal(0, 0.5, (len(label), *SIZE, 3)).astype(np.float32)
            yield {"image": image + telling * np.eye(4, 3, dtype="f")[label][:, None, None], "label": label}

    shapes = {
        "image": tf.TensorSpec((4 * IDENTITIES, *SIZE, 3), tf.float32),
        "label": tf.TensorSpec((4 * IDENTITIES,), tf.int32),
    }
    return tf.data.Dataset.from_generator(draw, output_signature=shapes)


def trained(telling: bool, epochs: int) -> tuple[str, CollapseWatch, dict]:
    """What is printed about a training, who watched it, and its logs."""
    san = SAN(encoder(IDENTITIES), None, LossWeights(0.1, 1.0, 0.0, 0.0))
    san.compile(optimizer=build_optimizer(schedule=2e-2, weight_decay=1e-2, decay="decoupled"))
    screen = StringIO()
    watch = CollapseWatch(console=Console(file=screen, width=500))
    logs = san.fit(batches(telling), epochs=epochs, steps_per_epoch=15, verbose=0, callbacks=[watch]).history
    return screen.getvalue(), watch, logs


def test_embeddings_that_shrink_to_a_point_are_told_once_each():
    said, watch, logs = trained(telling=False, epochs=8)
    assert logs["spread"][0] > 0.3 > logs["spread"][-1]
    assert logs["triplet_loss"][-1] == pytest.approx(0.3, abs=0.15)
    assert watch.label == "collapsed and at chance"
    assert said.count("the embeddings have collapsed") == 1
    assert said.count(f"guessing gives {math.log(IDENTITIES):.3g}") == 1
    for helps in ("--learning_rate", "--warmup_epochs", "--triplet_warmup_epochs", "soft-margin", "bnneck"):
        assert helps in said


def test_nothing_is_said_of_a_training_that_learns():
    said, watch, logs = trained(telling=True, epochs=4)
    assert logs["accuracy"][-1] > 0.9
    assert said == "" and watch.label == ""


def watched(rows, warmup_epochs=0.0):
    """The labels after each of the epochs, of a watch that is shown their logs."""
    watch = CollapseWatch(warmup_epochs=warmup_epochs)
    watch.set_model(SAN(encoder(IDENTITIES)))
    labels = []
    for epoch, (distance, identity) in enumerate(rows):
        watch.on_epoch_end(epoch, {"spread": distance, "id_loss": identity, "triplet_loss": 0.3})
        labels.append(watch.label)
    return labels


def test_two_epochs_in_a_row_count_and_the_label_goes_with_the_trouble():
    assert watched([(0.1, 0.5), (5.0, 0.5), (0.1, 0.5), (0.1, 0.5), (5.0, 0.5)]) == [
        "", "", "", "collapsed", "",
    ]  # fmt: skip


def test_chance_is_not_judged_during_the_warm_up():
    chance = math.log(IDENTITIES)
    assert watched([(5.0, chance)] * 5, warmup_epochs=2) == ["", "", "", "at chance", "at chance"]


def test_other_models_are_left_alone():
    watch = CollapseWatch()
    watch.on_epoch_end(0, {"loss": 1.0})
    watch.on_epoch_end(1, None)
    assert watch.label == ""


def test_the_progress_line_shows_it():
    watch = CollapseWatch()
    line = ProgressLine(Clock(0, 2, 3), "train", Console(file=StringIO()), watch)
    assert "COLLAPSED" not in line.line({"loss": 1.0})
    watch.label = "collapsed"
    assert line.line({"loss": 1.0}).endswith("COLLAPSED · loss 1")


def test_spread_is_the_root_mean_square_distance_of_two_rows():
    # Distances of the rows that count: 3, 4 and 5; sqrt((9 + 16 + 25) / 3).
    feature = tf.constant([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [100.0, 100.0]])
    assert float(spread(feature, tf.constant([1.0, 1.0, 1.0, 0.0]))) == pytest.approx(math.sqrt(50 / 3))
    assert float(spread(feature, tf.constant([1.0, 0.0, 0.0, 0.0]))) == 0.0
    assert float(spread(tf.ones((5, 3)), tf.ones(5))) == 0.0


def test_the_soft_margin_by_hand():
    # Anchors 0 and 1 of one identity, 2 alone: hardest positives 1, 1, 0; hardest negatives 3, 2, 2.
    value = batch_hard_triplet_loss(tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]]), None)
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 3
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_the_triplet_loss_warms_up_over_its_steps():
    batch = next(iter(batches(telling=True)))
    san = SAN(encoder(IDENTITIES), None, LossWeights(1.0, 2.0, 0.0, 0.0), triplet_warmup=4)
    san.compile(optimizer=build_optimizer(schedule=0.0, weight_decay=0.0))
    for share in (0.25, 0.5, 0.75, 1.0, 1.0):
        san.reset_metrics()
        logs = {name: float(value) for name, value in san.train_step(batch).items()}
        assert logs["loss"] == pytest.approx(logs["id_loss"] + 2.0 * share * logs["triplet_loss"], rel=1e-4)
    assert type(san).from_config(san.get_config()).triplet_warmup == 4
