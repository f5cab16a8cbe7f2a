"""What a published benchmark looks like on disk, how large it is, and where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")


@dataclass(frozen=True)
class Counts:
    """Published numbers of a split; None where none is published.

    Attributes:
        images: all of them, distractors and junk included.
        identities: different people (or vehicles), distractors (0) and junk (-1) left out.
    """

    images: int | None = None
    identities: int | None = None


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


def listed(words: tuple[str, ...] | list[str], last: str = "and") -> str:
    """Join words as English does.

    Example:
        >>> listed(["train", "query", "gallery"])
        'train, query and gallery'
    """
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
