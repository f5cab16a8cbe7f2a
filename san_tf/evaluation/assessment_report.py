"""Tables of an evaluation for the terminal, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from san_tf.evaluation.assessment import Assessment, CameraPairs
from san_tf.evaluation.options import Measures
from san_tf.evaluation.protocols import ProtocolResult
from san_tf.evaluation.roc import RocCurve
from san_tf.evaluation.significance import Difference, Interval

RANKS = (1, 5, 10, 20)
# Larger tables of cameras do not fit a terminal; the worst pairs are listed instead.
_MOST_CAMERAS = 12


def show(runs: dict[str, Assessment], report: dict[str, Any], measures: Measures, console: Console) -> None:
    """Print the results of an evaluation.

    Args:
        runs: results by name.
        report: what `--json` prints.
        measures: what was measured.
        console: where to print.
    """
    images = report["images"]
    compared = f"{images['query']:,} queries, {images['gallery']:,} gallery images"
    if measures.protocol == "vehicleid":
        compared = f"{images['query'] + images['gallery']:,} images"
    console.print(
        f"{compared}, {report['dimensions']:,} dimensions; protocol {measures.protocol}, {measures.metric}\n"
    )
    console.print(score_table(runs, measures.level))
    console.print(
        f"\n[dim]percent; means over the {report['queries_with_a_match']:,} queries (of "
        f"{report['queries']:,}) that have a true match[/dim]"
    )
    for note in report.get("notes", ()):
        console.print(note, style="yellow", markup=False)
    if "difference" in report:
        console.print()
        values = {name: Difference(**value) for name, value in report["difference"].items()}
        console.print(difference_table(values, measures.level))
    for name, run in runs.items():
        lead = f"\n[bold]{name}[/bold]" if len(runs) > 1 else ""
        if run.roc:
            console.print(lead)
            console.print(roc_table(run.roc, measures.far))
        if run.cameras:
            console.print(lead)
            console.print(camera_table(run.cameras))
    kept = report.get("calibration", {})
    if "ece" in kept:
        console.print(
            f"\n{kept['file']}: expected calibration error {100 * kept['ece']:.2f} %",
            markup=False,
            soft_wrap=True,
        )
    elif kept:
        console.print(f"\n{kept['file']} written; its thresholds:", markup=False, soft_wrap=True)
        for point in kept["operating_points"]:
            console.print(f"  {point['note']}")
    for path in report.get("figures", ()):
        console.print(str(path), style="dim", markup=False, soft_wrap=True)


def score_table(runs: dict[str, Assessment], level: float) -> Table:
    """CMC, mAP and mINP in percent, one row per run, with spread and interval below where known."""
    table = _table("")
    for title in (*(f"rank-{rank}" for rank in RANKS), "mAP", "mINP"):
        table.add_column(title, justify="right")
    for name, run in runs.items():
        _add_scores(table, name, run.result, run.intervals, level)
        if run.reranked:
            _add_scores(table, f"{name}, re-ranked", run.reranked, run.reranked_intervals, level)
    return table


def _add_scores(
    table: Table, name: str, result: ProtocolResult, intervals: dict[str, Interval] | None, level: float
) -> None:
    scores = [*(result.cmc[rank - 1] for rank in RANKS), result.mAP, result.mINP]
    table.add_row(Text(name, "bold"), *(f"[bold]{100 * score:.1f}[/bold]" for score in scores))
    if result.repeats > 1:
        spread = [*(result.cmc_spread[rank - 1] for rank in RANKS), result.mAP_spread, result.mINP_spread]
        table.add_row(f"  ± over {result.repeats} draws", *(f"{100 * value:.1f}" for value in spread))
    if intervals:
        cells = {key: f"{100 * value.low:.1f}-{100 * value.high:.1f}" for key, value in intervals.items()}
        table.add_row(
            f"  {100 * level:g} % interval", cells["rank1"], "", "", "", cells["mAP"], cells["mINP"]
        )


def difference_table(differences: dict[str, Difference], level: float) -> Table:
    """How much the first run is better than the second, in percentage points."""
    table = _table("first minus second")
    for title in ("difference", f"{100 * level:g} % interval", "p"):
        table.add_column(title, justify="right")
    for key, name in (("rank1", "rank-1"), ("mAP", "mAP"), ("mINP", "mINP")):
        value = differences[key]
        table.add_row(
            name,
            f"{100 * value.mean:+.2f}",
            f"{100 * value.low:+.2f} to {100 * value.high:+.2f}",
            f"{value.p_value:.4f}",
        )
    return table


def roc_table(curve: RocCurve, far: list[float]) -> Table:
    """True accept rates at false accept rates, with their distance thresholds."""
    table = _table("all pairs")
    table.add_column("", justify="right")
    table.add_column("up to distance", justify="right")
    for rate in far:
        tar, threshold = curve.tar_at(rate)
        shown = "-" if threshold is None else f"{threshold:.4g}"
        table.add_row(f"true accept rate at false accept rate {100 * rate:g} %", f"{100 * tar:.1f}", shown)
    table.add_row("equal error rate", f"{100 * curve.eer:.2f}", "")
    table.add_row("area under the curve", f"{100 * curve.auc:.2f}", "")
    return table


def camera_table(pairs: CameraPairs) -> Table:
    """The mAP of each pair of cameras in percent; of many cameras, the ten worst pairs."""
    if max(pairs.mAP.shape) > _MOST_CAMERAS:
        table = _table("worst pairs of cameras")
        for title in ("query", "gallery", "rank-1", "mAP", "queries"):
            table.add_column(title, justify="right")
        worst = np.argsort(pairs.mAP, axis=None)[: min(10, np.count_nonzero(pairs.queries))]
        for row, column in zip(*np.unravel_index(worst, pairs.mAP.shape), strict=True):
            table.add_row(
                "",
                str(pairs.query_cameras[row]),
                str(pairs.gallery_cameras[column]),
                f"{100 * pairs.rank1[row, column]:.1f}",
                f"{100 * pairs.mAP[row, column]:.1f}",
                str(pairs.queries[row, column]),
            )
        return table
    table = _table("mAP, query camera \\ gallery camera")
    for camera in pairs.gallery_cameras:
        table.add_column(str(camera), justify="right")
    for camera, scores in zip(pairs.query_cameras, pairs.mAP, strict=True):
        table.add_row(str(camera), *("-" if np.isnan(score) else f"{100 * score:.1f}" for score in scores))
    return table


def _table(first: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    table.add_column(first)
    return table


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
    # Matplotlib takes as long to import as everything else here; tables should not wait for it.
    from san_tf.visualization.camera_matrix import camera_matrix
    from san_tf.visualization.curves import cmc_curves
    from san_tf.visualization.style import save_figure
    from san_tf.visualization.verification_curves import reliability_diagram, roc_curves

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
