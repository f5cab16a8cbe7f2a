"""Training: optimisers, schedules, precision, the fit loop, checkpoints and the run directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.training.callbacks.guards import CollapseWatch
    from san_tf.training.fitting import train
    from san_tf.training.optimizers import build_optimizer
    from san_tf.training.precision import set_precision
    from san_tf.training.schedules import WarmupCosine

__all__ = [
    "CollapseWatch",
    "WarmupCosine",
    "build_optimizer",
    "set_precision",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CollapseWatch": "callbacks.guards",
        "WarmupCosine": "schedules",
        "build_optimizer": "optimizers",
        "set_precision": "precision",
        "train": "fitting",
    },
)
