"""The same examples by Apache Beam: chunks of images, read and looked at by any number of workers."""

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

# Images that a worker takes at a time.
_CHUNK = 256
_PROBLEMS = "problems"


class CheckedExamples(beam.PTransform):
    """Examples of a split, and a file with what is wrong with the images that are none.

    Whatever a worker raises reaches the user as a page of traceback, each runner's own. So workers write
    sentences, and who started the pipeline reads them at its end.

    Args:
        sources: of the split. Folders and archives must have the same path on every worker.
        problems: file to write, one sentence a line; it is empty if all is well.

    Raises:
        UserError: a source is an archive that can only be read from its beginning on.
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
        """Add the steps to a pipeline and return the collection of keys and examples."""
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
    """Reads the images of a chunk."""

    def process(self, chunk: tuple[Files, Sequence[Sample]]) -> Iterator[Any]:
        """Yield keys and examples, and sentences on the side."""
        # TensorFlow starts in the worker, not in the process that only plans.
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
