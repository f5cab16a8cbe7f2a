"""Finds the batch on which a training failed, and writes its contents to a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_file
from san_tf.training.run_directory import RunDirectory


class OffendingBatch:
    """Lists the rows of a failed batch for inspection.

    Batches depend only on the step, so the failed one is read again, and training need not keep it.

    Args:
        dataset_at: takes a training step and returns the batches from that step on, as dicts in which
            `record` (B,) is the number of each row's record.
        filenames: names of the records; None if they have no names.
        run: run directory for `diverged/<stage>/step_<number>.json`.
        stage: stage of the training.

    Example:
        >>> offending = OffendingBatch(dataset_at, records.filenames, run, "train/san")
        >>> offending.write(step=12, what="loss became nan")
        PosixPath('runs/synthetic/diverged/train/san/step_00000012.json')
    """

    def __init__(
        self,
        dataset_at: Callable[[int], tf.data.Dataset],
        filenames: Sequence[str] | None,
        run: RunDirectory,
        stage: str,
    ) -> None:
        self.dataset_at = dataset_at
        self.filenames = filenames
        self.stage = stage
        self.folder = run.path / "diverged" / stage

    def write(self, step: int, what: str, steps: int = 1) -> Path | None:
        """Write the rows of the last batches up to `step` to a file.

        Args:
            step: steps done, including the failed one.
            what: what went wrong, such as "loss became nan".
            steps: number of batches; more than one if the loss is checked only every few steps.

        Returns:
            The file; None if batches are not dicts.
        """
        batches = self.dataset_at(step - steps).take(steps)
        if not isinstance(batches.element_spec, dict):
            return None
        rows = [
            {"step": number, **row}
            for number, batch in enumerate(batches.as_numpy_iterator(), step - steps + 1)
            for row in self._rows(batch)
        ]
        path = self.folder / f"step_{step:08d}.json"
        with atomic_file(path) as temporary:
            temporary.write_text(
                json.dumps({"stage": self.stage, "step": step, "what": what, "rows": rows}, indent=1) + "\n"
            )
        return path

    def _rows(self, batch: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{} for _ in next(iter(batch.values()))]
        for name, values in batch.items():
            for row, value in zip(rows, values, strict=True):
                if name == "record" and self.filenames is not None:
                    row["filename"] = str(self.filenames[int(value)])
                elif np.ndim(value) == 0:
                    row[name] = value.item()
                elif np.isfinite(value).all():
                    # Enough to recognise a black or overexposed image.
                    row[name] = {"min": round(float(value.min()), 4), "max": round(float(value.max()), 4)}
                else:
                    row[name] = "not finite"
        # The name first, because people look for it.
        return [dict(sorted(row.items(), key=lambda item: item[0] != "filename")) for row in rows]
