"""Table of the ablation: reads the runs and computes means, spreads and confidence intervals.

The difference between a row and the baseline has two 95 percent intervals:

- *Other people.* Each query's score is first averaged over the seeds. Then whole identities are drawn with
  replacement, with all their queries, and row and baseline are compared on the same draw (paired percentile
  bootstrap; `significance.compare` with `unit="identity"`). The interval covers the effect of other test
  people, seen by the same cameras, for the given trained networks. Its p-value is that of the permutation
  test that swaps row and baseline identity by identity. Both ignore that another seed gives another network.
- *Other seeds.* A seed gives row and baseline the same initial weights of the encoder, the same batches and
  the same augmentation, so their scores are subtracted seed by seed. Student's t of these differences, with
  n - 1 degrees of freedom, covers the effect of other seeds for the given test people. It assumes normally
  distributed differences. With three seeds it is wide: 2.5 standard deviations of the differences each way.

Neither covers another data set, another texture generator (all runs share one), or settings that favour a
row. Neither is corrected for the number of rows compared.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.significance import Difference, compare
from san_tf.experiments.ablation.row_runs import RunResult
from san_tf.experiments.ablation.rows import BASELINE, Row, differing_values

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
    # A row without training has one run, which is compared with the baseline's mean.
    mean = float(numbers.mean() - np.mean(list(base.values())))
    if len(shared) > 1:
        mean = float(differences.mean())
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
    pair = []
    for side in (runs, baseline):
        seeds = shared if len(shared) > 1 else list(side)
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
    trained = [run for run in runs if run.probe]
    different = differing_values([run.results["recipe"] for run in trained])
    lines = []
    for run in runs:
        row = run.results["rows"][0]
        line: dict[str, Any] = {"row": run.row, "seed": run.seed if run.probe else ""}
        line |= {name: f"{row[name]:.6f}" for name in ("rank1", "rank5", "mAP", "mINP")}
        for name, result in run.results["conditions"].items():
            line[f"mAP {name}"] = f"{result['mAP']:.6f}" if result else ""
        line |= {name: f"{value:.6f}" for name, value in probe_columns(run).items()}
        line["seconds"] = f"{sum(run.results['seconds'].values()):.0f}"
        line["textures"] = run.results["textures"]
        for name in different:
            part, value = name.split(".")
            line[value] = run.results["recipe"][part][value] if run.probe else ""
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
