"""Mode "Same person?" of the page: proposes pairs, and keeps a person's answers in a file.

The file is a CSV with the columns `first`, `second` (keys of the gallery), `same` (yes, no or cannot tell)
and `answered` (a time). `san-tf adapt --answers` and `san-tf calibrate --pairs` read it as it is.
"""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from san_tf.adaptation.clustering import Answers
from san_tf.adaptation.proposals import PairChooser, Proposal
from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.evaluation.calibrate_command import read_answers
from san_tf.evaluation.calibration_fit import FEWEST_PAIRS
from san_tf.file_lock import file_lock
from san_tf.page.api import TakenError, entry_facts, written_time
from san_tf.page.questions import AnswerUndone, NewAnswer, RefusedError
from san_tf.page.service import GoneError, PageService
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.gallery import Gallery

# With fewer entries nobody needs clusters.
FEWEST_ENTRIES = 20
# Entries that pairs are chosen among: all pairs of so many are compared in some seconds. Of a larger gallery
# they are runs of neighbours in the order of keys, which are often one person's.
_MOST_ENTRIES, _RUN = 4000, 100
# Of the pairs at a time, those for a calibration.
_FOR_CALIBRATION = 0.3
# Crops are compared again when the gallery has grown or shrunk by this share.
_CHANGED = 0.02
_COLUMNS = ("first", "second", "same")
_WORDS = {True: "yes", False: "no", None: "cannot tell"}


class Kept(NamedTuple):
    """An answer in the file; `same` is None if nobody can tell."""

    first: str
    second: str
    same: bool | None

    @property
    def pair(self) -> frozenset[str]:
        """Both keys."""
        return frozenset((self.first, self.second))


# Refuses answers that an answer would contradict.
Check = Callable[[list[Kept]], None]


