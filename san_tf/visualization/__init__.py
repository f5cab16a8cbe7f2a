"""Figures from arrays, as matplotlib `Figure`s without pyplot's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.visualization.curves import cmc_curves, loss_curves
    from san_tf.visualization.ranked_list_sheet import ranked_lists
    from san_tf.visualization.reposed import render_texture
    from san_tf.visualization.style import save_figure
    from san_tf.visualization.verification_curves import reliability_diagram, roc_curves

__all__ = [
    "cmc_curves",
    "loss_curves",
    "ranked_lists",
    "reliability_diagram",
    "render_texture",
    "roc_curves",
    "save_figure",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "cmc_curves": "curves",
        "loss_curves": "curves",
        "ranked_lists": "ranked_list_sheet",
        "reliability_diagram": "verification_curves",
        "render_texture": "reposed",
        "roc_curves": "verification_curves",
        "save_figure": "style",
    },
)
