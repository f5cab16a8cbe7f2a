"""Differences between Keras 3 and Keras 2.15 in one place; all other code runs on both.

This package is made for Keras 3. Keras 2.15 is the last version that works with TensorFlow Addons, and
`pip install ".[addons]"` installs it. It is no longer developed, so its private names used here will not
change.
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
    # Random layers, such as Dropout, then keep their state in a variable, as in Keras 3, so that checkpoints
    # contain it.
    keras.backend.experimental.enable_tf_random_generator()

NamedVariables = list[tuple[str, "keras.Variable"]]


def set_dtype_policy(name: str) -> None:
    """Set the dtype policy of the layers built from now on; Keras 3 moved and renamed it."""
    if KERAS_3:
        keras.config.set_dtype_policy(name)
    else:
        keras.mixed_precision.set_global_policy(name)


def dtype_policy() -> str:
    """Return the name of the current dtype policy."""
    policy = keras.config.dtype_policy() if KERAS_3 else keras.mixed_precision.global_policy()
    return str(policy.name)


def scale_loss(optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    """Return the loss, scaled if the optimizer scales losses; its gradients go to `apply_gradients`.

    In Keras 3 every optimizer has the method; in Keras 2 only `LossScaleOptimizer`, under another name.
    """
    if KERAS_3:
        return optimizer.scale_loss(loss)
    return optimizer.get_scaled_loss(loss) if hasattr(optimizer, "get_scaled_loss") else loss


def apply_gradients(optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]) -> None:
    """Do one optimizer step with the gradients of a loss from `scale_loss`.

    A Keras 3 optimizer divides gradients by the scale itself, and does not count a step skipped after an
    overflow. Keras 2 leaves the division to the training step, and counts skipped steps. Gradients of several
    replicas must already be summed, see `san_tf.models.replicas.summed`.

    Args:
        optimizer: optimizer of the model.
        gradients: gradients of the scaled loss.
        variables: variables to update, in the same order.
    """
    replica = tf.distribute.get_replica_context()
    together = replica is not None and replica.num_replicas_in_sync > 1
    options = without_summation(optimizer) if together else {}
    if not KERAS_3 and hasattr(optimizer, "get_unscaled_gradients"):
        gradients = optimizer.get_unscaled_gradients(gradients)
    optimizer.apply_gradients(zip(gradients, variables, strict=True), **options)


def without_summation(optimizer: Any) -> dict[str, bool]:
    """Make an optimizer accept gradients that are already summed over the replicas.

    Keras 3 sums gradients after clipping, which then sees only part of the batch. It also sums after the
    check for overflow, so one replica may skip the step while the others wait for it. It has no option to
    turn this off, so its private method is replaced by one that does nothing.

    Returns:
        Arguments for `apply_gradients`, if it has an option for this.
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
    """Return the learning rate of the next step.

    In Keras 2, `learning_rate` is that of the last step; in legacy optimizers, such as those of TensorFlow
    Addons, it is the schedule itself.
    """
    rate = optimizer.learning_rate
    if not KERAS_3:
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        rate = getattr(optimizer, "_learning_rate", rate)
        rate = rate(optimizer.iterations) if callable(rate) else rate
    return float(tf.convert_to_tensor(rate))


def model_variables(model: keras.Model) -> NamedVariables:
    """Return a model's variables by name: weights, moving statistics, random states; no metrics.

    Keras 2 includes metrics in a model's variables, omits random states, and appends `:0` to names.
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
    """Return an optimizer's variables by name, including the loss scale; creates missing slots.

    Only the end of Keras's names is used: the beginning depends on where the slots were created.
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
    if inner is not optimizer:  # in Keras 2, `variables` does not include the loss scale
        scale = optimizer._loss_scale
        named += [("dynamic_scale", scale.current_loss_scale), ("step_counter", scale.counter)]
    return named


def input_of(operation: Any) -> Any:
    """Return the input of a layer's only call; in Keras 2, a nested model's `input` is its own input."""
    return operation.input if KERAS_3 else operation.get_input_at(0)


def output_of(operation: Any) -> Any:
    """Return the output of a layer's only call; in Keras 2, a nested model's `output` is its own output."""
    return operation.output if KERAS_3 else operation.get_output_at(0)


def classes_to_name(model: keras.Model) -> dict[str, type] | None:
    """Return the `custom_objects` for rebuilding a model from its config.

    Keras 3 finds classes by their modules. Keras 2 does not find classes of some of its own applications,
    such as ConvNeXt's LayerScale.
    """
    return None if KERAS_3 else {type(layer).__name__: type(layer) for layer in model.layers}


def write_out_silently(archive: keras.export.ExportArchive, folder: Path) -> None:
    """Write an export archive without a report on the screen; Keras 2 has no option for it."""
    if KERAS_3:
        archive.write_out(str(folder), verbose=False)
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            archive.write_out(str(folder))


def _plain_name(variable: Any) -> str:
    return str(variable.name).split(":")[0]
