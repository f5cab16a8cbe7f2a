"""Writes the ablation's tables as Markdown, for a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from san_tf.experiments.ablation.table import Measure

_CELLS = {
    "probe accuracy": ("label, all cells", 100, "%"),
    "probe body_accuracy": ("part, body cells", 100, "%"),
    "probe body_recall": ("mean over parts", 100, "%"),
    "probe point_error": ("point, cm off", 100, ""),
    "probe side_r2": ("R2 left-right", 1, ""),
    "probe height_r2": ("R2 height", 1, ""),
    "probe depth_r2": ("R2 front-back", 1, ""),
    "probe seen_r2": ("R2 seen colours", 1, ""),
    "probe unseen_r2": ("R2 unseen colours", 1, ""),
}
_TEXTURES = ("pairs", "l1", "l1_seen", "l1_hidden", "ssim", "gmsd", "detail")


def markdown(
    measures: Sequence[Measure],
    titles: Mapping[str, str],
    queries: Mapping[str, int],
    references: Mapping[str, float],
    textures: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> str:
    """Return all tables: ranking, conditions, probes, and scores of the textures by view.

    Args:
        measures: measures from `san_tf.experiments.ablation.table.summarize`.
        titles: titles of the rows by name.
        queries: number of queries by condition; "" is all queries.
        references: reference scores of the probes: of a probe with only a cell's place in the image, and of
            one that predicts the unseen side's colours from the true colours of the seen side.
        textures: scores by painter, view and name of the score; empty leaves the table out.
    """
    by_name = {(measure.row, measure.measure): measure for measure in measures}
    rows = list(dict.fromkeys(measure.row for measure in measures))
    parts = [_ranking(rows, by_name, titles), _conditions(rows, by_name, titles, queries)]
    probed = [row for row in rows if (row, "probe accuracy") in by_name]
    if probed:
        parts.append(_probes(probed, by_name, titles, references))
    if textures:
        parts.append(_textures(textures))
    return "\n\n".join(parts) + "\n"


def _ranking(
    rows: Sequence[str], by_name: Mapping[tuple[str, str], Measure], titles: Mapping[str, str]
) -> str:
    head = ["row", "seeds", "rank-1", "mAP", "mINP", "mAP minus baseline"]
    head += ["95 %, other people", "p", "95 %, other seeds"]
    lines = []
    for row in rows:
        precision = by_name[row, "mAP"]
        lines.append(
            [
                titles[row],
                str(precision.seeds),
                *(_percent(by_name[row, name]) for name in ("rank1", "mAP", "mINP")),
                _signed(precision.difference),
                _interval(precision.people_low, precision.people_high),
                "" if np.isnan(precision.p_value) else f"{precision.p_value:.4f}",
                _interval(precision.seeds_low, precision.seeds_high),
            ]
        )
    return _table(head, lines)


def _conditions(
    rows: Sequence[str],
    by_name: Mapping[tuple[str, str], Measure],
    titles: Mapping[str, str],
    queries: Mapping[str, int],
) -> str:
    names = [name for name in queries if name]
    lines = [["queries", *(str(queries[name]) for name in names)]]
    for row in rows:
        chosen = [by_name.get((row, f"mAP {name}")) for name in names]
        lines.append([titles[row], *("" if one is None else _with_gain(one) for one in chosen)])
    return "mAP by condition of query and match (in brackets the difference to the baseline):\n\n" + _table(
        ["row", *names], lines
    )


def _probes(
    rows: Sequence[str],
    by_name: Mapping[tuple[str, str], Measure],
    titles: Mapping[str, str],
    references: Mapping[str, float],
) -> str:
    known = [
        f"{factor * references[name]:.{1 if factor == 100 else 3}f}" if name in references else ""
        for name, (_, factor, _) in _CELLS.items()
    ]
    lines = [["place in the image only; true colours of the seen side", *known]]
    for row in rows:
        cells = []
        for name, (_, factor, unit) in _CELLS.items():
            measure = by_name[row, name]
            digits = 1 if factor == 100 else 3
            spread = "" if np.isnan(measure.std) else f" ± {factor * measure.std:.{digits}f}"
            cells.append(f"{factor * measure.mean:.{digits}f}{spread}{' ' * bool(unit)}{unit}")
        lines.append([titles[row], *cells])
    return _table(["linear probe", *(title for title, _, _ in _CELLS.values())], lines)


def _textures(textures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    lines = []
    for painter, views in textures.items():
        for view, scores in views.items():
            values = [f"{scores['pairs']:.0f}", *(f"{scores[name]:.3f}" for name in _TEXTURES[1:])]
            lines.append([painter.replace("_", " "), view, *values])
    return _table(["texture", "view", *(name.replace("_", ", ") for name in _TEXTURES)], lines)


def _percent(measure: Measure) -> str:
    spread = "" if np.isnan(measure.std) else f" ± {100 * measure.std:.1f}"
    return f"{100 * measure.mean:.1f}{spread}"


def _with_gain(measure: Measure) -> str:
    gain = "" if np.isnan(measure.difference) else f" ({_signed(measure.difference)})"
    return f"{100 * measure.mean:.1f}{gain}"


def _signed(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:+.1f}"


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) or np.isnan(high) else f"{_signed(low)} to {_signed(high)}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
