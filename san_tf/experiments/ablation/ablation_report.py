"""Reports the ablation: its table, also as Markdown for a README, and figures of all finished runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from san_tf.atomic import atomic_file
from san_tf.data.pipeline import inference_dataset
from san_tf.errors import UserError
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.significance import Difference, compare
from san_tf.experiments.ablation.figures import Bar, cell_label_pictures, difference_chart, runs_chart
from san_tf.experiments.ablation.probe import predictions_path
from san_tf.experiments.ablation.row_runs import RunResult, run_path
from san_tf.experiments.ablation.rows import BASELINE, HISTOGRAM, Row, differing_values, is_rendered
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.stages.surface_labels import labels_path, load_labels
from san_tf.synthesis.cell_labels import LABELS
from san_tf.visualization.style import save_figure

_LEVEL = 0.95
_RESAMPLES = 10_000
_PLAIN = ("rank1", "mAP", "mINP")


@dataclass(frozen=True)
class Measure:
    """One measure of a row over its seeds, and its difference to the baseline.

    Scores are shares, 0 to 1.

    Attributes:
        row: name of the row.
        measure: `rank1`, `mAP`, `mINP`, `mAP <condition>`, or a score of a probe.
        seeds: number of runs.
        mean: mean over the runs.
        std: standard deviation over the runs (n - 1), NaN for a single run.
        difference: difference to the baseline over the common seeds; NaN without a baseline.
        people_low: lower end of the interval over other people; NaN for a probe.
        people_high: upper end of the same interval.
        p_value: p-value of the permutation test over people; NaN for a probe.
        seeds_low: lower end of the interval over other seeds; NaN with fewer than two seeds.
        seeds_high: upper end of the same interval.
    """

    row: str
    measure: str
    seeds: int
    mean: float
    std: float
    difference: float = np.nan
    people_low: float = np.nan
    people_high: float = np.nan
    p_value: float = np.nan
    seeds_low: float = np.nan
    seeds_high: float = np.nan


def gather(workdir: Path, rows: Sequence[Row]) -> dict[str, dict[int, RunResult]]:
    """Read the results of all finished runs by row and seed.

    Raises:
        UserError: runs were measured on different queries.
    """
    found: dict[str, dict[int, RunResult]] = {}
    for row in rows:
        for folder in sorted((workdir / row.name).glob("seed_*")):
            number = folder.name.removeprefix("seed_")
            result = RunResult.load(workdir, row, int(number)) if number.isdecimal() else None
            if result is not None:
                found.setdefault(row.name, {})[int(number)] = result
    runs = [result for seeds in found.values() for result in seeds.values()]
    for result in runs[1:]:
        if not np.array_equal(result.pids, runs[0].pids):
            raise UserError(
                f"Run {result.row}, seed {result.seed} was measured on other queries than {runs[0].row}, seed"
                f" {runs[0].seed}; use a separate --workdir for each data set."
            )
    return {row: dict(sorted(seeds.items())) for row, seeds in found.items()}


def summarize(found: Mapping[str, Mapping[int, RunResult]]) -> list[Measure]:
    """Compute all measures of all rows, in the order of the rows."""
    return [
        measure
        for row, runs in found.items()
        for measure in (*_ranking_measures(row, runs, found), *_probe_measures(row, runs, found))
    ]


def _ranking_measures(
    row: str, runs: Mapping[int, RunResult], found: Mapping[str, Mapping[int, RunResult]]
) -> list[Measure]:
    first = next(iter(runs.values()))
    measures = []
    for condition in first.scores:
        names = _PLAIN if not condition else ("mAP",)
        values = {name: {seed: _mean(run, condition, name) for seed, run in runs.items()} for name in names}
        against = None
        if row != BASELINE and BASELINE in found:
            against = _over_people(runs, found[BASELINE], condition)
        for name in names:
            title = f"{name} {condition}".strip()
            base = {seed: _mean(run, condition, name) for seed, run in found.get(BASELINE, {}).items()}
            measures.append(
                _measure(row, title, values[name], base, against[name] if against is not None else None)
            )
    return measures


def _mean(run: RunResult, condition: str, name: str) -> float:
    return float(np.nanmean(getattr(run.scores[condition], name)))


def _probe_measures(
    row: str, runs: Mapping[int, RunResult], found: Mapping[str, Mapping[int, RunResult]]
) -> list[Measure]:
    measures = []
    for name in probe_columns(next(iter(runs.values()))):
        values = {seed: probe_columns(run)[name] for seed, run in runs.items()}
        base = {seed: probe_columns(run)[name] for seed, run in found.get(BASELINE, {}).items()}
        measures.append(_measure(row, name, values, base, None))
    return measures


def _measure(
    row: str, name: str, values: Mapping[int, float], base: Mapping[int, float], people: Difference | None
) -> Measure:
    numbers = np.array(list(values.values()))
    std = float(numbers.std(ddof=1)) if len(numbers) > 1 else np.nan
    plain = Measure(row, name, len(numbers), float(numbers.mean()), std)
    if row == BASELINE or not base:
        return plain
    low, high = np.nan, np.nan
    shared = [seed for seed in values if seed in base]
    differences = np.array([values[seed] - base[seed] for seed in shared])
    # A row without training, or without a common seed, is compared with the baseline's mean.
    paired = row != HISTOGRAM and len(shared) > 0
    mean = float(differences.mean() if paired else numbers.mean() - np.mean(list(base.values())))
    if len(shared) > 1:
        reach = stats.t.ppf((1 + _LEVEL) / 2, len(shared) - 1) * differences.std(ddof=1) / len(shared) ** 0.5
        low, high = mean - float(reach), mean + float(reach)
    return Measure(
        row, name, plain.seeds, plain.mean, std, mean,
        *((people.low, people.high, people.p_value) if people else (np.nan,) * 3), low, high,
    )  # fmt: skip


def _over_people(
    runs: Mapping[int, RunResult], baseline: Mapping[int, RunResult], condition: str
) -> dict[str, Difference]:
    """Compare the scores of each query, averaged over the common seeds."""
    shared = [seed for seed in runs if seed in baseline]
    trained = next(iter(runs.values())).trained
    pair = []
    for side in (runs, baseline):
        seeds = shared if shared and trained else list(side)
        scores = [side[seed].scores[condition] for seed in seeds]
        columns = (np.mean([getattr(one, item.name) for one in scores], 0) for item in fields(QueryScores))
        pair.append(QueryScores(*columns))
    pids = next(iter(runs.values())).pids
    return compare(pair[0], pair[1], pids, resamples=_RESAMPLES, level=_LEVEL, unit="identity")


def probe_columns(run: RunResult) -> dict[str, float]:
    """Scores of a run's probes by column name; empty for a row without network."""
    if not run.probe:
        return {}
    cells = {f"probe {name}": value for name, value in run.probe["cells"].items()}
    alone = {f"probe alone {name}": value for name, value in run.probe.get("features_alone", {}).items()}
    # `copied_r2`, the similarity of the two sides of clothes, depends on the data, not on the run.
    sides = {name: value for name, value in run.probe["sides"].items() if name != "copied_r2"}
    return cells | alone | {f"probe {name}": value for name, value in sides.items()}


