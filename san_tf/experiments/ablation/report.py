"""Reports the ablation: tables and figures of all finished runs."""

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
from san_tf.experiments.ablation.markdown import markdown
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
