"""`metrics.csv`: one row an epoch of any stage, written whole each time so that it is never half a row."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from san_tf.atomic import atomic_file
from san_tf.errors import UserError

_FIRST_COLUMNS = ("stage", "epoch", "step")


class MetricsTable:
    """A CSV file with the columns `stage`, `epoch`, `step` (done at the row's end) and whatever was measured.

    A metric that appears for the first time gets a column of its own; rows without it stay empty there.

    Args:
        path: of the file; made with the first row.

    Example:
        >>> table = MetricsTable("runs/synthetic/metrics.csv")
        >>> table.append("train", epoch=1, step=40, values={"loss": 2.5})
        >>> table.rows("train")[0]["loss"]
        '2.5'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def rows(self, stage: str | None = None) -> list[dict[str, str]]:
        """The rows of a stage, or all, in order; values as the strings they are in the file.

        Raises:
            UserError: the file is no such table.
        """
        try:
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path} cannot be read ({error}); move it away.") from error
        if rows and not set(_FIRST_COLUMNS) <= set(rows[0]):
            raise UserError(f"{self.path} is no table of metrics of this package; move it away.")
        return [row for row in rows if stage is None or row["stage"] == stage]

    def series(self, stage: str, name: str) -> list[tuple[int, float]]:
        """The steps and values of one metric of a stage, for a curve; rows without it are left out."""
        return [(int(row["step"]), float(row[name])) for row in self.rows(stage) if row.get(name)]

    def append(self, stage: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Add a row; rows of this stage from the same step on are replaced by it.

        Args:
            stage: its name.
            epoch: counted from 1.
            step: training steps done since the stage's start.
            values: name to number.
        """
        row = {"stage": stage, "epoch": str(epoch), "step": str(step)}
        row.update({name: f"{float(value):.8g}" for name, value in values.items()})
        self._write([*self._without(stage, step - 1), row])

    def drop(self, stage: str, after_step: int) -> None:
        """Remove the rows of `stage` beyond `after_step`: a run that is resumed there writes them again."""
        rows = self.rows()
        kept = self._without(stage, after_step)
        if len(kept) < len(rows):
            self._write(kept)

    def drop_stage(self, stage: str) -> None:
        """Remove all rows of a stage and of its parts, such as `train/san` of `train`."""
        rows = self.rows()
        kept = [row for row in rows if row["stage"] != stage and not row["stage"].startswith(f"{stage}/")]
        if len(kept) < len(rows):
            self._write(kept)

    def _without(self, stage: str, after_step: int) -> list[dict[str, str]]:
        return [row for row in self.rows() if row["stage"] != stage or int(row["step"]) <= after_step]

    def _write(self, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys([*_FIRST_COLUMNS, *(name for row in rows for name in row)]))
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