def write_results(found: Mapping[str, Mapping[int, RunResult]], path: Path) -> None:
    """Write one line per run: scores, conditions, probes, seconds, and the recipe values that differ."""
    runs = [run for seeds in found.values() for run in seeds.values()]
    trained = [run for run in runs if run.trained]
    different = differing_values([run.results["recipe"] for run in trained])
    lines = []
    for run in runs:
        row = run.results["rows"][0]
        line: dict[str, Any] = {"row": run.row, "seed": run.seed if run.trained else ""}
        line |= {name: f"{row[name]:.6f}" for name in ("rank1", "rank5", "mAP", "mINP")}
        for name, result in run.results["conditions"].items():
            line[f"mAP {name}"] = f"{result['mAP']:.6f}" if result else ""
        line |= {name: f"{value:.6f}" for name, value in probe_columns(run).items()}
        line["seconds"] = f"{sum(run.results['seconds'].values()):.0f}"
        line["textures"] = run.results["textures"]
        for name in different:
            part, value = name.split(".")
            line[value] = run.results["recipe"][part][value] if run.trained else ""
        lines.append(line)
    _write_csv(lines, path)


def write_summary(measures: Sequence[Measure], path: Path) -> None:
    """Write one line per row and measure."""
    _write_csv(
        [
            {
                name: "" if isinstance(value, float) and np.isnan(value) else
                f"{value:.6f}" if isinstance(value, float) else value
                for name, value in vars(measure).items()
            }
            for measure in measures
        ],
        path,
    )  # fmt: skip


def _write_csv(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(name for line in lines for name in line))
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


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
    compared = [row for row, runs in found.items() if row != BASELINE and next(iter(runs.values())).trained]
    if BASELINE in found and compared:
        by = "what query and match show" if is_rendered(experiment.recipe.data.dataset) else "camera"
        yield "conditions", _conditions(found, measures, titles, compared, by)
    probed = [row for row in _PROBED if row in found]
    if probed and labels_path(experiment).is_file():
        yield "body_parts", _body_parts(experiment, found, titles, probed)


def _conditions(
    found: Found, measures: Sequence[Measure], titles: Mapping[str, str], rows: Sequence[str], by: str
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
    title = f"Gain over the baseline by {by} (lines: 95 %, other people)"
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
        measures: measures from `san_tf.experiments.ablation.ablation_report.summarize`.
        titles: titles of the rows by name.
        queries: number of queries by condition; "" is all queries.
        references: reference scores of the probes: of a probe with only a cell's place in the image, and of
            one that predicts the unseen side's colours from the true colours of the seen side.
        textures: scores by painter, view and name of the score; empty leaves the table out.
    """
    by_name = {(measure.row, measure.measure): measure for measure in measures}
    rows = list(dict.fromkeys(measure.row for measure in measures))
    parts = [_ranking(rows, by_name, titles)]
    if len(queries) > 1:
        parts.append(_condition_table(rows, by_name, titles, queries))
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
