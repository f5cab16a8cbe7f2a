"""Exponential moving averages of the weights, kept by the optimiser and taken after training."""

from __future__ import annotations

from typing import Any

import keras


class AveragesOnRequest:
    """Mixin for a Keras optimiser: `fit` does not replace the weights by their averages.

    Keras puts the averages into the model at the end of every `fit`. A training resumed in the middle of an
    epoch calls `fit` twice. The second call would start from the averages, unlike an uninterrupted training.
    """

    def finalize_variable_values(self, var_list: Any) -> None:
        """Do nothing; see `take_averages`."""


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
