"""Base class of the builders of published benchmarks: examples, checks, counts, Apache Beam."""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from san_tf.archives.files import Files
from san_tf.data.parts import Item
from san_tf.data.resumable_builder import MadeFrom, ResumableBuilder, fingerprint
from san_tf.image_formats import stamp_of
from san_tf.layouts.checking import checked_images, read_checked
from san_tf.layouts.layout import Layout
from san_tf.layouts.manual_folder import find_copy
from san_tf.layouts.samples import Counts, Sample, Source, check_counts, listed, record, refuse_corrupt

_ADDED, _REMOVED, _CHANGED, _RELABELLED = _CHANGES = ("added", "removed", "changed", "relabelled")
# File in the folder of a data set built without its damaged images: their names, one per line.
SKIPPED = "skipped.txt"


@dataclasses.dataclass(kw_only=True)
class BenchmarkConfig(tfds.core.BuilderConfig):
    """Builder configuration of a benchmark.

    Attributes:
        check_counts: compare the copy with the published numbers of images and identities; switch it off for
            a part of a benchmark, or your own data in its layout.
        skip_corrupt: leave damaged images out and list them in `skipped.txt`; else one stops the build.
    """

    check_counts: bool = True
    skip_corrupt: bool = False

    def changed(self, name: str, **values: Any) -> BenchmarkConfig:
        """Return the configuration with other values and another name, as TFDS requires.

        Example:
            >>> config.changed("standard_mine", check_counts=False)
        """
        return dataclasses.replace(self, name=name, **values)  # type: ignore[call-arg]  # name is TFDS's

    def without_corrupt(self) -> BenchmarkConfig:
        """Return the configuration that leaves damaged images out, under another name."""
        return self.changed(f"{self.name}_skip_corrupt", skip_corrupt=True)

    def uncounted(self) -> BenchmarkConfig:
        """Return the configuration that accepts any number of images and identities."""
        return self.changed(f"{self.name}_uncounted", check_counts=False)


