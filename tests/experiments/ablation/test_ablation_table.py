"""The table's statistics by hand arithmetic, from runs made up; no network is trained."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.significance import compare
from san_tf.experiments.ablation.ablation_report import (
    gather,
    markdown,
    summarize,
    write_results,
    write_summary,
)
from san_tf.experiments.ablation.row_runs import RunResult
from san_tf.experiments.ablation.rows import ROWS, differing_values, rows_named
from san_tf.experiments.recipe import Recipe
from san_tf.training.run_directory import RunDirectory, plain

PIDS = np.array([1, 1, 2, 2, 3, 3, 4, 4])
PROBE = {
    "cells": {"accuracy": 0.5, "body_accuracy": 0.6, "body_recall": 0.3, "point_error": 0.2,
              "point_r2": 0.7, "side_r2": 0.1, "height_r2": 0.9, "depth_r2": 0.2},
    "place_alone": {"accuracy": 0.4, "body_accuracy": 0.5},
    "sides": {"seen_r2": 0.8, "unseen_r2": 0.6, "copied_r2": 0.7},
}  # fmt: skip


def run(row: str, seed: int, precisions, probe: float = 0.5) -> RunResult:
    precisions = np.asarray(precisions, float)
    # Only the first four queries have a match from behind.
    behind = np.where(np.arange(8) < 4, precisions / 2, np.nan)
    scores = {
        "": QueryScores((precisions > 0.5).astype(float), precisions, precisions / 4),
        "opposite sides": QueryScores(behind, behind, behind),
    }
    by_name = {name: float(np.nanmean(one.mAP)) for name, one in scores.items()}
    chosen = next(item for item in ROWS if item.name == row)
    results = {
        "rows": [{"rank1": float(scores[""].rank1.mean()), "rank5": 1.0, "mAP": by_name[""],
                  "mINP": by_name[""] / 4}],
        "conditions": {"opposite sides": {"mAP": by_name["opposite sides"]}, "same pose": None},
        "seconds": {"train": 100.0, "evaluate": 2.4}, "textures": chosen.textures,
        "recipe": plain(chosen.recipe(Recipe(), seed)),
    }  # fmt: skip
    cells = {**PROBE["cells"], "body_accuracy": probe}
    return RunResult(row, seed, results, {**PROBE, "cells": cells} if chosen.trained else {}, PIDS, scores)


@pytest.fixture
def found() -> dict[str, dict[int, RunResult]]:
    base, gain = np.linspace(0.2, 0.9, 8), np.array([0.1, 0.02, 0.03, 0, 0.05, 0.01, -0.02, 0.01])
    return {
        "histogram": {0: run("histogram", 0, base - 0.15)},
        "baseline": {seed: run("baseline", seed, base + 0.01 * seed, 0.5) for seed in (0, 1, 2)},
        # Seeds 1 to 3, the last of which the baseline has not.
        "san": {
            seed: run("san", seed, base + 0.01 * seed + gain * seed, 0.6 + 0.1 * seed) for seed in (1, 2, 3)
        },
    }


def test_means_spread_and_differences_by_hand(found):
    table = {(m.row, m.measure): m for m in summarize(found)}
    base, gain = np.linspace(0.2, 0.9, 8).mean(), 0.2 / 8
    baseline = table["baseline", "mAP"]
    # Runs of 0.55, 0.56, 0.57: mean 0.56, and a standard deviation (n - 1) of 0.01.
    assert baseline.mean == pytest.approx(base + 0.01) and baseline.std == pytest.approx(0.01)
    assert baseline.seeds == 3 and np.isnan(baseline.difference)
    san = table["san", "mAP"]
    assert san.mean == pytest.approx(base + 0.02 + 2 * gain), "over all its own seeds"
    # Seeds 1 and 2 are shared; there it gains `gain` and `2 gain`.
    assert san.difference == pytest.approx(1.5 * gain)
    # Student's t of two differences: t(0.975, 1) = 12.706, times the standard error (gain / sqrt 2) / sqrt 2.
    assert san.seeds_high - san.difference == pytest.approx(12.706 * gain / 2, rel=1e-4)
    assert san.difference - san.seeds_low == pytest.approx(san.seeds_high - san.difference)
    probe = table["san", "probe body_accuracy"]
    assert probe.mean == pytest.approx(0.8) and probe.difference == pytest.approx(0.75 - 0.5)
    assert np.isnan(probe.people_low) and np.isnan(probe.p_value)
    histogram = table["histogram", "mAP"]
    assert histogram.difference == pytest.approx(-0.15 - 0.01), "to the mean of all runs of the baseline"
    assert np.isnan(histogram.seeds_low) and np.isnan(histogram.std)
    behind = table["san", "mAP opposite sides"]
    assert behind.difference == pytest.approx(1.5 * (0.15 / 4) / 2)


def test_the_interval_over_people_is_of_the_scores_averaged_over_shared_seeds(found):
    measure = next(m for m in summarize(found) if (m.row, m.measure) == ("san", "mAP"))
    mean = {
        row: np.mean([found[row][seed].scores[""].mAP for seed in (1, 2)], axis=0)
        for row in ("san", "baseline")
    }
    sides = [QueryScores(values, values, values) for values in (mean["san"], mean["baseline"])]
    expected = compare(*sides, PIDS, resamples=10_000, unit="identity")["mAP"]
    assert (measure.people_low, measure.people_high) == pytest.approx((expected.low, expected.high))
    # Four people, so all 16 ways of swapping are tried. Gains: 0.18, 0.045, 0.09 and -0.015, in sum 0.3.
    # As large are that, the same with the fourth turned (0.33), and the mirror images of both.
    assert measure.p_value == expected.p_value == pytest.approx(4 / 16)


def test_a_single_run_is_compared_with_the_baseline_of_its_seed_and_an_untrained_row_with_the_mean(found):
    alone = {**found, "san": {1: found["san"][1]}}
    measures = {(one.row, one.measure): one for one in summarize(alone)}
    run, base = found["san"][1], found["baseline"]
    wanted = run.scores[""].mAP.mean() - base[1].scores[""].mAP.mean()
    assert measures["san", "mAP"].difference == pytest.approx(wanted)
    assert measures["san", "mAP"].people_low < wanted < measures["san", "mAP"].people_high
    # The baseline's seeds are 0, 0.01 and 0.02 above the first, which is 0.15 above the histogram.
    assert measures["histogram", "mAP"].difference == pytest.approx(-0.16)


def test_the_csv_has_a_line_a_run_and_the_values_that_differ(found, tmp_path: Path):
    write_results(found, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["seed"]) for line in lines] == [
        ("histogram", ""), *(("baseline", str(s)) for s in (0, 1, 2)), *(("san", str(s)) for s in (1, 2, 3)),
    ]  # fmt: skip
    san, baseline, histogram = lines[-1], lines[1], lines[0]
    assert float(san["mAP opposite sides"]) == pytest.approx(
        found["san"][3].results["conditions"]["opposite sides"]["mAP"], abs=1e-6
    )
    assert san["mAP same pose"] == "" and san["seconds"] == "102"
    assert (san["textures"], baseline["textures"]) == ("pseudo", "none")
    assert (san["pit_per_batch"], baseline["pit_per_batch"], histogram["pit_per_batch"]) == ("16", "0", "")
    assert "lambda_identity" not in san, "the same in every row"
    assert histogram["probe body_accuracy"] == "" and san["probe body_accuracy"] == "0.900000"


def test_the_summary_and_the_markdown_say_the_same(found, tmp_path: Path):
    measures = summarize(found)
    write_summary(measures, tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open() as file:
        lines = {(line["row"], line["measure"]): line for line in csv.DictReader(file)}
    assert float(lines["san", "mAP"]["difference"]) == pytest.approx(1.5 * 0.2 / 8, abs=1e-6)
    assert lines["baseline", "mAP"]["difference"] == ""
    titles = {row.name: row.title for row in ROWS}
    scores = {"pairs": 3.0, **dict.fromkeys(("l1", "l1_seen", "l1_hidden", "ssim", "gmsd", "detail"), 0.25)}
    text = markdown(
        measures,
        titles,
        {"": 8, "opposite sides": 4},
        {"probe body_accuracy": 0.5},
        {"painted": {"front": scores}},
    )
    assert "| SAN (all) | 3 |" in text and "| +3.7 |" in text, "1.5 times 0.2 / 8, in points"
    assert "| queries | 4 |" in text
    assert "| painted | front | 3 | 0.250 |" in text
    assert "| 80.0 ± 10.0 % |" in text, "the probe's scores of three runs: 70, 80 and 90 percent"
    for block in text.strip().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1, "a table's lines are equally long"


def test_without_a_baseline_there_are_no_differences(found):
    del found["baseline"]
    assert all(np.isnan(measure.difference) for measure in summarize(found))


def save(workdir: Path, result: RunResult, done: tuple[str, ...] = ("train", "evaluate", "probe")) -> None:
    directory = RunDirectory(workdir / result.row / f"seed_{result.seed}")
    directory.write_results(result.results)
    columns = {"pids": result.pids}
    for name, scores in result.scores.items():
        columns |= {f"{name}/{key}" if name else key: value for key, value in scores.columns().items()}
    np.savez(directory.path / "query_scores.npz", **columns)
    (directory.path / "probe.json").write_text(json.dumps(result.probe))
    for stage in done:
        directory.begin(stage)
        directory.mark_done(stage)


def test_only_finished_runs_of_known_rows_are_gathered(found, tmp_path: Path):
    for runs in found.values():
        for result in runs.values():
            save(tmp_path, result)
    save(tmp_path, run("oracle", 0, np.ones(8)), done=("train",))
    (tmp_path / "san" / "seed_x").mkdir()
    gathered = gather(tmp_path, ROWS)
    assert {row: list(runs) for row, runs in gathered.items()} == {
        "histogram": [0], "baseline": [0, 1, 2], "san": [1, 2, 3],
    }  # fmt: skip
    assert summarize(gathered)[0] == summarize(found)[0]
    np.testing.assert_array_equal(
        gathered["san"][2].scores["opposite sides"].mAP, found["san"][2].scores["opposite sides"].mAP
    )


def test_runs_on_other_queries_are_not_mixed(found, tmp_path: Path):
    save(tmp_path, found["baseline"][0])
    other = run("san", 0, np.ones(8))
    save(tmp_path, RunResult("san", 0, other.results, other.probe, PIDS[::-1].copy(), other.scores))
    with pytest.raises(UserError, match="other queries"):
        gather(tmp_path, ROWS)
    assert gather(tmp_path / "nothing", ROWS) == {}


def test_rows_differ_from_the_common_recipe_in_what_they_say_alone():
    common = Recipe(seed=7)
    recipes = {row.name: row.recipe(common, 3) for row in ROWS}
    assert differing_values([plain(recipe) for recipe in recipes.values()]) == [
        "data.pit_per_batch",
        "losses.lambda_texture_triplet",
        "training.start",
    ]
    assert {recipe.seed for recipe in recipes.values()} == {3}
    weights = {
        name: (recipe.losses.lambda_texture_triplet, recipe.data.pit_per_batch)
        for name, recipe in recipes.items()
    }
    assert weights["san_basic"] == (0, 0) and weights["san_basic_tr"] == weights["oracle"] == (1, 0)
    assert weights["san_basic_pit"] == (0, 16) and weights["san"] == (1, 16)
    assert [row.name for row in rows_named(["san", "baseline"])] == ["baseline", "san"]
    assert rows_named([]) == list(ROWS)
    with pytest.raises(UserError, match="no row 'sam'"):
        rows_named(["sam"])
