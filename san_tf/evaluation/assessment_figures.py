"""Draws the figures of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from san_tf.visualization.camera_matrix import camera_matrix
from san_tf.visualization.curves import cmc_curves
from san_tf.visualization.style import save_figure
from san_tf.visualization.verification_curves import reliability_diagram, roc_curves

if TYPE_CHECKING:
    from san_tf.evaluation.assessment import Assessment


def draw(runs: dict[str, Assessment], report: dict[str, Any], folder: str) -> list[str]:
    """Draw `cmc.png`, and `roc`, `cameras` and `reliability` where they were measured.

    Args:
        runs: results by name; each has a line in `cmc` and `roc`, and its own `cameras`.
        report: what `--json` prints; its `calibration` is drawn.
        folder: where the figures are written.

    Returns:
        The paths of the figures.

    Raises:
        UserError: If the folder cannot be written.
    """
    curves = {}
    for name, run in runs.items():
        curves[name] = run.result.cmc
        if run.reranked:
            curves[f"{name}, re-ranked"] = run.reranked.cmc
    figures = {"cmc": cmc_curves(curves, title="CMC")}
    rocs = {name: run.roc for name, run in runs.items() if run.roc}
    if rocs:
        figures["roc"] = roc_curves(
            {name: curve.points() for name, curve in rocs.items()},
            {name: curve.eer for name, curve in rocs.items()},
            title="Same person or not?",
        )
    for name, run in runs.items():
        if run.cameras:
            pairs = run.cameras
            figures["cameras" if len(runs) == 1 else f"cameras_{name}"] = camera_matrix(
                pairs.rank1,
                pairs.mAP,
                pairs.queries,
                pairs.query_cameras,
                pairs.gallery_cameras,
                title="By pair of cameras" if len(runs) == 1 else f"By pair of cameras: {name} run",
            )
    kept = report.get("calibration", {})
    if "ece" in kept:
        predicted, observed, weight = (np.array(kept[key]) for key in ("predicted", "observed", "weight"))
        figures["reliability"] = reliability_diagram(
            predicted, observed, weight, kept["ece"], "Do the probabilities hold?"
        )
    paths = [Path(folder) / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return [str(path) for path in paths]