class BenchmarkBuilder(ResumableBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base class of the builders of published benchmarks.

    A subclass defines `VERSION`, `RELEASE_NOTES`, `BUILDER_CONFIGS`, `MANUAL_DOWNLOAD_INSTRUCTIONS` and the
    methods below. Records hold `image` (bytes as stored), `pid`, `camid` (from 0) and `filename`.

    An interrupted build resumes, see `ResumableBuilder`. With Beam it starts again, because the workers share
    no disk.
    """

    @abc.abstractmethod
    def _layout(self) -> Layout:
        """Return the layout of the chosen configuration."""

    @abc.abstractmethod
    def _sources(self, files: Files, manual_dir: Path) -> Mapping[str, Sequence[Source]]:
        """Return the images of the splits `train`, `query` and `gallery`.

        Args:
            files: the user's copy.
            manual_dir: its folder, for additional files of a configuration.
        """

    def _remarks(self) -> tuple[dict[str, int], list[str]]:
        """Return what else `_sources` found: numbers of unused files by kind, and notes for the user."""
        return {}, []

    def _stamps(self, files: Files, manual_dir: Path) -> list[str] | None:
        """Return texts that change with the copy, if known without listing its images; else None.

        Args:
            files: the user's copy.
            manual_dir: its folder.
        """
        del files, manual_dir
        return None

    def _find(self, manual_dir: Path) -> Files:
        """Find the copy in the manual folder."""
        return find_copy(manual_dir, self._layout())

    def _published(self) -> Mapping[str, Counts]:
        """Return the published numbers of the chosen configuration."""
        return self._layout().counts

    def _info(self) -> tfds.core.DatasetInfo:
        layout = self._layout()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "pid": np.int64,
                    "camid": np.int64,
                    "filename": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "pid"),
            homepage=layout.homepage or None,
            license=layout.terms,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        manual_dir = manual_folder(dl_manager)
        files = self._find(manual_dir)
        splits = self._sources(files, manual_dir)
        self._noted = self._described(files, manual_dir, splits)
        if self.builder_config.check_counts:
            check_counts(self._layout().name, splits, self._published())
        return {split: self._generate_examples(split, sources) for split, sources in splits.items()}

    def _made_from(self, manual_dir: Path | None) -> MadeFrom:
        manual_dir = manual_dir or self._default_manual_dir
        files = self._find(manual_dir)
        known = self._stamps(files, manual_dir) is not None
        return self._described(files, manual_dir, {} if known else self._sources(files, manual_dir))

    def _described(self, files: Files, manual_dir: Path, splits: Mapping[str, Sequence[Source]]) -> MadeFrom:
        """Describe the source of a data set of these images."""
        left_out, notes = self._remarks()
        stamps = self._stamps(files, manual_dir)
        places = {files.place}
        if stamps is None:
            places |= {source.files.place for sources in splits.values() for source in sources}
            stamps = [
                f"{split} {tuple(sample)} {source.files.stamp(sample.path)}"
                for split, sources in sorted(splits.items())
                for source in sources
                for sample in source.samples
            ]
        return MadeFrom(
            fingerprint([*stamps, str(left_out), *notes]),
            places=tuple(sorted(str(place.absolute()) for place in places)),
            archives={str(place.absolute()): stamp_of(place) for place in places if place.is_file()},
            manual_dir=str(manual_dir.absolute()),
            left_out=left_out,
            notes=tuple(notes),
        )

    @property
    def _default_manual_dir(self) -> Path:
        """TFDS's default folder for manual downloads."""
        return Path(self.data_dir_root) / "downloads" / "manual"

    def _difference(self, made_from: MadeFrom | None, manual_dir: Path | None) -> str | None:
        manual_dir = manual_dir or self._default_manual_dir
        counts: collections.Counter[str] = collections.Counter()
        # A copy may have to be unpacked for the comparison.
        with contextlib.ExitStack() as self._held:
            files = self._find(manual_dir)
            splits = self._sources(files, manual_dir)
            for split in sorted({*splits, *self.info.splits}):
                counts += self._compared(split, splits.get(split, ()))
        if not counts:
            return None
        told = [f"{counts[change]:,} {change}" for change in _CHANGES if counts[change]]
        return f"The images in {files.place} differ ({listed(told)}) from those of"

    def _compared(self, split: str, sources: Sequence[Source]) -> collections.Counter[str]:
        """Count the images of a split that differ from its records, by kind of difference."""
        kept = dict(self._kept(split)) if split in self.info.splits else {}
        counts: collections.Counter[str] = collections.Counter()
        there = set()
        total = sum(len(samples) for _, samples in sources)
        with tfds.core.utils.tqdm(desc=f"Comparing {split}", total=total, unit=" images") as bar:
            for files, samples in sources:
                for index, read in files.stream([sample.path for sample in samples]):
                    bar.update()
                    sample = samples[index]
                    there.add(sample.filename)
                    pid, camid, digest = kept.get(sample.filename, (0, 0, b""))
                    if digest and (pid, camid) != (sample.pid, sample.camid):
                        counts[_RELABELLED] += 1
                        continue
                    checked = read_checked(sample, read, look=not digest)
                    if not digest:
                        # A damaged image was left out before, and still is.
                        counts[_ADDED] += not (self.builder_config.skip_corrupt and checked.problem)
                    elif hashlib.sha256(checked.content).digest() != digest:
                        counts[_CHANGED] += 1
        counts[_REMOVED] = len(kept.keys() - there)
        return +counts

    def _kept(self, split: str) -> Iterator[tuple[str, tuple[int, int, bytes]]]:
        """Yield name, identity, camera and digest of each image in the records."""
        decoders = {"image": tfds.decode.SkipDecoding()}
        config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        records = self.as_dataset(split=split, decoders=decoders, shuffle_files=False, read_config=config)
        for item in records.as_numpy_iterator():
            digest = hashlib.sha256(item["image"]).digest()
            yield item["filename"].decode(), (int(item["pid"]), int(item["camid"]), digest)

    def _generate_examples(self, split: str, sources: Sequence[Source]) -> Any:
        if self._by_beam:
            from san_tf.layouts.beam_build import CheckedExamples

            return CheckedExamples(sources, self._problems_file(split))
        return self._examples(split, sources)

    def _examples(self, split: str, sources: Sequence[Source]) -> Iterator[tuple[str, dict[str, Any]]]:
        total = sum(len(samples) for _, samples in sources)
        problems: list[str] = []
        with tfds.core.utils.tqdm(desc=f"Checking {split}", total=total, unit=" images") as bar:
            for number, source in enumerate(sources):
                for item in self._checked(f"{split}-{number}", *source):
                    bar.update()
                    if isinstance(item, str):
                        problems.append(item)
                    else:
                        yield item["filename"], dict(item)
        self._problems_file(split).write_text("".join(f"{problem}\n" for problem in problems))

    def _checked(self, name: str, files: Files, samples: Sequence[Sample]) -> Iterator[Item]:
        """Yield records, or sentences about damaged images, in the cheapest reading order."""
        samples = [samples[index] for index in files.order([sample.path for sample in samples])]

        def check(indices: Sequence[int]) -> Iterator[Item]:
            for sample, content, problem in checked_images(files, [samples[index] for index in indices]):
                if problem is None:
                    yield record(sample, content)
                    continue
                sentence = f"{files.describe(sample.path)} {problem}"
                if not self.builder_config.skip_corrupt:
                    refuse_corrupt([sentence])
                yield sentence

        stamps = [f"{sample} {files.place} {files.stamp(sample.path)}" for sample in samples]
        return self.parts.items(name, stamps, check)

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        # A runner means Beam, which makes the same data set under the same name.
        self._by_beam = bool(download_config.beam_runner or download_config.beam_options)
        # Resources that a build keeps open until its end, such as a temporarily unpacked file.
        with contextlib.ExitStack() as self._held:
            super()._download_and_prepare(dl_manager, download_config)
            self._noted.write(self.data_dir)
        problems = []
        for split in self.info.splits:
            file = self._problems_file(split)
            if file.exists():  # missing if TFDS takes only some examples
                problems += file.read_text().splitlines()
                file.unlink()
        if not self.builder_config.skip_corrupt:
            refuse_corrupt(problems)
        elif problems:
            # TFDS renames this folder at the end, so the list appears together with the data.
            epath.Path(self.data_dir, SKIPPED).write_text("".join(f"{problem}\n" for problem in problems))

    def _problems_file(self, split: str) -> epath.Path:
        return epath.Path(self.data_dir) / f"problems-{split}.txt"


def manual_folder(dl_manager: tfds.download.DownloadManager) -> Path:
    """Return the manual folder, whether it exists or not."""
    try:
        return Path(dl_manager.manual_dir)
    except (AssertionError, OSError):  # missing, empty or not a folder: `find_copy` gives a better message
        return Path(dl_manager._manual_dir)
