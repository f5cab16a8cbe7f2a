"""Builds a benchmark's examples with Apache Beam: workers read and check chunks of images."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from etils import epath

from san_tf.archives.files import Files
from san_tf.errors import UserError
from san_tf.layouts.samples import Sample, Source

# Number of images in a worker's chunk.
_CHUNK = 256
_PROBLEMS = "problems"


class CheckedExamples(beam.PTransform):
    """Makes the examples of a split, and a file with the problems of damaged images.

    An error in a worker reaches the user as a long traceback that differs between runners. So workers write
    sentences to a file, and the process that started the pipeline reads it at the end.

    Args:
        sources: sources of the split. Folders and archives must have the same path on every worker.
        problems: file to write, one sentence per line; it is empty if all images are good.

    Raises:
        UserError: a source is a compressed tar archive, which can only be read from its beginning.
    """

    def __init__(self, sources: Sequence[Source], problems: str | os.PathLike[str]) -> None:
        super().__init__()
        for files, _ in sources:
            if not files.random_access:
                raise UserError(
                    f"Workers cannot share the compressed archive {files.place}; unpack it, pack it as .zip "
                    "or .tar, or build without Apache Beam."
                )
        self._sources = list(sources)
        self._problems = os.fspath(problems)

    def expand(self, pipeline: Any) -> Any:
        """Add the steps to a pipeline, and return the collection of keys and examples."""
        chunks = [
            (files, samples[start : start + _CHUNK])
            for files, samples in self._sources
            for start in range(0, len(samples), _CHUNK)
        ]
        results = (
            pipeline
            | "Chunks" >> beam.Create(chunks, reshuffle=True)
            | "Check" >> beam.ParDo(_Check()).with_outputs(_PROBLEMS, main="examples")
        )
        _ = (
            results[_PROBLEMS]
            | "Gather" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "Write" >> beam.Map(_write, path=self._problems)
        )
        return results["examples"]


class _Check(beam.DoFn):
    """Reads and checks the images of a chunk."""

    def process(self, chunk: tuple[Files, Sequence[Sample]]) -> Iterator[Any]:
        """Yield keys and examples, and sentences as a side output."""
        # Imported here, so that TensorFlow starts in the worker and not in the planning process.
        from san_tf.layouts.checking import read_checked
        from san_tf.layouts.samples import record

        files, samples = chunk
        for sample in samples:
            _, content, problem = read_checked(sample, functools.partial(files.read, sample.path))
            if problem is None:
                yield sample.filename, record(sample, content)
            else:
                yield beam.pvalue.TaggedOutput(_PROBLEMS, f"{files.describe(sample.path)} {problem}")


def _write(problems: Sequence[str], path: str) -> None:
    epath.Path(path).write_text("".join(f"{problem}\n" for problem in sorted(problems)))
