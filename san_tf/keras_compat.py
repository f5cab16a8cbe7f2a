"""What Keras 3 and Keras 2.15 do differently, in one place; everything else runs on both.

Keras 3 is what this package is made for. Keras 2.15 is the last that TensorFlow Addons runs with, and what
`pip install ".[addons]"` brings; it has reached the end of its life, so its private names used here stay.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3

if not KERAS_3:
    # Random layers, such as Dropout, then keep their state in a variable, as they do in Keras 3: only what is
    # in a checkpoint can come back from it.
    keras.backend.experimental.enable_tf_random_generator()

NamedVariables = list[tuple[str, "keras.Variable"]]


def set_dtype_policy(name: str) -> None:
    """Set the policy of the layers built from now on: moved and renamed in Keras 3."""
    if KERAS_3:
        keras.config.set_dtype_policy(name)
    else:
        keras.mixed_precision.set_global_policy(name)


def dtype_policy() -> str:
    """The name of the present policy."""
    policy = keras.config.dtype_policy() if KERAS_3 else keras.mixed_precision.global_policy()
    return str(policy.name)


def scale_loss(optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    """The loss whose gradients `apply_gradients` takes: multiplied, where the optimizer scales losses.

    In Keras 3 every optimizer has the method; in Keras 2 only `LossScaleOptimizer`, under another name.
    """
    if KERAS_3:
        return optimizer.scale_loss(loss)
    return optimizer.get_scaled_loss(loss) if hasattr(optimizer, "get_scaled_loss") else loss


def apply_gradients(optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]) -> None:
    """One optimizer step with the gradients of a loss from `scale_loss`.

    A Keras 3 optimizer divides them by the scale itself, and does not count a step that it skips because of
    an overflow; Keras 2 leaves the division to the training step, and counts it. On several replicas they
    are summed already, see `san_tf.models.replicas.summed`.
    """
    replica = tf.distribute.get_replica_context()
    together = replica is not None and replica.num_replicas_in_sync > 1
    options = without_summation(optimizer) if together else {}
    if not KERAS_3 and hasattr(optimizer, "get_unscaled_gradients"):
        gradients = optimizer.get_unscaled_gradients(gradients)
    optimizer.apply_gradients(zip(gradients, variables, strict=True), **options)


def without_summation(optimizer: Any) -> dict[str, bool]:
    """Have an optimizer take gradients that are summed over the replicas already; for every step.

    Keras 3 sums them in the last moment: after clipping, which then sees a part of the batch, and after the
    check for overflow, which then skips the step on one replica while the others wait for it. There is no
    argument against it, so its private method is replaced by one that does nothing.

    Returns:
        Arguments for `apply_gradients`, where it has one for this.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if KERAS_3:
        if not hasattr(inner, "_all_reduce_sum_gradients"):
            raise NotImplementedError(f"Keras {keras.__version__} sums gradients in an unknown place.")
        inner._all_reduce_sum_gradients = _as_they_are
        return {}
    if isinstance(inner, keras.optimizers.legacy.Optimizer):
        return {"experimental_aggregate_gradients": False}
    return {"skip_gradients_aggregation": True}


def _as_they_are(pairs: Any) -> Any:
    return pairs


def learning_rate(optimizer: Any) -> float:
    """The learning rate of the next step.

    Keras 2 keeps that of the last step under `learning_rate`, and a legacy optimizer, as those of TensorFlow
    Addons are, the schedule itself.
    """
    rate = optimizer.learning_rate
    if not KERAS_3:
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        rate = getattr(optimizer, "_learning_rate", rate)
        rate = rate(optimizer.iterations) if callable(rate) else rate
    return float(tf.convert_to_tensor(rate))


def model_variables(model: keras.Model) -> NamedVariables:
    """A model's state by name: weights, moving statistics, random states; not its metrics.

    Keras 2 counts metrics among a model's variables, leaves random states out, and appends `:0` to names.
    """
    if KERAS_3:
        return [(variable.path, variable) for variable in model.variables]
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    named = [(_plain_name(v), v) for v in model.variables if id(v) not in metrics]
    for layer in model._flatten_layers():
        generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if generator is not None:
            named.append((f"{layer.name}/random_state", generator.state))
    return named


def optimizer_variables(optimizer: Any, trainable: Iterable[Any]) -> NamedVariables:
    """An optimizer's state by name, loss scale included; makes the slots where they are missing.

    Names are the end of Keras's: their head depends on whether the slots were made inside a training step.
    """
    if KERAS_3:
        if not optimizer.built:
            optimizer.build(trainable)
        return [(variable.path.split("/")[-1], variable) for variable in optimizer.variables]
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, keras.optimizers.legacy.Optimizer):
        inner._create_all_weights(trainable)
        variables, head = inner.variables(), inner._name
    else:
        inner.build(trainable)
        variables, head = inner.variables, inner.name
    named = [(_plain_name(variable).rpartition(f"{head}/")[2], variable) for variable in variables]
    if inner is not optimizer:  # the loss scale is none of `variables` in Keras 2
        scale = optimizer._loss_scale
        named += [("dynamic_scale", scale.current_loss_scale), ("step_counter", scale.counter)]
    return named


def input_of(operation: Any) -> Any:
    """What a layer that was called once was called on; Keras 2 names a nested model's own input `input`."""
    return operation.input if KERAS_3 else operation.get_input_at(0)


def output_of(operation: Any) -> Any:
    """What a layer that was called once gave there; Keras 2 names a nested model's own output `output`."""
    return operation.output if KERAS_3 else operation.get_output_at(0)


def classes_to_name(model: keras.Model) -> dict[str, type] | None:
    """The `custom_objects` that rebuilding a model from its config takes.

    Keras 3 finds classes by their modules. Keras 2 does not find those that some of its own applications
    define, such as ConvNeXt's LayerScale.
    """
    return None if KERAS_3 else {type(layer).__name__: type(layer) for layer in model.layers}


def write_out_silently(archive: keras.export.ExportArchive, folder: Path) -> None:
    """Write an archive without a report on the screen; Keras 2 has no argument for it."""
    if KERAS_3:
        archive.write_out(str(folder), verbose=False)
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            archive.write_out(str(folder))


def _plain_name(variable: Any) -> str:
    return str(variable.name).split(":")[0]
