"""Optimisers of the recipes: Adam and SGD, L2 or decoupled weight decay, averages of the weights."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import keras
import tensorflow as tf

from san_tf.addons import OPTIMIZERS, OWN_OPTIMIZERS, PREFIX, check_choice
from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3
from san_tf.training.schedules import Scaled

# Keras's names of batch-norm gains and shifts, and of biases.
NOT_DECAYED = ("gamma", "beta", "bias")


class AveragesOnRequest:
    """Mixin for a Keras optimiser: `fit` does not replace the weights by their averages.

    Keras puts the averages into the model at the end of every `fit`. A training resumed in the middle of an
    epoch calls `fit` twice. The second call would start from the averages, unlike an uninterrupted training.
    """

    def finalize_variable_values(self, var_list: Any) -> None:
        """Do nothing; see `take_averages`."""


class _L2Penalty:
    """Mixin before a Keras optimiser: adds the gradient of an L2 penalty, l2 w, to each gradient."""

    def __init__(
        self, learning_rate: Any = 1e-3, l2: float = 0.0, skip: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)  # type: ignore[call-arg]
        self.l2 = l2
        self.skip = tuple(skip)

    def update_step(self, gradient: tf.Tensor, variable: Any, *learning_rate: Any) -> None:
        """Do the optimiser's update of one variable, with the gradient of the penalty added.

        Keras 3 passes the learning rate; Keras 2 looks it up.
        """
        if self.l2 and _own_name(variable) not in self.skip:
            value = tf.convert_to_tensor(variable)
            gradient = tf.cast(gradient, value.dtype) + self.l2 * value
        super().update_step(gradient, variable, *learning_rate)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return config | {"l2": self.l2, "skip": list(self.skip)}


class _OwnSteps:
    """Mixin before Keras's Adam: corrects the bias of each variable's moments by its own number of updates.

    Keras corrects by the number of steps of the whole training. A variable that is frozen in the first steps
    has moments of 0 when it begins, and the wrong correction makes its first steps up to 6.5 times too large,
    which destroys pretrained weights. PyTorch counts by variable, as here. The counts are variables of the
    optimiser, so checkpoints contain them.

    Args:
        own_steps: count by variable; False leaves Keras's optimiser as it is.
        kwargs: of the optimiser.
    """

    # The count of the variable that is being updated.
    _done: Any = None

    def __init__(self, *args: Any, own_steps: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own_steps = own_steps
        self._updates: list[Any] = []

    @property
    def iterations(self) -> Any:
        """Number of updates; while a variable is updated, that variable's own."""
        return super().iterations if self._done is None else self._done  # type: ignore[misc]

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        # Keras 2 lets others replace its counter.
        super(_OwnSteps, type(self)).iterations.fset(self, variable)  # type: ignore[misc]

    def build(self, var_list: Any) -> None:
        """Make the slots, and a count for each variable."""
        super().build(var_list)  # type: ignore[misc]
        if self.own_steps and not self._updates:
            self._updates = [_count_beside(self, variable) for variable in var_list]

    def update_step(self, gradient: tf.Tensor, variable: Any, *learning_rate: Any) -> None:
        """Do the optimiser's update of one variable, and count it."""
        if not self.own_steps:
            super().update_step(gradient, variable, *learning_rate)  # type: ignore[misc]
            return
        index: Any = self._get_variable_index if KERAS_3 else lambda v: self._index_dict[self._var_key(v)]  # type: ignore[attr-defined]
        count = self._updates[index(variable)]
        # Past Keras's tracking of attributes: it is a tensor of this step.
        object.__setattr__(self, "_done", tf.convert_to_tensor(count))
        try:
            super().update_step(gradient, variable, *learning_rate)  # type: ignore[misc]
        finally:
            object.__setattr__(self, "_done", None)
        (count.value if KERAS_3 else count).assign_add(1.0)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return config | {"own_steps": self.own_steps}


def _count_beside(optimizer: Any, variable: Any) -> Any:
    """A count of updates on the devices of a variable, float32: exact up to 16.7 million."""
    if not KERAS_3:
        return optimizer.add_variable_from_reference(variable, "updates", shape=())
    name = f"{variable.path.replace('/', '_')}_updates"
    with tf.distribute.get_strategy().extended.colocate_vars_with(variable.value):
        return optimizer.add_variable((), dtype="float32", name=name)


