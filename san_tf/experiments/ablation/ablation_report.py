"""Reports the ablation: tables, also as Markdown for a README, and figures of all finished runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from san_tf.atomic import atomic_file
from san_tf.data.pipeline import inference_dataset
from san_tf.errors import UserError
from san_tf.experiments.ablation.figures import Bar, cell_label_pictures, difference_chart, runs_chart
from san_tf.experiments.ablation.probe import predictions_path
from san_tf.experiments.ablation.row_runs import RunResult, run_path
from san_tf.experiments.ablation.rows import BASELINE, Row
from san_tf.experiments.ablation.table import Measure, gather, summarize, write_results, write_summary
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.stages.surface_labels import labels_path, load_labels
from san_tf.synthesis.cell_labels import LABELS
from san_tf.visualization.style import save_figure

# Rows whose predicted body parts are shown, if they are finished.
_PROBED = (BASELINE, "san_basic_tr", "san", "oracle", "san_started")
Found = Mapping[str, Mapping[int, RunResult]]
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


def report(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Write `results.csv`, `summary.csv`, `summary.md` and the figures of all rows that have a finished run.

    Raises:
        UserError: no run is finished, or runs have different queries.
    """
    folder = experiment.run.path
    found = gather(folder, rows)
    if not found:
        raise UserError(f"No run in {folder} is finished; run the command without --stage first.")
    titles = {row.name: row.title for row in rows}
    measures = summarize(found)
    write_results(found, folder / "results.csv")
    write_summary(measures, folder / "summary.csv")
    text = markdown(measures, titles, _queries(found), _references(found), _texture_scores(folder))
    with atomic_file(folder / "summary.md") as temporary:
        temporary.write_text(text)
    for name, figure in _figures(experiment, found, measures, titles):
        save_figure(figure, experiment.run.figures / f"{name}.png")
    for row in rows:
        runs = sorted(found.get(row.name, {}))
        experiment.say(
            f"{row.name}: " + (f"seeds {', '.join(map(str, runs))}" if runs else "no finished run")
        )
    experiment.console.print(text, soft_wrap=True, markup=False)
    experiment.say(f"{folder / 'results.csv'}, summary.csv, summary.md, figures/")


def _queries(found: Found) -> dict[str, int]:
    """Number of queries of each condition; the same in every run."""
    first = next(iter(next(iter(found.values())).values()))
    return {name: int(scores.valid().sum()) for name, scores in first.scores.items()}


def _references(found: Found) -> dict[str, float]:
    """Reference scores of the probes by the names of their columns; the same in every run."""
    probes = [run.probe for runs in found.values() for run in runs.values() if run.probe]
    if not probes:
        return {}
    places = {f"probe {name}": value for name, value in probes[0]["place_alone"].items()}
    return places | {"probe unseen_r2": probes[0]["sides"]["copied_r2"]}


def _texture_scores(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    path = folder / "texture_generator.json"
    scores = json.loads(path.read_text()) if path.is_file() else {}
    return {name: scores[name] for name in ("painted", "mean_texture") if name in scores}


def _figures(
    experiment: Experiment, found: Found, measures: Sequence[Measure], titles: Mapping[str, str]
) -> Iterator[tuple[str, Figure]]:
    names = [titles[row] for row in found]
    scores = {
        title: [[run.results["rows"][0][key] for run in runs.values()] for runs in found.values()]
        for title, key in (("rank-1", "rank1"), ("mAP", "mAP"))
    }
    yield "runs", runs_chart(names, scores, titles[BASELINE], "Every run of every row")
    compared = [row for row, runs in found.items() if row != BASELINE and next(iter(runs.values())).probe]
    if BASELINE in found and compared:
        yield "conditions", _conditions(found, measures, titles, compared)
    probed = [row for row in _PROBED if row in found]
    if probed and labels_path(experiment).is_file():
        yield "body_parts", _body_parts(experiment, found, titles, probed)


def _conditions(
    found: Found, measures: Sequence[Measure], titles: Mapping[str, str], rows: Sequence[str]
) -> Figure:
    by_name = {(measure.row, measure.measure): measure for measure in measures}
    queries = _queries(found)
    conditions = {name or "all": f"mAP {name}".strip() for name in queries}
    differences: dict[str, list[Bar | None]] = {}
    for condition, key in conditions.items():
        chosen = [by_name.get((row, key)) for row in rows]
        differences[condition] = [
            None if m is None else Bar(100 * m.difference, 100 * m.people_low, 100 * m.people_high)
            for m in chosen
        ]
    captions = {name or "all": f"{number} queries" for name, number in queries.items()}
    title = "Gain over the baseline by what query and match show (lines: 95 %, other people)"
    return difference_chart([titles[row] for row in rows], differences, captions, titles[BASELINE], title)


def _body_parts(
    experiment: Experiment, found: Found, titles: Mapping[str, str], rows: Sequence[str]
) -> Figure:
    labelled = load_labels(experiment)
    maps: dict[str, Sequence[np.ndarray]] = {}
    for row in rows:
        seed = min(found[row])
        with np.load(predictions_path(run_path(experiment.run.path, row, seed))) as data:
            shown = data["index"]
            maps[titles[row].split(":")[0]] = list(data["predicted"])
    records = labelled.records(reid_records(experiment, "query"), reid_records(experiment, "gallery"))
    images = np.concatenate(
        [
            batch.numpy()
            for part in records
            for batch in inference_dataset(part, experiment.recipe.data.image_size, normalized=False)
        ]
    )
    title = "Body parts that a linear probe reads off the last feature map"
    return cell_label_pictures(
        list(images[shown]), {"truth": list(labelled.labels.part[shown]), **maps}, LABELS, title
    )


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
    parts = [_ranking(rows, by_name, titles), _condition_table(rows, by_name, titles, queries)]
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


def _condition_table(
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
