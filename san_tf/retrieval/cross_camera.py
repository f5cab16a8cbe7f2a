"""The same person across cameras and after coming back: `CrossCamera` gives tracks their identities."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from san_tf.embedding.track_encoder import Track, times_of_key
from san_tf.errors import UserError
from san_tf.file_lock import file_lock
from san_tf.retrieval.entries import Entry, Filter, checked_embeddings
from san_tf.retrieval.gallery import Gallery

if TYPE_CHECKING:
    from san_tf.evaluation.calibration import Calibration

# Nearest entries of a track that are asked for people, and newest entries of each of these people.
_HITS, _NEWEST = 200, 64
# Tracks that are compared with each other at once.
_AT_ONCE = 1000


class Identified(NamedTuple):
    """A track with its identity.

    Attributes:
        track: the track.
        pid: identity, from 0.
        known: whether an earlier track, or a known person of the gallery, has this identity.
        similarity: mean cosine similarity to the person's other tracks; None for a new person with one track.
    """

    track: Track
    pid: int
    known: bool
    similarity: float | None


@dataclass(eq=False)
class _Person:
    """Tracks that are one person: sum and number of their embeddings, and where they were when."""

    total: np.ndarray
    count: int
    stays: list[tuple[str, float, float]]
    pid: int | None = None
    tracks: list[int] = field(default_factory=list)


class CrossCamera:
    """Gives tracks of several cameras identities, and keeps them in a gallery.

    People are compared by the mean cosine similarity of all their tracks (average linkage; of a known person
    the newest 64 tracks). The most similar are joined first, while they are at least as similar as
    `threshold`. Whoever is joined with nobody becomes a new identity. Never joined are

    - two known people;
    - tracks of one camera that overlap in time;
    - tracks of two cameras that overlap in time, or between which less than the travel time passed.

    Each track is an entry of the gallery: its `pid`, camera and time; its key names first and last time. So
    what holds for galleries holds for people: they can be searched, deleted for good and kept for a time
    only. Entries of photographs with a `pid` are known people, too. Entries without are ignored. Several
    processes may add to one gallery on this machine.

    Args:
        gallery: open for changes, of the encoder of the tracks.
        threshold: lowest cosine similarity of a person's tracks, in (-1, 1]; see `similarity_threshold`.
        travel: shortest time in seconds from one camera to another, in both directions, by pairs of names.
        overlapping: pairs of cameras that see the same place, where a person may be at both at once.

    Raises:
        UserError: a value is impossible.

    Example:
        >>> with open_gallery("people.gallery", create=GalleryInfo(512)) as gallery:
        ...     people = CrossCamera(gallery, threshold=0.6, travel={("door", "hall"): 5.0})
        ...     for found in people.add(tracks):
        ...         print(found.track.key, found.pid, found.known)
        door#7@12.400+3.200 0 False
    """

    def __init__(
        self,
        gallery: Gallery,
        threshold: float,
        travel: Mapping[tuple[str, str], float] | None = None,
        overlapping: Collection[tuple[str, str]] = (),
    ) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 < threshold <= 1:
            raise UserError(f"A threshold is a cosine similarity above -1, up to 1; received {threshold!r}.")
        self.gallery, self.threshold = gallery, float(threshold)
        self._travel: dict[frozenset[str], float] = {}
        for pair, seconds in (travel or {}).items():
            if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
                raise UserError(f"A travel time must be a number of seconds from 0; received {seconds!r}.")
            self._travel[_pair(pair)] = float(seconds)
        self._overlapping = {_pair(pair) for pair in overlapping}
        if both := self._overlapping & set(self._travel):
            names = " and ".join(sorted(next(iter(both))))
            raise UserError(
                f"The cameras {names} overlap, so a person needs no travel time; give one of them."
            )
        self._next = 0

    def add(self, tracks: Sequence[Track]) -> list[Identified]:
        """Identify tracks and add them to the gallery; durable on return.

        Tracks that are in the gallery already keep their identity. Give tracks together where possible, such
        as all of an hour: the most similar are joined first, in whatever order they come. Up to 1,000 are
        compared with each other, then the next in the order of time.

        Args:
            tracks: of any cameras and times.

        Returns:
            As many, in their order.

        Raises:
            UserError: embeddings do not fit the gallery, times are impossible, or a track was deleted for
                good. Nothing of this call is then in the gallery, of more than 1,000 tracks nothing of the
                last 1,000.
        """
        tracks = list(tracks)
        rows = checked_embeddings(self.gallery.name, self.gallery.info.size, _stacked(tracks, self.gallery))
        for track in tracks:
            if not (math.isfinite(track.first) and math.isfinite(track.last) and track.first <= track.last):
                raise UserError(
                    f"The times of {track.key} are impossible; give seconds, the first one first."
                )
        order = sorted(range(len(tracks)), key=lambda place: (tracks[place].last, tracks[place].key))
        found: dict[int, Identified] = {}
        with self._locked():
            for start in range(0, len(order), _AT_ONCE):
                some = order[start : start + _AT_ONCE]
                answers = self._add([tracks[place] for place in some], rows[some])
                found |= dict(zip(some, answers, strict=True))
        return [found[place] for place in range(len(tracks))]

    def _add(self, tracks: list[Track], rows: np.ndarray) -> list[Identified]:
        present = self.gallery.lookup([track.key for track in tracks])
        pids = {key: candidate.entry.pid for key, candidate in present.items()}
        new: dict[str, int] = {}
        for place, track in enumerate(tracks):
            if pids.get(track.key) is None:
                new.setdefault(track.key, place)
        people = self._known_people(rows[list(new.values())])
        known = len(people)
        for place in new.values():
            track = tracks[place]
            stay = (track.camera, track.first, track.last)
            people.append(_Person(rows[place].astype(np.float64), 1, [stay], None, [place]))
        self._join(people, known)
        answers: dict[str, Identified] = {}
        entries: dict[int, Entry] = {}
        fresh = self._next_pid() if any(person.pid is None for person in people if person.tracks) else 0
        for person in people:
            if not person.tracks:
                continue
            pid, was_known = person.pid, person.pid is not None
            if pid is None:
                pid, fresh = fresh, fresh + 1
            first = min(person.tracks, key=lambda place: (tracks[place].first, tracks[place].key))
            for place in person.tracks:
                track = tracks[place]
                similarity = None
                if person.count > 1:
                    others = person.total - rows[place]
                    similarity = float(others @ rows[place]) / (person.count - 1)
                answers[track.key] = Identified(track, pid, was_known or place != first, similarity)
                camera = self.gallery.name_camera(track.camera)
                entries[place] = Entry(track.key, camera=camera, time=track.first, pid=pid)
        if entries:
            self.gallery.add(rows[list(entries)], list(entries.values()))
            self._next = max(self._next, fresh)
        for track in tracks:
            if track.key not in answers:
                answers[track.key] = Identified(track, int(pids[track.key] or 0), True, None)
        return [answers[track.key]._replace(track=track) for track in tracks]

    def _known_people(self, rows: np.ndarray) -> list[_Person]:
        """Return the people of the gallery of whom at least one entry is similar enough to a row."""
        if not len(rows) or not len(self.gallery):
            return []
        hits = [hit for some in self.gallery.search(rows, _HITS) for hit in some]
        pids = {hit.entry.pid for hit in hits if hit.score >= self.threshold}
        people = []
        for pid in sorted(pid for pid in pids if pid is not None and pid >= 0):
            entries = self.gallery.entries(Filter(pids=(pid,)))
            entries.sort(key=lambda entry: -math.inf if entry.time is None else entry.time)
            newest = self.gallery.embeddings([entry.key for entry in entries[-_NEWEST:]])
            stays = [stay for entry in entries if (stay := self._stay(entry))]
            people.append(_Person(newest.astype(np.float64).sum(axis=0), len(newest), stays, pid))
        return people

    def _stay(self, entry: Entry) -> tuple[str, float, float] | None:
        """Return camera, first and last time of an entry; None where they are unknown."""
        camera = self.gallery.info.camera_name(entry.camera)
        if entry.time is None or not camera:
            return None
        return (camera, *(times_of_key(entry.key) or (entry.time, entry.time)))

    def _join(self, people: list[_Person], known: int) -> None:
        """Join the most similar people until none are similar enough; joined ones have no tracks left."""
        count = len(people)
        if count == 0:
            return
        totals = np.stack([person.total for person in people])
        sizes = np.array([person.count for person in people], np.float64)
        similarity = (totals @ totals.T) / np.outer(sizes, sizes)
        np.fill_diagonal(similarity, -np.inf)
        similarity[:known, :known] = -np.inf
        for one in range(count):
            for other in np.flatnonzero(similarity[one, :one] >= self.threshold).tolist():
                if self._impossible(people[one], people[other]):
                    similarity[one, other] = similarity[other, one] = -np.inf
        while True:
            place = int(np.argmax(similarity))
            one, other = sorted(divmod(place, count))
            if similarity[one, other] < self.threshold:
                return
            kept, gone = people[one], people[other]
            if self._impossible(kept, gone):
                similarity[one, other] = similarity[other, one] = -np.inf
                continue
            kept.total, kept.count = kept.total + gone.total, kept.count + gone.count
            kept.stays, kept.tracks = kept.stays + gone.stays, kept.tracks + gone.tracks
            gone.tracks = []
            totals[one], sizes[one] = kept.total, kept.count
            # What was impossible with one of the two is impossible with both together.
            never = np.isneginf(similarity[one]) | np.isneginf(similarity[other])
            row = (totals @ kept.total) / (sizes * kept.count)
            row[never] = -np.inf
            similarity[one], similarity[:, one] = row, row
            similarity[other], similarity[:, other] = -np.inf, -np.inf

    def _impossible(self, one: _Person, other: _Person) -> bool:
        return any(self._conflict(here, there) for here in one.stays for there in other.stays)

    def _conflict(self, here: tuple[str, float, float], there: tuple[str, float, float]) -> bool:
        """Return whether one person cannot have been at both."""
        between = max(there[1] - here[2], here[1] - there[2])
        if here[0] == there[0]:
            return between <= 0
        pair = frozenset((here[0], there[0]))
        if pair in self._overlapping:
            return False
        travel = self._travel.get(pair, 0.0)
        return between < travel if travel else between <= 0

    def _next_pid(self) -> int:
        """Return an identity that the gallery does not have."""
        if not self._next:
            self._next = max(self.gallery.pids(), default=-1) + 1
        while self.gallery.entries(Filter(pids=(self._next,)), limit=1):  # another process was here
            self._next += 1
        return self._next

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time give identities; galleries in Milvus have no folder to lock."""
        if not Path(self.gallery.name).is_dir():
            yield
            return
        with file_lock(Path(self.gallery.name) / "index.lock-people", wait=True):
            yield