@keras.saving.register_keras_serializable("san_tf")
class AdamL2(_L2Penalty, _OwnSteps, AveragesOnRequest, keras.optimizers.Adam):
    """Adam with an L2 penalty in the gradient: g + l2 w, like `weight_decay` of PyTorch's Adam.

    Keras's own `weight_decay` is the decoupled one of AdamW; with Adam's normalisation the two differ.
    Gradients are clipped before the penalty is added, as in PyTorch.

    Args:
        learning_rate: number or schedule.
        l2: factor of the weights in the gradient.
        skip: names of variables without penalty, e.g. ("gamma", "beta", "bias").
        kwargs: other arguments of `keras.optimizers.Adam`.

    Source: Kingma and Ba 2015; AMSGrad by Reddi et al. 2018.
    """


@keras.saving.register_keras_serializable("san_tf")
class SGDL2(_L2Penalty, AveragesOnRequest, keras.optimizers.SGD):
    """SGD with an L2 penalty in the gradient before the momentum: g + l2 w, like PyTorch's SGD.

    The velocity is Keras's, v = momentum v - rate g, so it contains the rates of earlier steps. PyTorch's
    velocity contains gradients only, and is multiplied by the current rate. Both are equal while the rate is
    constant.

    Args:
        learning_rate: number or schedule.
        l2: factor of the weights in the gradient.
        skip: names of variables without penalty, e.g. ("gamma", "beta", "bias").
        kwargs: other arguments of `keras.optimizers.SGD`.
    """


@keras.saving.register_keras_serializable("san_tf")
class SGDW(AveragesOnRequest, keras.optimizers.SGD):
    """Keras's SGD with decoupled `weight_decay`, and weight averages only on request like `AdamW`."""


@keras.saving.register_keras_serializable("san_tf")
class AdamW(_OwnSteps, AveragesOnRequest, keras.optimizers.AdamW):
    """Keras's AdamW, with weight averages taken only on request; see `san_tf.training.optimizers`."""


def _own_name(variable: Any) -> str:
    """The part after the last slash: `gamma` of `encoder/conv1_bn/gamma:0`."""
    return variable.name.split("/")[-1].split(":")[0]


def build_optimizer(
    name: str = "adam",
    amsgrad: bool = True,
    weight_decay: float = 5e-4,
    decay: Literal["l2", "decoupled"] = "l2",
    schedule: float | keras.optimizers.schedules.LearningRateSchedule = 8e-4,
    clipnorm: float | None = None,
    decay_norm_and_bias: bool = True,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    accumulation: int = 1,
    ema: float = 0.0,
    momentum: float = 0.9,
    own_steps: bool = False,
) -> keras.optimizers.Optimizer:
    """Build the optimiser of a recipe.

    Args:
        name: "adam" or "sgd".
        amsgrad: Adam: divide by the largest second moment so far, not the current one.
        weight_decay: 5e-4 in the paper. With decay "decoupled" it is multiplied by the learning rate, as in
            AdamW, so useful values are larger there (1e-2 to 5e-2).
        decay: "l2" adds weight_decay * w to the gradient (as PyTorch, the public code); "decoupled"
            subtracts learning_rate * weight_decay * w from the weight (AdamW).
        schedule: learning rate, a number or a schedule over steps.
        clipnorm: largest norm of all gradients together, or None: larger gradients g are scaled to
            g clipnorm / |g| (Pascanu et al., "On the difficulty of training recurrent neural networks", ICML
            2013, algorithm 1). With `accumulation` it is the norm of their mean.
        decay_norm_and_bias: False spares batch norms and biases; the public code decays everything.
        beta_1: Adam: decay of the first moment.
        beta_2: Adam: decay of the second moment.
        epsilon: Adam: added to the square root of the second moment.
        accumulation: number of training steps whose gradients are averaged for one update of the weights. It
            needs less memory than a large batch, but is not equivalent: batch norms and the triplet loss
            still see small batches. Schedules still count training steps. Needs Keras 3.
        ema: decay of an exponential moving average of the weights, such as 0.999; 0 for none.
            `averages.take_averages` puts the average into the model.
        momentum: SGD: share of the velocity kept each step, without Nesterov's look-ahead.
        own_steps: Adam: correct the moments' bias by each variable's own number of updates, for trainings
            whose first steps freeze some variables; see `SAN.freeze_backbone`.

    Raises:
        UserError: the name is unknown, a value is out of range, or `accumulation` is used with Keras 2.

    Example:
        >>> build_optimizer(schedule=WarmupCosine(1e-3, steps=1000, warmup_steps=50))
    """
    if name not in OWN_OPTIMIZERS:
        raise UserError(f"Unknown optimizer {name!r}; choose {' or '.join(OWN_OPTIMIZERS)}.")
    if decay not in ("l2", "decoupled"):
        raise UserError(f"Unknown kind of weight decay {decay!r}; choose l2 or decoupled.")
    if weight_decay < 0:
        raise UserError(f"weight_decay must not be negative, but is {weight_decay!r}.")
    if clipnorm is not None and clipnorm <= 0:
        raise UserError(f"clipnorm must be positive or None, but is {clipnorm!r}.")
    if accumulation < 1 or not 0.0 <= ema < 1.0:
        raise UserError(
            f"accumulation is at least 1 and ema in [0, 1); received {accumulation!r} and {ema!r}."
        )
    if accumulation > 1 and not KERAS_3:
        raise UserError(
            "The optimizers of Keras 2 cannot accumulate gradients; leave accumulation at 1, or install the "
            "package without [addons]."
        )
    skip = () if decay_norm_and_bias else NOT_DECAYED
    shared: dict[str, Any] = {"global_clipnorm": clipnorm}
    if name == "adam":
        shared |= {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "amsgrad": amsgrad}
        if own_steps:
            shared["own_steps"] = True
    else:
        if not 0.0 <= momentum < 1.0:
            raise UserError(f"momentum must be in [0, 1), but is {momentum!r}.")
        shared |= {"momentum": momentum, "nesterov": False}
    if accumulation > 1:
        shared["gradient_accumulation_steps"] = accumulation
    if ema:
        shared |= {"use_ema": True, "ema_momentum": ema}
    if decay == "l2":
        penalised = AdamL2 if name == "adam" else SGDL2
        return penalised(schedule, l2=weight_decay, skip=skip, **shared)
    optimizer = (AdamW if name == "adam" else SGDW)(schedule, weight_decay=weight_decay, **shared)
    if skip:
        optimizer.exclude_from_weight_decay(var_names=list(skip))
    return optimizer


