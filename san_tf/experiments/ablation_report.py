"""The ablation's report: tables and figures of whatever runs are finished."""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.errors import UserError
from san_tf.experiments.ablation_table import gather, summarize, write_results, write_summary
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.rows import Row


def report(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Write `results.csv`, `summary.csv`, `summary.md` and the figures.

    Raises:
        UserError: no run is finished.
    """
    folder = experiment.run.path
    found = gather(folder, rows)
    if not found:
        raise UserError(f"No run in {folder} is finished; run the command without --stage first.")
    measures = summarize(found)
    write_results(found, folder / "results.csv")
    write_summary(measures, folder / "summary.csv")
    experiment.say(str(folder / "results.csv"))
