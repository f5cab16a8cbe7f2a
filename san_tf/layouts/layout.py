"""Layout of a published benchmark: its files, size, homepage and terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from san_tf.archives.files import Files
from san_tf.layouts.file_names import NamePattern, refuse_junk, samples_in
from san_tf.layouts.samples import Counts, Source, listed

SPLITS = ("train", "query", "gallery")


def three_folders(
    files: Files, benchmark: str, folders: Sequence[str], pattern: NamePattern
) -> dict[str, list[Source]]:
    """Return the sources of training set, query and gallery, from one folder each.

    Args:
        files: the user's copy.
        benchmark: name of the benchmark, for messages.
        folders: folders of `train`, `query` and `gallery`, in this order.
        pattern: pattern of the image names.

    Raises:
        UserError: a folder is empty, a file is misplaced or misnamed, or there is junk outside the gallery.
    """
    samples = {
        split: samples_in(files, folder, benchmark, pattern)
        for split, folder in zip(SPLITS, folders, strict=True)
    }
    for split in ("train", "query"):
        refuse_junk(files, benchmark, split, samples[split])
    return {split: [Source(files, samples[split])] for split in SPLITS}


ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class Layout:
    """Description of a benchmark's folder and its contents.

    Attributes:
        name: usual name of the benchmark.
        folders: possible names of its folder or archive; the first is the published one.
        parts: files and folders that every copy contains, relative to that folder.
        homepage: web page that describes the benchmark and takes requests for it.
        terms: one or two sentences on licence and consent, shown with the benchmark.
        counts: published numbers by split.
        besides: a sentence on additional files that some configurations need.

    Example:
        >>> Layout("Market-1501", ("Market-1501-v15.09.15",), ("query",), "https://...", "For research.")
    """

    name: str
    folders: tuple[str, ...]
    parts: tuple[str, ...]
    homepage: str
    terms: str
    counts: Mapping[str, Counts] = field(default_factory=dict)
    besides: str = ""

    @property
    def expected(self) -> str:
        """What the manual folder must contain, as part of a sentence."""
        inside = f" with {listed(self.parts)} in it" if self.parts else " with its images"
        return f"the folder {self.folders[0]}{inside}, or an archive of it ({listed(ARCHIVE_SUFFIXES, 'or')})"

    @property
    def instructions(self) -> str:
        """What the user must do, for TFDS's `MANUAL_DOWNLOAD_INSTRUCTIONS`."""
        return f"{self.name}: {self.put_there('in the manual folder')}"

    def put_there(self, place: str) -> str:
        """Return the next step for a user without a copy, as the end of a sentence.

        Example:
            >>> layout.put_there("there")[:23]
            'put the folder Market-1'
        """
        source = f"Request it at {self.homepage} ." if self.homepage else ""
        return " ".join(filter(None, [f"put {self.expected} {place}.", self.besides, source, self.terms]))