class AnswerFile:
    """A file of answers, which several pages and processes may change.

    A change replaces the whole file at once, under a lock: a killed process loses at most the answer that it
    had not yet confirmed, and no reader sees half a file. Other columns of the file are kept.

    Args:
        path: the file; `prepare` makes a missing one. A link is followed.

    Raises:
        UserError: the file cannot be read or used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))
        if self.path.exists() and not self.path.is_file():
            raise UserError(f"{path} is not a file; name a .csv for the answers.")
        if not self.path.parent.is_dir():
            raise UserError(f"The folder {self.path.parent} of the answers does not exist; make it first.")
        self._lock = self.path.parent / f".{self.path.name}.lock"
        if self.path.exists():
            self.read()

    def prepare(self) -> None:
        """Write the file once as it is, so that a place that cannot be written to is told at once."""
        with self._alone():
            self._write(*self._read() if self.path.exists() else ([*_COLUMNS, "answered"], []))

    def read(self) -> list[Kept]:
        """Return the answers, the oldest first.

        Raises:
            UserError: the file is gone, or was changed so that it cannot be used.
        """
        return [Kept(told.first, told.second, told.same) for told in read_answers(self.path)]

    def keep(self, answer: Kept, check: Check | None = None) -> str | None:
        """Keep an answer instead of an earlier one to the same pair.

        Args:
            answer: the answer.
            check: called with all other answers; it raises an error to refuse.

        Returns:
            The earlier answer, yes, no or cannot tell; None if the pair had none.
        """
        return self._replace(answer.first, answer.second, _WORDS[answer.same], check, None)

    def _replace(
        self, first: str, second: str, same: str | None, check: Check | None, given: str | None
    ) -> str | None:
        pair = frozenset((first, second))
        with self._alone():
            columns, rows = self._read()
            kept = self.read()
            before = next((_WORDS[one.same] for one in reversed(kept) if one.pair == pair), None)
            if given is not None and before != given:
                raise TakenError("This pair was answered again elsewhere; that answer stays.")
            if check is not None:
                check([one for one in kept if one.pair != pair])
            rows = [row for row in rows if frozenset((row["first"], row["second"])) != pair]
            if same is not None:
                fresh = {
                    "first": first,
                    "second": second,
                    "same": same,
                    "answered": written_time(time.time()),
                }
                rows.append(fresh)
            self._write(columns, rows)
        return before

    def undo(
        self, first: str, second: str, given: str, before: str | None, check: Check | None = None
    ) -> None:
        """Restore what was known of a pair before an answer.

        Args:
            first: a key.
            second: another key.
            given: the answer to undo.
            before: the answer to restore; None for none.
            check: see `keep`.

        Raises:
            TakenError: the file holds another answer by now.
        """
        self._replace(first, second, before, check, given)

    def remove(self, keys: set[str]) -> int:
        """Remove all answers about some keys; return their number."""
        with self._alone():
            columns, rows = self._read()
            left = [row for row in rows if row["first"] not in keys and row["second"] not in keys]
            if len(left) < len(rows):
                self._write(columns, left)
        return len(rows) - len(left)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with file_lock(self._lock, wait=True, remove=True):
            yield

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        read_answers(self.path)  # refuses what cannot be used
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{name: value for name, value in row.items() if name is not None} for row in reader]
            columns = list(reader.fieldnames or ())
        return [*columns, *(() if "answered" in columns else ("answered",))], rows

    def _write(self, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
        with (
            atomic_file(self.path, keep_mode=True) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


@dataclass(frozen=True)
class _Compared:
    """Crops that were compared with each other, in the order of their rows."""

    keys: list[str]
    size: int
    chooser: PairChooser


class SamePerson:
    """Pairs to ask a person about, and the answers.

    Args:
        service: the gallery.
        path: the file of answers, named by whoever starts the page.

    Raises:
        UserError: the file cannot be used, contradicts itself, or is about other crops than the gallery's.

    Example:
        >>> asking = SamePerson(service, "answers.csv")
        >>> pair = asking.pairs(10)["pairs"][0]
        >>> asking.answer(NewAnswer(first=pair["first"]["key"], second=pair["second"]["key"], same="yes"))
    """

    def __init__(self, service: PageService, path: str | os.PathLike[str]) -> None:
        self._service = service
        self._file = AnswerFile(path)
        self._compared: _Compared | None = None
        self._lock = threading.Lock()
        kept = self.forget() if self._file.path.exists() else []
        here = self._here(service.gallery, kept)
        if kept and not here:
            raise UserError(
                f"{path} has {len(kept):,} answers, and none is about two entries of the gallery "
                f"{service.name}; name the file of this gallery, or a new one."
            )
        _check(here)
        self._file.prepare()

    @property
    def useful(self) -> bool:
        """Whether the gallery has enough entries with pictures to ask about."""
        gallery = self._service.gallery
        if len(gallery) < FEWEST_ENTRIES or not self._service.has_pictures:
            return False
        return any(entry.image for entry in gallery.entries(limit=FEWEST_ENTRIES))

    def facts(self) -> dict[str, Any]:
        """Return the name of the file, its answers by kind, and how many of a kind a calibration needs."""
        told = [one.same for one in self._current()]
        return {
            "file": self._file.path.name,
            "answered": len(told),
            "same": told.count(True),
            "different": told.count(False),
            "untold": told.count(None),
            "needed": FEWEST_PAIRS,
        }

    def pairs(self, count: int) -> dict[str, Any]:
        """Return the pairs that are most worth an answer, as JSON values.

        Raises:
            RefusedError: the gallery has too few entries with pictures.
        """
        if not self.useful:
            raise RefusedError(
                f"The page asks about people from {FEWEST_ENTRIES} entries with pictures on; add some first."
            )
        kept = self._current()
        with self._lock:
            compared = self._crops(kept)
        chosen = _chosen(compared, kept, count)
        entries = self._service.gallery.lookup(
            [compared.keys[row] for pair in chosen for row in (pair.first, pair.second)]
        )
        shown = []
        for pair in chosen:
            both = [entries.get(compared.keys[row]) for row in (pair.first, pair.second)]
            if all(both):  # nobody deleted one meanwhile
                first, second = (entry_facts(found.entry) for found in both if found is not None)
                shown.append({"first": first, "second": second, "why": pair.why})
        return {"pairs": shown, **self.facts()}

    def answer(self, given: NewAnswer) -> dict[str, Any]:
        """Keep an answer on disk, and return the numbers and the earlier answer to this pair.

        Raises:
            GoneError: the gallery does not hold one of the entries, or no longer.
            TakenError: the answer contradicts earlier ones.
        """
        answer = Kept(given.first, given.second, {"yes": True, "no": False}.get(given.same))
        gallery = self._held(answer.first, answer.second)
        before = self._file.keep(
            answer, lambda others: _check([*self._here(gallery, others), answer], answer)
        )
        return {"before": before, **self.facts()}

    def undo(self, given: AnswerUndone) -> dict[str, Any]:
        """Restore what was known of a pair before an answer, and return the numbers.

        Raises:
            GoneError: as `answer`.
            TakenError: the pair was answered again elsewhere.
        """
        gallery = self._held(given.first, given.second)
        back = Kept(given.first, given.second, {"yes": True, "no": False}.get(given.before or ""))

        def check(others: list[Kept]) -> None:
            _check([*self._here(gallery, others), back], back)

        self._file.undo(given.first, given.second, given.given, given.before, check if given.before else None)
        return self.facts()

    def forget(self) -> list[Kept]:
        """Remove the answers about entries that were deleted for good, and return the others."""
        kept = self._file.read()
        keys = list(dict.fromkeys(key for one in kept for key in (one.first, one.second)))
        gallery = self._service.gallery
        known = gallery.known(keys) if keys else set()
        missing = [key for key in keys if key not in known]
        gone = gallery.deleted(missing).keys if missing else set()
        if gone:
            self._file.remove(gone)
            kept = [one for one in kept if not one.pair & gone]
        return kept

    def _current(self) -> list[Kept]:
        """Return the answers about entries that the gallery holds."""
        here = self._here(self._service.gallery, self.forget())
        _check(here)
        return here

    def _here(self, gallery: Gallery, kept: Sequence[Kept]) -> list[Kept]:
        known = gallery.known([key for one in kept for key in (one.first, one.second)]) if kept else set()
        return [one for one in kept if one.pair <= known]

    def _held(self, first: str, second: str) -> Gallery:
        gallery = self._service.gallery
        if len(gallery.known([first, second])) < 2:
            raise GoneError("The gallery does not hold one of these entries, or no longer.")
        return gallery

    def _crops(self, kept: Sequence[Kept]) -> _Compared:
        """Return crops to choose among, compared again only where the gallery has changed."""
        gallery, compared = self._service.gallery, self._compared
        size = len(gallery)
        if (
            compared is not None
            and abs(size - compared.size) <= _CHANGED * compared.size
            and len(gallery.known(compared.keys)) == len(compared.keys)
        ):
            return compared
        keys = {entry.key for entry in _sampled(gallery)}
        keys |= {key for one in kept[-_MOST_ENTRIES // 4 :] for key in one.pair}
        found = gallery.lookup(sorted(keys))
        shown = [one for one in found.values() if one.entry.image]
        if len(shown) < 2:
            raise RefusedError("The gallery has too few entries with pictures; add some first.")
        rows = np.stack([one.embedding for one in shown])
        cameras = np.array([one.entry.camera for one in shown], np.int64)
        self._compared = _Compared([one.entry.key for one in shown], size, PairChooser(rows, cameras))
        return self._compared


def _sampled(gallery: Gallery) -> list[Entry]:
    size = len(gallery)
    if size <= _MOST_ENTRIES:
        return gallery.entries()
    runs = _MOST_ENTRIES // _RUN
    return [entry for run in range(runs) for entry in gallery.entries(start=run * size // runs, limit=_RUN)]


def _chosen(compared: _Compared, kept: Sequence[Kept], count: int) -> list[Proposal]:
    """Choose pairs for clusters, and some for a calibration among them."""
    rows = {key: row for row, key in enumerate(compared.keys)}
    here = [one for one in kept if one.first in rows and one.second in rows]
    told = [one for one in here if one.same is not None]
    pairs = np.array([(rows[one.first], rows[one.second]) for one in told], np.int64).reshape(-1, 2)
    answers = Answers(pairs[:, 0], pairs[:, 1], np.array([one.same for one in told], bool))
    untold = [(rows[one.first], rows[one.second]) for one in here if one.same is None]

    def choose(number: int, purpose: str, others: Sequence[Proposal]) -> list[Proposal]:
        asked = np.array([*untold, *((one.first, one.second) for one in others)], np.int64).reshape(-1, 2)
        if number < 1:
            return []
        return compared.chooser.choose(number, answers, asked, purpose, seed=len(kept))

    for_clusters = choose(count - round(_FOR_CALIBRATION * count), "clusters", ())
    more = choose(count - len(for_clusters), "calibration", for_clusters)
    # The first question is the most informative; those for a calibration are spread among the others.
    step = max(1, -(-(len(for_clusters) + len(more)) // max(1, len(more))))
    for place, pair in enumerate(more):
        for_clusters.insert((place + 1) * step - 1, pair)
    return for_clusters


def _check(kept: Sequence[Kept], last: Kept | None = None) -> None:
    """Refuse answers that contradict each other; `last` is the one that was just given."""
    leader: dict[str, str] = {}

    def root(key: str) -> str:
        while leader.get(key, key) != key:
            key = leader[key]
        return key

    for one in kept:
        if one.same:
            leader[root(one.first)] = root(one.second)
    for one in kept:
        if one.same is False and root(one.first) == root(one.second):
            if last is None:
                raise UserError(
                    f"The answers contradict each other: {one.first} and {one.second} are two people, but "
                    "other answers join them; correct the file."
                )
            earlier = f"{one.first} and {one.second} are two people" if last.same else "both are one person"
            raise TakenError(
                f"The answer contradicts earlier ones, by which {earlier}; it was not kept. Answer "
                "“Cannot tell”, or correct the earlier ones."
            )
