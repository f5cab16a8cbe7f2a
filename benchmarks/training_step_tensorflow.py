"""Our contestant of `training_step.py`: SAN's training step of this package."""

from __future__ import annotations

import collections
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.presets import DECODERS
from san_tf.models.san import SAN
from san_tf.training.optimizers import build_optimizer
from san_tf.training.ordered_sums import ordered_sums

KINDS = {
    "DepthwiseConv2dNativeBackpropFilter": "depthwise convolutions, gradient of the kernels",
    "DepthwiseConv2dNativeBackpropInput": "depthwise convolutions, gradient of the maps",
    "DepthwiseConv2dNative": "depthwise convolutions, forward",
    "Conv2DBackpropFilter": "convolutions, gradient of the kernels",
    "Conv2DBackpropInput": "convolutions, gradient of the maps (and the decoder's doublings)",
    "Conv2D": "convolutions, forward",
    "FusedBatchNormGrad": "batch norm, backward",
    "FusedBatchNorm": "batch norm, forward",
    "ReluGrad": "ReLU, backward",
    "Relu": "ReLU, forward",
    "AddN": "sums of gradients",
    "AddV2": "shortcuts",
    "MatMul": "matrix products",
    "Einsum": "kernels of the doublings",
    "MaxPool": "pooling",
    "AvgPool": "pooling",
    "Mul": "products of maps",
    "Pad": "padding",
    "Resize": "resizing",
}

# The scope in which Keras names the optimiser's operations.
OPTIMIZER = "adam_l2/"


class TensorFlowStep:
    """The training step as in `fit`, to be repeated on one batch.

    Args:
        batch: `image` (B, H, W, 3), `label`, and for a decoder `texture` (B, T, T, 3) and `texture_weight`.
        classes: number of training identities.
        threads: threads inside an operation.
        threads_between: operations that run in parallel; 0 for TensorFlow's default.
        jit_compile: compile with XLA.
        backbone: "resnet50" has the head fc512, strides on the 3x3 convolutions and a decoder of the paper's
            widths with skips; others have the head bnneck and the light decoder.
    """

    def __init__(
        self,
        batch: dict[str, np.ndarray],
        classes: int,
        threads: int,
        threads_between: int = 0,
        jit_compile: bool = False,
        backbone: str = "resnet50",
    ) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads_between)
        shape = batch["image"].shape[1:]
        large = backbone == "resnet50"
        encoder = build_encoder(
            backbone, shape, classes, head="fc512" if large else "bnneck",
            stride_on="3x3" if large else "1x1", weights=None, seed=0,
        )  # fmt: skip
        decoder = None
        if "texture" in batch:
            options = {"skips": True} if large else DECODERS["light"]
            decoder = build_decoder([stage.shape for stage in encoder.output["stages"]], seed=0, **options)
        self.model = SAN(encoder, decoder, loss_weights=(1.0, 1.0, 1.0, 1.0))
        self.model.compile(optimizer=build_optimizer(), jit_compile=jit_compile)
        self.model.optimizer.build(self.model.trainable_variables)
        dataset = tf.data.Dataset.from_tensors({key: tf.constant(value) for key, value in batch.items()})
        self._batches = iter(dataset.repeat())
        self._spec = dataset.element_spec
        # As in the training loop; never undone, because this process does nothing else.
        self._sums = contextlib.ExitStack()
        self._sums.enter_context(ordered_sums())
        self.model.make_train_function()  # what `fit` calls for each batch
        self._step = self.model.train_function

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)

    def __call__(self) -> float:
        """Run one step; return the running mean of the sum of the losses."""
        logs = self._step(self._batches)
        return float(logs["loss"])

    def weights(self) -> dict[str, list[np.ndarray]]:
        """Return the weights of each layer of the networks, by the layer's name."""
        parts = [part for part in (self.model.encoder, self.model.decoder) if part is not None]
        return {layer.name: layer.get_weights() for part in parts for layer in part.layers if layer.weights}

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return embedding and, with a decoder, texture of normalised images in inference."""
        found = self.model(image, training=False)
        return {name: found[name].numpy() for name in ("embedding", "texture") if name in found}

    def gflop(self) -> float:
        """Return the GFLOP of one step (multiplications and additions), from the graph's shapes."""
        graph = tf.function(self.model.train_step).get_concrete_function(self._spec).graph
        return sum(_operations(node) for node in graph.get_operations()) / 1e9

    def product_rate(self, side: int = 4096) -> float:
        """Return the GFLOP/s of a large float32 matrix product in TensorFlow."""
        a, b = tf.random.uniform((side, side)), tf.random.uniform((side, side))
        product = tf.function(lambda: tf.reduce_max(tf.matmul(a, b)))
        float(product())
        start = time.perf_counter()
        float(product())
        return 2e-9 * side**3 / (time.perf_counter() - start)

    def profile(self) -> dict[str, float]:
        """Return the seconds of one step by kind of operation; they overlap unless both threads are 1."""
        with tempfile.TemporaryDirectory() as folder:
            tf.profiler.experimental.start(folder)
            self()
            tf.profiler.experimental.stop()
            found = next(Path(folder).rglob("*.xplane.pb")).read_bytes()
        return _seconds_by_kind(found)


def _operations(node: Any) -> float:
    """Return multiplications and additions of a convolution or matrix product; 0 for other nodes."""
    if node.type == "Conv2D":
        return 2.0 * np.prod(node.outputs[0].shape) * np.prod(node.inputs[1].shape[:3])
    if node.type == "Conv2DBackpropInput":  # sizes, kernel, gradient of the output
        return 2.0 * np.prod(node.inputs[2].shape) * np.prod(node.inputs[1].shape[:3])
    if node.type == "Conv2DBackpropFilter":  # map, sizes, gradient of the output
        kernel = node.outputs[0].shape
        return 2.0 * np.prod(node.inputs[2].shape) * np.prod(kernel[:3])
    if node.type.startswith("DepthwiseConv2dNative"):  # each product belongs to one value of the output
        forward = node.type == "DepthwiseConv2dNative"
        kernel = node.outputs[0] if node.type.endswith("Filter") else node.inputs[1]
        output = node.outputs[0] if forward else node.inputs[2]
        return 2.0 * np.prod(output.shape) * np.prod(kernel.shape[:2])
    if node.type == "MatMul":
        axis = 0 if node.get_attr("transpose_a") else 1
        return 2.0 * np.prod(node.outputs[0].shape) * node.inputs[0].shape[axis]
    return 0.0


def _seconds_by_kind(xspace: bytes) -> dict[str, float]:
    # The format of the TensorBoard plugin; TensorFlow has no public reader of its profiles.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(xspace)
    seconds: dict[str, float] = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # "layer/name:Operation"; TensorFlow's own events have a space or another colon in there.
            name, _, operation = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if name and not name.endswith(":") and operation.isidentifier():
                kind = next((kind for part, kind in KINDS.items() if part in operation), "other")
                kind = "optimiser" if OPTIMIZER in name else kind
                seconds[kind] += event.duration_ps / 1e12
    return dict(seconds)
