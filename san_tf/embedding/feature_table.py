"""Feature table: a Parquet file, joined from parts that survive an interruption."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.whole_numbers import WholeNumbers

if TYPE_CHECKING:
    import pyarrow as pa

_NOTES = b"san_tf"
# Columns that `san_tf.evaluate` and galleries know; a source table may also use the singular.
WHOLE_NUMBERS = {"pid": "pids", "pids": "pids", "camid": "camids", "camids": "camids"}


class Embedded(NamedTuple):
    """A photograph's row: name, `(D,)` float32 embedding, and columns of its source table."""

    name: str
    features: np.ndarray
    columns: Mapping[str, str]


class FeatureTable:
    """Writer of a Parquet file: `path`, `features` (float32, fixed length), and columns of source tables.

    Rows are written in complete parts to the folder `<path>.parts`; `finish` joins and removes them. Memory
    holds one part.

    Args:
        path: path of the file, `.parquet`.
        notes: JSON values for the file's metadata, such as the model; parts with other notes are not reused.

    Raises:
        UserError: another suffix, or pyarrow is missing.
    """

    def __init__(self, path: str | Path, notes: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".parquet":
            raise UserError(f"{self.path} is not the name of a Parquet file; let it end in .parquet.")
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError("Writing features needs pyarrow: pip install 'san-tf[parquet]'.") from error
        self._parquet = pyarrow.parquet
        self._pa = pyarrow
        self._notes = dict(notes)
        self.parts = self.path.with_name(f"{self.path.name}.parts")

    def has_part(self, number: int, sources: Sequence[str]) -> dict[str, str] | None:
        """Return what a finished part left out, by name; None if there is no part of these sources.

        Args:
            number: number of the part, from 0.
            sources: all that its rows depend on beside the notes: names, columns and stamps of the files.
        """
        try:
            # Read whole, to verify checksums: after a crash, a part may lack some of its pages.
            table = self._parquet.read_table(self._part(number), page_checksum_verification=True)
            notes = json.loads(table.schema.metadata[_NOTES])
        except (OSError, self._pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        return notes["left_out"] if notes["digest"] == self._digest(sources) else None

    def write_part(
        self, number: int, sources: Sequence[str], rows: Sequence[Embedded], left_out: Mapping[str, str]
    ) -> None:
        """Write a part.

        Args:
            number: number of the part, from 0.
            sources: as for `has_part`.
            rows: rows of the embedded photographs, in order.
            left_out: problems of the other photographs, by name.

        Raises:
            UserError: the disk is full, the folder cannot be written, or rows have different columns.
        """
        table = self._table(rows)
        notes = {"digest": self._digest(sources), "left_out": dict(left_out)}
        table = table.replace_schema_metadata({_NOTES: json.dumps(notes)})
        with atomic_file(self._part(number)) as temporary:
            self._parquet.write_table(table, temporary, write_page_checksum=True)

    def finish(self, parts: int) -> int:
        """List what was left out, join the parts and remove them.

        Returns:
            Number of rows.

        Raises:
            UserError: the disk is full, or parts have different columns.
        """
        files = [self._part(number) for number in range(parts)]
        kept = [self._parquet.read_schema(file) for file in files]
        left_out = {
            name: problem
            for part in kept
            for name, problem in json.loads(part.metadata[_NOTES])["left_out"].items()
        }
        # The list first: an existing table means that everything is finished.
        write_left_out(self.path, left_out)
        schemas = [part.remove_metadata() for part in kept]
        schema = max(schemas, key=len).with_metadata({_NOTES: json.dumps(self._notes)})
        rows = 0
        with atomic_file(self.path) as temporary, self._parquet.ParquetWriter(temporary, schema) as writer:
            for file, own in zip(files, schemas, strict=True):
                table = self._parquet.read_table(file)
                if len(table) == 0:
                    continue
                if own != schema.remove_metadata():
                    raise UserError(
                        "The tables have different columns: "
                        f"{', '.join(own.names)}, and {', '.join(schema.names)}; give them the same."
                    )
                writer.write_table(table.replace_schema_metadata(schema.metadata))
                rows += len(table)
        self.discard()
        return rows

    def discard(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self.parts / f"part-{number:06d}.parquet"

    def _digest(self, sources: Sequence[str]) -> str:
        return hashlib.sha256(json.dumps([self._notes, list(sources)], sort_keys=True).encode()).hexdigest()

    def _table(self, rows: Sequence[Embedded]) -> pa.Table:
        pa = self._pa
        if not rows:
            return pa.table({"path": pa.array([], pa.string())})
        features = np.stack([row.features for row in rows])
        arrays = {
            "path": pa.array([row.name for row in rows], pa.string()),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1]),
        }
        names = list(rows[0].columns)
        for row in rows:
            if list(row.columns) != names:
                raise UserError(
                    f"{row.name} comes with other columns ({', '.join(row.columns) or 'none'}) than "
                    f"{rows[0].name} ({', '.join(names) or 'none'}); embed them into separate tables."
                )
        for name in names:
            values = [row.columns[name] for row in rows]
            known = WHOLE_NUMBERS.get(name)
            if known:
                numbers = [whole_number(name, row.name, row.columns[name]) for row in rows]
                arrays[known] = pa.array(numbers, pa.int64())
            else:
                arrays[name] = pa.array(values, pa.string())
        return pa.table(arrays)


def left_out_list(path: str | Path) -> Path:
    """Return the path of the list of photographs that a table leaves out."""
    return Path(path).with_suffix(".left_out.csv")


def write_left_out(path: str | Path, left_out: Mapping[str, str]) -> None:
    """Write the list of left-out photographs beside a table; remove it if there are none.

    Args:
        path: path of the table.
        left_out: problems by name.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    listed = left_out_list(path)
    if not left_out:
        listed.unlink(missing_ok=True)
        return
    with atomic_file(listed) as temporary, Path(temporary).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "problem"])
        rows.writerows(left_out.items())


def people_and_cameras(path: str | Path) -> str:
    """Return the counts of a table, such as ", 5 identities, 2 cameras"; "" where unknown.

    Args:
        path: path of a Parquet file, with or without the columns `pids` and `camids`.
    """
    import pyarrow.compute
    import pyarrow.parquet

    told = ""
    known = pyarrow.parquet.read_schema(path).names
    for column, what in (("pids", "identities"), ("camids", "cameras")):
        if column in known:
            values = pyarrow.parquet.read_table(path, columns=[column])[column]
            number = len([value for value in pyarrow.compute.unique(values).to_pylist() if value != -1])
            told += f", {number:,} {what}"
    return told


def whole_number(column: str, name: str, value: str) -> int:
    """Read an identity or camera of a table.

    Args:
        column: name of the column.
        name: name of the photograph, for messages.
        value: the cell.

    Raises:
        UserError: the cell is not a whole number.
    """
    return WholeNumbers().read(column, value, name)
