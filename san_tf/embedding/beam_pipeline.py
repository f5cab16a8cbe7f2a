"""Bulk embedding with Apache Beam, by any number of workers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.parquetio import WriteToParquet
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from san_tf.embedding.bulk import FURTHER, UNDECODABLE, read_photograph, shown
from san_tf.embedding.feature_table import WHOLE_NUMBERS, whole_number
from san_tf.embedding.sources import Photograph
from san_tf.errors import UserError

# Photographs that are sent to a worker together.
_CHUNK = 64
_LEFT_OUT = "left_out"


class ExportHandler(ModelHandler[bytes, Any, Any]):
    """Beam model handler for an exported encoder, which each worker loads once.

    Beam's own TensorFlow handler expects a Keras model, and fails on a SavedModel under Keras 3.

    Args:
        model: folder of the export's version, at the same path on every worker.
        batch_size: most files in a batch of the encoder.

    Example:
        >>> embedded = files | RunInference(ExportHandler("saved_models/market/1"))
    """

    def __init__(self, model: str | os.PathLike[str], batch_size: int = 32) -> None:
        super().__init__()
        self._model = os.fspath(model)
        self._batch_size = batch_size

    def load_model(self) -> Any:
        """Load the export in a worker; TensorFlow is imported only there."""
        from san_tf.embedding.exported_encoder import ExportedEncoder

        return ExportedEncoder(self._model)

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Any]:
        """Embed files; None for each that cannot be decoded.

        Args:
            batch: contents of JPEG or PNG files.
            model: from `load_model`.
            inference_args: not used.
        """
        return list(model.embed_each(batch))

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Return the largest size of a batch."""
        return {"max_batch_size": self._batch_size}


def embed_by_beam(
    photographs: Iterable[Photograph],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    runner: str,
    options: Sequence[str] = (),
    batch_size: int = 32,
    size: int | None = None,
) -> tuple[int, dict[str, str]]:
    """Embed photographs with a runner of Apache Beam into a Parquet file.

    The rows are those of `embed_photographs`, in no fixed order.

    Args:
        photographs: photographs whose files have the same paths on every worker.
        model: folder of an export's version, likewise.
        out: file to write, `.parquet`, on a path that the last worker can write.
        runner: name of a Beam runner, such as "DirectRunner" or "FlinkRunner".
        options: options of the runner, such as "--direct_num_workers=2".
        batch_size: most files in a batch of the encoder.
        size: dimensions of an embedding; None for those of the export.

    Returns:
        The number of rows, and the problems of left-out photographs by name.

    Raises:
        UserError: no photograph can be used, photographs have different columns, or the runner is unknown.
    """
    from apache_beam.runners import create_runner

    from san_tf.serving import read_metadata

    chunks, columns, total = _chunks(photographs)
    size = size or int(read_metadata(model)["embedding_size"])
    try:
        chosen = create_runner(runner)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"Apache Beam has no runner {runner!r}; DirectRunner works on this machine."
        ) from error
    problems = Path(f"{os.fspath(out)}.left_out")
    # No `save_main_session`: it would pickle the caller, and workers need only this package.
    with beam.Pipeline(runner=chosen, options=PipelineOptions(list(options))) as pipeline:
        read = (
            pipeline
            | "Photographs" >> beam.Create(chunks, reshuffle=True)
            | "Read" >> beam.ParDo(_Read()).with_outputs(_LEFT_OUT, main="files")
        )
        embedded = (
            read["files"]
            | "Embed" >> RunInference(KeyedModelHandler(ExportHandler(model, batch_size)))
            | "Rows" >> beam.ParDo(_Rows()).with_outputs(_LEFT_OUT, main="rows")
        )
        _ = embedded["rows"] | "Table" >> WriteToParquet(
            os.fspath(out), _schema(columns, size), num_shards=1, shard_name_template=""
        )
        _ = (
            (read[_LEFT_OUT], embedded[_LEFT_OUT])
            | "Problems" >> beam.Flatten()
            | "Gather" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "Write" >> beam.Map(_write, path=os.fspath(problems))
        )
    left_out = dict(json.loads(line) for line in problems.read_text("utf-8").splitlines())
    problems.unlink()
    embedded = total - sum(problem != FURTHER for problem in left_out.values())
    if not embedded:
        Path(out).unlink(missing_ok=True)
        name, problem = next(iter(left_out.items()))
        raise UserError(f"None of {total:,} photographs could be embedded; the first, {name}, {problem}.")
    return embedded, left_out


def _chunks(photographs: Iterable[Photograph]) -> tuple[list[list[Photograph]], tuple[str, ...], int]:
    chunks: list[list[Photograph]] = []
    total = 0
    for photograph in photographs:
        if total % _CHUNK == 0:
            chunks.append([])
        chunks[-1].append(photograph)
        total += 1
        first = chunks[0][0]
        if photograph.columns.keys() != first.columns.keys():
            own, others = (", ".join(item.columns) or "none" for item in (photograph, first))
            raise UserError(
                f"{photograph.name} comes with other columns ({own}) than {first.name} ({others}); embed "
                "them into separate tables."
            )
        for name in WHOLE_NUMBERS.keys() & photograph.columns.keys():
            whole_number(name, photograph.name, photograph.columns[name])
    if not chunks:
        raise UserError("There are no photographs to embed; name folders, tables or archives that hold some.")
    return chunks, tuple(chunks[0][0].columns), total


def _schema(columns: Sequence[str], size: int) -> pa.Schema:
    fields = [("path", pa.string()), ("features", pa.list_(pa.float32(), size))]
    for name in columns:
        known = WHOLE_NUMBERS.get(name)
        fields.append((known, pa.int64()) if known else (name, pa.string()))
    return pa.schema(fields)


class _Read(beam.DoFn):
    """Reads the photographs of a chunk as upright files, with names and columns."""

    def process(self, chunk: Sequence[Photograph]) -> Iterator[Any]:
        """Yield `((name, columns), content)`, and problems as a side output."""
        for photograph in chunk:
            read, name = read_photograph(photograph), shown(photograph.name)
            if read.problem:
                yield _left_out(name, read.problem)
                continue
            if read.several:
                yield _left_out(f"{name} (further pictures)", FURTHER)
            # A key must be hashable, with the same encoding on all workers.
            yield (name, tuple(photograph.columns.items())), read.content


class _Rows(beam.DoFn):
    """Makes rows of the table from embeddings."""

    def process(self, element: tuple[tuple[str, tuple[tuple[str, str], ...]], Any]) -> Iterator[Any]:
        """Yield a row, or a problem as a side output."""
        (name, columns), answer = element
        features: np.ndarray | None = getattr(answer, "inference", answer)
        if features is None:
            yield _left_out(name, UNDECODABLE)
            return
        row: dict[str, Any] = {"path": name, "features": features.tolist()}
        for column, value in columns:
            known = WHOLE_NUMBERS.get(column)
            row[known or column] = whole_number(column, name, value) if known else value
        yield row


def _left_out(name: str, problem: str) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(_LEFT_OUT, json.dumps([name, problem]))


def _write(problems: Sequence[str], path: str) -> None:
    Path(path).write_text("".join(f"{problem}\n" for problem in sorted(problems)), "utf-8")
