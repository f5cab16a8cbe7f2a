"""What was in the batch that a training failed on, found again by its step and written down."""

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
    """Names the rows of a batch, for a person to look at.

    Training keeps nothing for it: batches are functions of the step, so the one in question is read again.

    Args:
        dataset_at: from a training step to the batches from that step on; dicts, whose `record` (B,) names
            rows by number.
        filenames: of the records that `record` counts; None where rows have no names.
        run: gets `diverged/<stage>/step_<number>.json`.
        stage: of the training.

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
        """Write the rows of the batches of the last `steps` steps until `step`.

        Args:
            step: steps done, the failed one included.
            what: became of the training.
            steps: more than one where several are done between two looks at the loss.

        Returns:
            The file; None where batches are not dicts, and have nothing to tell.
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
                    # Enough to tell a black or blown-up image from an ordinary one.
                    row[name] = {"min": round(float(value.min()), 4), "max": round(float(value.max()), 4)}
                else:
                    row[name] = "not finite"
        # The name first: it is what one looks for.
        return [dict(sorted(row.items(), key=lambda item: item[0] != "filename")) for row in rows]