def similarity_threshold(calibration: Calibration, false_accept_rate: float = 1e-3) -> float:
    """Return the cosine similarity for a false accept rate of an encoder's calibration.

    Args:
        calibration: of the encoder, such as `read_calibration("saved_models/market/1")`.
        false_accept_rate: share of pairs of different people that are taken for one; one of the calibration's
            operating points.

    Raises:
        UserError: the calibration has no threshold for this rate, or is of embeddings of any length.

    Example:
        >>> similarity_threshold(read_calibration("saved_models/market/1"), 1e-3)
        0.61
    """
    points = {point.far: point.threshold for point in calibration.operating_points}
    threshold = points.get(false_accept_rate)
    if threshold is None:
        told = ", ".join(f"{far:g}" for far, known in points.items() if known is not None) or "none"
        raise UserError(
            f"The calibration has no threshold for a false accept rate of {false_accept_rate:g}; it has "
            f"{told}: choose one, or give a threshold."
        )
    if calibration.metric == "cosine":
        return 1.0 - threshold
    if not calibration.normalized:
        raise UserError("The calibration is of embeddings of any length; give a cosine similarity instead.")
    return 1.0 - threshold / 2.0  # the squared distance of embeddings of length 1


def _pair(names: Sequence[str]) -> frozenset[str]:
    if isinstance(names, str) or len(names) != 2 or len(set(names)) != 2:
        raise UserError(f'A pair of cameras is two names, such as ("door", "hall"); received {names!r}.')
    return frozenset(names)


def _stacked(tracks: Sequence[Track], gallery: Gallery) -> np.ndarray:
    if not tracks:
        return np.empty((0, gallery.info.size), np.float32)
    sizes = {np.shape(track.embedding) for track in tracks}
    if len(sizes) > 1 or len(next(iter(sizes))) != 1:
        raise UserError("The tracks have embeddings of different encoders; give those of one.")
    return np.stack([track.embedding for track in tracks])
