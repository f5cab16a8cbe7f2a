"""The exponential moving average of the weights: kept by the optimiser, taken when training is over."""

from __future__ import annotations

from typing import Any

import keras


class AveragesOnRequest:
    """Mixed into an optimiser of Keras: `fit` leaves the model's weights as they are when it ends.

    Keras puts the averages in place at the end of every `fit`. A training that goes on in the middle of an
    epoch is two of them, and would go on from the averages, another training than the one that was
    interrupted.
    """

    def finalize_variable_values(self, var_list: Any) -> None:
        """Nothing; see `take_averages`."""


def take_averages(model: keras.Model) -> bool:
    """Put the averages of the trainable weights into a compiled model, if its optimiser keeps any.

    Batch norms' moving statistics are averages already and stay. The averages are among the optimiser's
    variables: they are in checkpoints, and those of a resumed training are those of an undisturbed one.

    Returns:
        Whether there were any.

    Example:
        >>> model.compile(optimizer=build_optimizer(ema=0.999))
        >>> model.fit(dataset)
        >>> take_averages(model)
        True
    """
    # A model that was copied from a distributed training was never compiled, and has no optimiser.
    optimizer: Any = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "use_ema", False):
        return False
    # The method behind the one that Keras calls after `fit`; both versions have it.
    optimizer._overwrite_model_variables_with_average_value(model.trainable_variables)
    return True
