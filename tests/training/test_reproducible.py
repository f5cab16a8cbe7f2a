"""The same seed on the same machine: the same weights, bit for bit, however busy the machine is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from san_tf.models.decoder import build_decoder
from san_tf.models.san import SAN
from san_tf.training.optimizers import build_optimizer
from san_tf.training.ordered_sums import ordered_sums

TRAINING = """
import hashlib, sys, tempfile
import tensorflow as tf
from tiny_training_model import state
from san_tf.experiments.networks import decoder_of, encoder_of
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe
from san_tf.models.san import SAN
from san_tf.training.loop import train
from san_tf.training.optimizers import build_optimizer
from san_tf.training.run_directory import RunDirectory

backbone, height, rows, steps, palette = sys.argv[1], *map(int, sys.argv[2:])
size = (height, height // 2)
model = ModelRecipe(backbone=backbone, sketch=16, skips=True, palette=palette)
recipe = Recipe(data=DataRecipe(image_size=size), model=model)
encoder = encoder_of(recipe, rows // 2, weights=False)
model = SAN(encoder, decoder_of(recipe, encoder))
model.compile(optimizer=build_optimizer(schedule=1e-3), jit_compile=False)
texture = recipe.texture_size

def dataset_at(start):
    def batch(step):
        seed = tf.stack([step, tf.constant(1, tf.int64)])
        return {
            "image": tf.random.stateless_normal((rows, *size, 3), seed),
            "label": tf.concat([tf.range(rows - 2) // 2, [-1, -1]], 0),
            "texture": tf.tanh(tf.random.stateless_normal((rows, texture, texture, 3), seed)),
            "texture_weight": tf.ones(rows),
        }
    return tf.data.Dataset.counter(start).map(batch).prefetch(2)

with tempfile.TemporaryDirectory() as folder:
    train(model, dataset_at, 1, steps, RunDirectory(folder), save_every_seconds=None)
print("weights", hashlib.sha256(b"".join(value.tobytes() for value in state(model))).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "height", "rows", "steps", "palette"),
    [
        ("thin_resnet", 128, 34, 60, 0),
        ("thin_resnet", 128, 34, 40, 8),
        ("efficientnet_lite0", 128, 18, 15, 0),
        ("resnet50", 128, 10, 3, 0),
    ],
)
def test_two_processes_at_once_train_to_the_same_weights(
    backbone: str, height: int, rows: int, steps: int, palette: int
) -> None:
    """Each is the load under which the other runs, with all the threads that TensorFlow takes."""
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[2])])}
    numbers = map(str, (height, rows, steps, palette))
    command = [sys.executable, "-c", TRAINING, backbone, *numbers]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    answers = [process.communicate()[0].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    assert answers[0].startswith("weights ")


def tiny_san() -> SAN:
    image = keras.Input((32, 16, 3))
    x, stages = image, []
    for number, stride in enumerate((4, 2, 2, 1)):
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4 * (number + 1), 3, stride, "same")(x))
        stages.append(keras.layers.ReLU()(x))
        x = stages[-1]
    embedding = keras.layers.GlobalAveragePooling2D()(x)
    outputs = {"embedding": embedding, "logits": keras.layers.Dense(4)(embedding), "stages": stages}
    shapes = [stage.shape for stage in stages]
    decoder = build_decoder(shapes, widths=(8, 8, 4, 4, 4), skips=True, seed=1)
    model = SAN(keras.Model(image, outputs), decoder)
    model.compile(optimizer=build_optimizer(schedule=1e-3), jit_compile=False)
    return model


def test_nothing_in_a_training_step_sums_by_the_clock() -> None:
    """The two operations that do, in the graph that runs: what TensorFlow's optimiser of graphs made of
    it."""
    model = tiny_san()
    batch = {
        "image": tf.zeros((6, 32, 16, 3)),
        "label": tf.constant([0, 0, 1, 1, -1, -1]),
        "texture": tf.zeros((6, *model.decoder.output["texture"].shape[1:])),
        "texture_weight": tf.ones(6),
    }
    context.enable_graph_collection()
    try:
        with ordered_sums():
            tf.function(model.train_step)(batch)
        graphs = [g.post_optimization_graph for g in context.context().export_run_metadata().function_graphs]
    finally:
        context.disable_graph_collection()
    bodies = [graph.node for graph in graphs]
    bodies += [function.node_def for graph in graphs for function in graph.library.function]
    nodes = [node for body in bodies for node in body]
    assert len(nodes) > 500
    inputs = {node.name: [name for name in node.input if not name.startswith("^")] for node in nodes}
    assert not [node.name for node in nodes if node.op == "AddN" and len(inputs[node.name]) > 2]
    assert not [node.name for node in nodes if "SegmentSum" in node.op or "Scatter" in node.op]