# Their decay is not multiplied by the learning rate, unlike that of the others.
_DECAY_APART = ("AdamW", "SGDW")


def build_addons_optimizer(
    name: str, schedule: Any, weight_decay: float = 0.0, clipnorm: float | None = None
) -> Any:
    """Build an optimiser of TensorFlow Addons with its own defaults.

    Args:
        name: `tfa.` and one of `OPTIMIZERS`.
        schedule: learning rate, a number or a schedule over steps.
        weight_decay: decoupled weight decay, multiplied by the learning rate and applied before other parts
            of the step (LAMB's ratio, NovoGrad's momentum). `AdamW` and `SGDW` of TensorFlow Addons do not
            multiply by the rate; here they do, so that `tfa.AdamW` decays like Keras's AdamW.
        clipnorm: largest norm of all gradients together, or None.

    Raises:
        UserError: the name is unknown, TensorFlow Addons is not installed, or the optimiser has no weight
            decay.

    Example:
        >>> build_addons_optimizer("tfa.LAMB", 1e-3, weight_decay=0.01)
    """
    check_choice("optimizer", name, OWN_OPTIMIZERS, OPTIMIZERS)
    import tensorflow_addons as tfa

    kind = name.removeprefix(PREFIX)
    build = getattr(tfa.optimizers, kind)
    clip = {} if clipnorm is None else {"global_clipnorm": clipnorm}
    if kind in _DECAY_APART:
        decay = Scaled(schedule, weight_decay) if callable(schedule) else schedule * weight_decay
        return build(weight_decay=decay, learning_rate=schedule, **clip)
    if "weight_decay" in inspect.signature(build).parameters:
        return build(learning_rate=schedule, weight_decay=weight_decay, **clip)
    if weight_decay:
        raise UserError(f"{name} has no weight decay; set weight_decay to 0, or choose another optimizer.")
    return build(learning_rate=schedule, **clip)


def take_averages(model: keras.Model) -> bool:
    """Put the averages of the trainable weights into a compiled model, if its optimiser keeps any.

    Moving statistics of batch norms are averages already and stay unchanged. The averages are variables of
    the optimiser. So checkpoints contain them, and a resumed training has the same averages as an
    uninterrupted one.

    Returns:
        Whether the optimiser keeps averages.

    Example:
        >>> model.compile(optimizer=build_optimizer(ema=0.999))
        >>> model.fit(dataset)
        >>> take_averages(model)
        True
    """
    # A model copied from a distributed training was never compiled and has no optimiser.
    optimizer: Any = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "use_ema", False):
        return False
    # The method that Keras calls after `fit` uses this one; Keras 2 and 3 both have it.
    optimizer._overwrite_model_variables_with_average_value(model.trainable_variables)
    return True
