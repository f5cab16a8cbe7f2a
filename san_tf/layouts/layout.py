"""What a published benchmark looks like on disk, how large it is, and where it is asked for."""

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
    """The sources of training set, queries and gallery, a folder each.

    Args:
        files: the copy.
        benchmark: its name, for messages.
        folders: of `train`, `query` and `gallery`, in this order.
        pattern: of the names of images.

    Raises:
        UserError: a folder is empty, a file is misplaced or named otherwise, or junk is not in the gallery.
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
    """A benchmark's folder and what is in it.

    Attributes:
        name: as people write it.
        folders: names that its folder or archive may have; the first is the published one.
        parts: files and folders that every copy holds, relative to that folder.
        homepage: where the benchmark is described and asked for.
        terms: one or two sentences on licence and consent, shown wherever the benchmark is named.
        counts: published numbers by split.
        besides: a sentence on what else has to be put there, for some configurations.

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
        """What must lie in the manual folder, as part of a sentence."""
        inside = f" with {listed(self.parts)} in it" if self.parts else " with its images"
        return f"the folder {self.folders[0]}{inside}, or an archive of it ({listed(ARCHIVE_SUFFIXES, 'or')})"

    @property
    def instructions(self) -> str:
        """What a user has to do by hand, for TFDS's `MANUAL_DOWNLOAD_INSTRUCTIONS`."""
        return f"{self.name}: {self.put_there('in the manual folder')}"

    def put_there(self, place: str) -> str:
        """The next step of a user who has no copy yet, and where to ask for one, as the end of a sentence.

        Example:
            >>> layout.put_there("there")[:23]
            'put the folder Market-1'
        """
        source = f"It is asked for at {self.homepage} ." if self.homepage else ""
        return " ".join(filter(None, [f"put {self.expected} {place}.", self.besides, source, self.terms]))


