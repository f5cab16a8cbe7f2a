"""HTTP API of a gallery for other programs: search, list, add and delete, described by OpenAPI.

Its paths begin with `/api/v1`, so that a later version can stand beside it.
`/healthz` says whether the gallery answers, and `/metrics` counts requests for Prometheus.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, exposition
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.page.guard import API, ASSETS, DOCS, HEALTH, METRICS, OPENAPI, scope_of
from san_tf.page.questions import RefusedError
from san_tf.page.service import GoneError, PageService
from san_tf.retrieval.entries import Entry, Filter, Hit, checked_embeddings, checked_entry, checked_filter
from san_tf.retrieval.filter_flags import unknown_values
from san_tf.retrieval.gallery import FIRST_NAMED, Candidate, Gallery, Source, rerank
from san_tf.retrieval.name_reader import parse_time
from san_tf.version import __version__

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Answer = TypeVar("Answer")


class BusyError(RefusedError):
    """Too many requests wait already; the message is a sentence for the page."""


class TakenError(RefusedError):
    """The gallery holds such an entry already, or refuses it for good; the message is a sentence."""


class Turns:
    """Runs a limited number of requests in threads, in order of arrival."""

    def __init__(self, number: int, waiting: float = float("inf")) -> None:
        self._limiter = CapacityLimiter(number)
        self._number, self._waiting, self._here = number, waiting, 0

    async def take(self, request: Request, work: Callable[..., Answer], *values: Any) -> Answer:
        """Return what `work` returns for the values, in a thread.

        Raises:
            BusyError: too many requests wait.
            RefusedError: the client does not wait any more.
        """
        if self._here >= self._number + self._waiting:
            raise BusyError("Too many requests are waiting already; try again in a moment.")
        self._here += 1
        try:
            async with self._limiter:
                # A page that was scrolled on or closed no longer waits for its pictures.
                if await request.is_disconnected():
                    raise RefusedError("The browser closed the connection.")
                return await to_thread.run_sync(work, *values)
        finally:
            self._here -= 1


def entry_facts(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON values, without its path."""
    return {
        "key": entry.key,
        "camera": None if entry.camera < 0 else entry.camera,
        "time": time_of(entry),
        "pid": entry.pid,
        "tags": list(entry.tags),
        "picture": bool(entry.image),
    }


def written_time(seconds: float) -> str:
    """Return a time (seconds since 1970) in ISO 8601, UTC; the number itself outside the calendar.

    Example:
        >>> written_time(1767225600.0)
        '2026-01-01T00:00:00Z'
    """
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return f"{seconds:g}"
    text = moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def time_of(entry: Entry) -> float | None:
    """Return the entry's time; None where it is unknown or not finite."""
    return entry.time if entry.time is not None and math.isfinite(entry.time) else None


def as_text(facts: Mapping[str, Any], indent: int | None = None) -> str:
    """Return JSON values as text."""
    return json.dumps(facts, indent=indent, ensure_ascii=False, allow_nan=False)


def as_bytes(text: str) -> bytes:
    """Return text in UTF-8; a lone surrogate becomes an escape that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def json_answer(
    facts: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return JSON values as an answer."""
    return Response(as_bytes(as_text(facts)), status, headers, media_type="application/json")


# Requests: the same names in a query string and in JSON.

_Text = Annotated[str, Field(min_length=1, max_length=4096)]
_Camera = Annotated[int | str, Field(description="name of a camera, or its number")]
_Id = Annotated[int, Field(ge=-1, lt=2**62)]
_Time = Annotated[
    FiniteFloat | str, Field(description="ISO 8601, such as 2026-01-31T08:30Z, or seconds since 1970 (UTC)")
]
_Similarity = Annotated[float, Field(ge=-1, le=1)]
_Share = Annotated[float, Field(gt=0, lt=1)]


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")


# For JSON, where `true` is not a number and "true" is not `true`. In a query string everything is text.
_STRICT = ConfigDict(extra="forbid", strict=True)


class Conditions(_Question):
    """Which entries count: those that meet all conditions; empty ones are ignored."""

    cameras: Annotated[list[_Camera], Field(max_length=1000, description="one of these cameras")] = []
    excluded_cameras: Annotated[list[_Camera], Field(max_length=1000, description="none of these")] = []
    since: Annotated[_Time | None, Field(description="from this time on")] = None
    until: Annotated[_Time | None, Field(description="before this time")] = None
    tags: Annotated[list[_Text], Field(max_length=64, description="all of these tags")] = []
    pids: Annotated[list[_Id], Field(max_length=1000, description="one of these identities")] = []

    def filter(self, gallery: Gallery) -> Filter:
        """Return the gallery's filter.

        Raises:
            RefusedError: a time cannot be read, or the gallery has no such camera, tag or identity.
        """
        with refusing():
            since, until = (
                None if moment is None else _seconds(moment) for moment in (self.since, self.until)
            )
            if since is not None and until is not None and since >= until:
                raise RefusedError("`since` is not before `until`; exchange them.")
            numbers = [
                tuple(_camera_number(gallery, camera) for camera in cameras)
                for cameras in (self.cameras, self.excluded_cameras)
            ]
            where = Filter(numbers[0], numbers[1], since, until, tuple(self.tags), tuple(self.pids))
            checked_filter(where)
        if unknown := unknown_values(gallery, where):
            raise RefusedError(f"The gallery has no {unknown[0]}; GET {API}/gallery tells what it has.")
        return where


class Ranking(Conditions):
    """How many hits to return, and which."""

    top: Annotated[int, Field(ge=1, le=1000, description="most hits")] = 20
    rerank: Annotated[
        int, Field(ge=0, le=1000, description="first hits to re-rank among themselves; 0 for none")
    ] = 0
    min_score: Annotated[_Similarity | None, Field(description="only hits of this similarity or more")] = None
    min_probability: Annotated[
        float | None, Field(ge=0, le=1, description="only hits that show the same person so probably")
    ] = None
    prior: Annotated[
        _Share | None,
        Field(description="how often a pair shows the same person here; by default that of the calibration"),
    ] = None


_Embedding = Annotated[
    list[FiniteFloat], Field(min_length=1, max_length=2**16, description="by the gallery's encoder")
]


class Search(Ranking):
    """A search by an entry of the gallery, or by an embedding; give one of them."""

    model_config = _STRICT
    key: Annotated[_Text | None, Field(description="key of the entry that is the query")] = None
    embedding: _Embedding | None = None

    @model_validator(mode="after")
    def _one_query(self) -> Search:
        if (self.key is None) == (self.embedding is None):
            raise ValueError("give either `key` or `embedding`")
        return self


class Part(Conditions):
    """A part of the gallery, in the order of its keys."""

    start: Annotated[int, Field(ge=0, lt=2**62, description="entries to skip")] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="most entries")] = 100


class NewEntry(_Question):
    """An entry to add."""

    key: Annotated[_Text, Field(description="unique in the gallery")]
    camera: Annotated[
        _Camera | None, Field(description="name of the camera, new or known, or its number")
    ] = None
    time: _Time | None = None
    pid: _Id | None = None
    tags: Annotated[list[_Text], Field(max_length=64)] = []


class NewPicture(NewEntry):
    """An entry to add by its picture."""

    replace: Annotated[bool, Field(description="replace an entry of the same key")] = False


class NewRow(NewEntry):
    """An entry to add by its embedding."""

    model_config = _STRICT
    embedding: _Embedding


class NewRows(_Question):
    """Entries to add by their embeddings, all or none."""

    model_config = _STRICT
    entries: Annotated[list[NewRow], Field(min_length=1, max_length=1000)]
    replace: Annotated[bool, Field(description="replace entries of the same keys")] = False


class Deletion(Conditions):
    """What to delete: keys, the entries that meet conditions, or `everything`; give one of them."""

    model_config = _STRICT
    keys: Annotated[list[_Text], Field(max_length=10_000)] = []
    everything: bool = False
    dry_run: Annotated[bool, Field(description="only tell what would be deleted")] = False


class PictureDeletion(Conditions):
    """What to delete: entries that look like the picture and meet the conditions."""

    min_score: Annotated[float, Field(ge=-1, le=1, description="of this similarity or more")]
    dry_run: Annotated[bool, Field(description="only tell what would be deleted")] = False


# Answers, for the description.


class OneEntry(BaseModel):
    """An entry; what is unknown is null."""

    key: str
    camera: int | None
    camera_name: str | None
    time: Annotated[float | None, Field(description="seconds since 1970, UTC")]
    written_time: Annotated[str | None, Field(description="the same time in ISO 8601")]
    pid: int | None
    tags: list[str]
    picture: Annotated[bool, Field(description="whether it has a picture")]


class OneHit(OneEntry):
    """A hit."""

    rank: int
    score: Annotated[float, Field(description="cosine similarity, in [-1, 1]")]
    probability: Annotated[
        float | None, Field(description="of showing the same person; null without a calibration")
    ]


class Hits(BaseModel):
    """Hits, best first; the query itself is not among them."""

    hits: list[OneHit]


class Entries(BaseModel):
    """Entries in the order of their keys, and the number of all entries of the gallery."""

    entries: list[OneEntry]
    total: int


class AddedKeys(BaseModel):
    """Keys that were added."""

    added: list[str]


class DeletedKeys(BaseModel):
    """Keys that are deleted for good, or would be; at most the first 1,000 are named."""

    deleted: int
    keys: list[str]
    dry_run: bool


class Threshold(BaseModel):
    """Accept pairs of this similarity or more; null where no threshold meets the rate."""

    false_accept_rate: float
    min_score: float | None
    true_accept_rate: float
    note: str


class About(BaseModel):
    """The gallery, its encoder and what it has."""

    name: str
    entries: int
    model: str
    fingerprint: str
    dimensions: int
    cameras: dict[str, str]
    tags: list[str]
    writable: bool
    upload_bytes: int
    prior: Annotated[float | None, Field(description="of the calibration; null without one")]
    thresholds: list[Threshold]


class Error(BaseModel):
    """Why a request was refused, in a sentence."""

    error: str


class Health(BaseModel):
    """The gallery answers."""

    status: str


@contextmanager
def refusing() -> Iterator[None]:
    """Turn messages about a request's values, which name no path, into refusals."""
    try:
        yield
    except RefusedError:
        raise
    except UserError as error:
        raise RefusedError(str(error)) from error


def _seconds(moment: float | str) -> float:
    # As text, so that milliseconds are recognised in numbers, too.
    return parse_time(moment if isinstance(moment, str) else repr(moment))


def _camera_number(gallery: Gallery, camera: int | str) -> int:
    number = gallery.info.camera_number(str(camera))
    if number is None:
        gallery.cameras()  # learns the names that were added since
        number = gallery.info.camera_number(str(camera))
    if number is None:
        raise RefusedError(
            f"The gallery has no camera {str(camera)[:80]!a}; GET {API}/gallery tells what it has."
        )
    return number


_NAMED = 1000


class GalleryApi:
    """What the API does, independent of HTTP.

    Args:
        service: the gallery and its encoder.
        calibration: of the encoder; None for no probabilities.
        upload_bytes: largest size of a picture.
    """

    def __init__(self, service: PageService, calibration: Calibration | None, upload_bytes: int) -> None:
        self._service, self._upload_bytes = service, upload_bytes
        self._calibration = calibration

    def about(self, writable: bool) -> dict[str, Any]:
        """Return the facts about the gallery."""
        gallery, network = self._service.gallery, self._service.network
        known = self._calibration
        return {
            "name": self._service.name,
            "entries": len(gallery),
            "model": network.name,
            "fingerprint": network.fingerprint,
            "dimensions": network.size,
            "cameras": {str(number): gallery.info.camera_name(number) for number in gallery.cameras()},
            "tags": gallery.tags()[:_NAMED],
            "writable": writable,
            "upload_bytes": self._upload_bytes,
            "prior": None if known is None else known.prior,
            "thresholds": [
                {
                    "false_accept_rate": point.far,
                    "min_score": None if point.threshold is None else 1.0 - point.threshold / self._unit,
                    "true_accept_rate": point.tar,
                    "note": point.note,
                }
                for point in (() if known is None else known.operating_points)
            ],
        }

    def part(self, wanted: Part) -> dict[str, Any]:
        """Return a part of the gallery."""
        gallery = self._service.gallery
        entries = gallery.entries(wanted.filter(gallery), wanted.start, wanted.limit)
        return {"entries": [self._facts(gallery, entry) for entry in entries], "total": len(gallery)}

    def entry(self, key: str) -> dict[str, Any]:
        """Return an entry by its key."""
        gallery = self._service.gallery
        return self._facts(gallery, self._known(gallery, [key])[0].entry)

    def search(self, wanted: Search) -> dict[str, Any]:
        """Return the hits of an entry or an embedding."""
        gallery = self._service.gallery
        if wanted.key is not None:
            row = self._known(gallery, [wanted.key])[0].embedding
        else:
            row = self._checked([wanted.embedding])[0]
        return self._hits(row, wanted, wanted.key)

    def search_picture(self, content: bytes, wanted: Ranking) -> dict[str, Any]:
        """Return the hits of a picture."""
        return self._hits(self._service.network.embed(content), wanted, None)

    def add_picture(self, content: bytes, wanted: NewPicture) -> dict[str, Any]:
        """Add an entry by its picture, which is not kept."""
        row = self._service.network.embed(content)
        return self._add(row[None], [wanted], wanted.replace, [content])

    def add_rows(self, wanted: NewRows) -> dict[str, Any]:
        """Add entries by their embeddings."""
        rows = self._checked([entry.embedding for entry in wanted.entries])
        return self._add(rows, wanted.entries, wanted.replace, None)

    def delete(self, wanted: Deletion) -> dict[str, Any]:
        """Delete entries for good, or tell which would be deleted."""
        bare = Conditions(**wanted.model_dump(include=set(Conditions.model_fields)))
        if [bool(wanted.keys), bare != Conditions(), wanted.everything].count(True) != 1:
            raise RefusedError("Name what to delete: give either `keys`, conditions, or `everything`.")
        with self._service.open_to_change() as gallery:
            if wanted.keys:
                keys = list(dict.fromkeys(wanted.keys))
                self._known(gallery, keys)
                return self._delete(gallery, keys, wanted.dry_run)
            where = bare.filter(gallery)
            keys = [entry.key for entry in gallery.entries(where)]
            if not keys and not wanted.everything:
                raise GoneError("No entry meets these conditions, so nothing was deleted.")
            if wanted.dry_run:
                return self._delete(gallery, keys, True)
            # Not by the keys: entries that others add meanwhile count, too.
            number = gallery.delete(where=where)
            self._forget()
            return {"deleted": number, "keys": keys[:_NAMED], "dry_run": False}

    def delete_picture(self, content: bytes, wanted: PictureDeletion) -> dict[str, Any]:
        """Delete, for good, the entries that look like a picture."""
        row = self._service.network.embed(content)
        with self._service.open_to_change() as gallery:
            hits = gallery.similar(row, wanted.min_score, wanted.filter(gallery))
            if not hits:
                raise GoneError("No entry has such a similarity to the picture, so nothing was deleted.")
            return self._delete(gallery, [hit.entry.key for hit in hits], wanted.dry_run)

    def check(self) -> None:
        """Raise an error unless the gallery answers."""
        self._service.gallery.entries(limit=1)

    def count(self) -> float:
        """Return the number of entries; NaN if the gallery does not answer."""
        try:
            return float(len(self._service.gallery))
        except UserError:
            return math.nan

    @property
    def _unit(self) -> float:
        """Distance of the calibration's metric for a similarity of 0: of embeddings of length 1."""
        return 1.0 if self._calibration is None or self._calibration.metric == "cosine" else 2.0

    def _facts(self, gallery: Gallery, entry: Entry) -> dict[str, Any]:
        time = time_of(entry)
        if entry.camera - FIRST_NAMED >= len(gallery.info.cameras):
            gallery.cameras()  # learns the names that were added since
        return {
            **entry_facts(entry),
            "camera_name": gallery.info.camera_name(entry.camera) if entry.camera >= FIRST_NAMED else None,
            "written_time": None if time is None else written_time(time),
        }

    def _known(self, gallery: Gallery, keys: Sequence[str]) -> list[Candidate]:
        found = gallery.lookup(keys)
        unknown = [key for key in keys if key not in found]
        if unknown:
            more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
            raise GoneError(
                f"The gallery holds no entry {unknown[0][:200]!a}{more}; GET {API}/entries lists them."
            )
        return [found[key] for key in keys]

    def _checked(self, rows: Sequence[Sequence[float] | None]) -> np.ndarray:
        size = self._service.network.size
        for number, row in enumerate(rows):
            if row is None or len(row) != size:
                raise RefusedError(
                    f"Embedding {number} has {len(row or ())} numbers, and those of this gallery have "
                    f"{size}; use its encoder."
                )
        with refusing(), np.errstate(over="ignore"):
            return checked_embeddings(self._service.name, size, np.asarray(rows, np.float64))

    def _hits(self, row: np.ndarray, wanted: Ranking, own: str | None) -> dict[str, Any]:
        if self._calibration is None and (wanted.min_probability, wanted.prior) != (None, None):
            raise RefusedError(
                "The gallery's encoder has no calibration, so nothing is known about probabilities; leave "
                "out `min_probability` and `prior`."
            )
        gallery = self._service.gallery
        count = max(wanted.top, wanted.rerank) + (own is not None)
        hits = gallery.search(row[None], count, wanted.filter(gallery))[0]
        hits = [hit for hit in hits if hit.entry.key != own]
        if wanted.rerank:
            hits = [*rerank(gallery, row, hits[: wanted.rerank]), *hits[wanted.rerank :]]
        chances = self._probabilities(hits, wanted.prior)
        return {
            "hits": [
                {
                    "rank": rank,
                    **self._facts(gallery, hit.entry),
                    "score": round(hit.score, 6),
                    "probability": None if chance is None else float(f"{chance:.6g}"),
                }
                for rank, (hit, chance) in enumerate(zip(hits[: wanted.top], chances, strict=False), 1)
                if (wanted.min_score is None or hit.score >= wanted.min_score)
                and (wanted.min_probability is None or (chance or 0.0) >= wanted.min_probability)
            ]
        }

    def _probabilities(self, hits: Sequence[Hit], prior: float | None) -> list[float | None]:
        if self._calibration is None:
            return [None] * len(hits)
        # The gallery's embeddings have length 1, so both metrics follow from the similarity.
        distances = self._unit * (1.0 - np.array([hit.score for hit in hits], np.float64))
        found: list[float | None] = self._calibration.probability(distances, prior).tolist()
        return found

    def _add(
        self, rows: np.ndarray, wanted: Sequence[NewEntry], replace: bool, contents: Sequence[bytes] | None
    ) -> dict[str, Any]:
        keys = [entry.key for entry in wanted]
        if len(set(keys)) != len(keys):
            raise RefusedError("Two of the entries have the same key; give each its own.")
        with refusing():
            times = [None if entry.time is None else _seconds(entry.time) for entry in wanted]
            entries = [
                checked_entry(Entry(entry.key, "", -1, time, entry.pid, tuple(entry.tags)))
                for entry, time in zip(wanted, times, strict=True)
            ]
            names = [_camera_of(entry.camera) for entry in wanted]
        with self._service.open_to_change() as gallery:
            hashes = [gallery.hash_of(content) for content in contents or ()]
            deleted = gallery.deleted(keys, hashes)
            if buried := [key for key in keys if key in deleted.keys]:
                raise TakenError(
                    f"{buried[0]!a} was deleted from the gallery for good; `san-tf gallery lift` allows it."
                )
            if deleted.contents:
                raise TakenError(
                    "This picture was deleted from the gallery for good; `san-tf gallery lift` allows it."
                )
            if not replace and (taken := gallery.known(keys)):
                raise TakenError(
                    f"The gallery holds an entry {min(taken)!a} already; give another key, or `replace`."
                )
            numbers = [gallery.name_camera(name) if isinstance(name, str) else name for name in names]
            complete = [
                Entry(entry.key, "", number, entry.time, entry.pid, entry.tags)
                for entry, number in zip(entries, numbers, strict=True)
            ]
            sources = [Source(content=digest) for digest in hashes] if contents else None
            gallery.add(rows, complete, sources)
        return {"added": keys}

    def _delete(self, gallery: Gallery, keys: Sequence[str], dry_run: bool) -> dict[str, Any]:
        number = len(keys) if dry_run else gallery.delete(keys)
        if not dry_run:
            self._forget()
        return {"deleted": number, "keys": list(keys[:_NAMED]), "dry_run": dry_run}

    def _forget(self) -> None:
        if self._service.after_deletion is not None:
            self._service.after_deletion()


def _camera_of(camera: int | str | None) -> int | str:
    """Return the number of a camera, or its name; numbers may be given as text."""
    if camera is None:
        return -1
    text = str(camera)
    if text.lstrip("-").isdecimal() and text.isascii():
        number = int(text) if len(text) < 20 else 2**62
        checked_filter(Filter(cameras=(number,)))
        return number
    if not text.isprintable() or not 0 < len(text) <= 200 or text != text.strip():
        raise RefusedError(
            "The name of a camera is 1 to 200 printable letters without blanks around them; give another."
        )
    return text


class Metrics:
    """Counters for Prometheus.

    Args:
        entries: returns the number of entries.
        paths: the paths with a line of their own; others are counted together.
    """

    def __init__(self, entries: Callable[[], float], paths: Sequence[str]) -> None:
        self._paths = frozenset(paths)
        self._entries = entries
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("method", "path", "status")
        self._requests = Counter("san_tf_requests", "Answered requests.", labels, registry=self._registry)
        self._seconds = Histogram(
            "san_tf_request_seconds", "Time from the head of a request to the end of its answer.", ("path",),
            registry=self._registry, buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self._size = Gauge("san_tf_gallery_entries", "Entries of the gallery.", registry=self._registry)

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        if path not in self._paths:
            path = ASSETS if path.startswith(ASSETS) else "other"
        method = method if method in ("GET", "HEAD", "POST", "DELETE") else "other"
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all counters in Prometheus's text format."""
        self._size.set(self._entries())
        found: bytes = exposition.generate_latest(self._registry)
        return found


_PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "application/octet-stream")
        },
    }
}
_REASONS = {
    400: "A value cannot be used.",
    401: "A valid token is needed.",
    403: "The token does not allow this, or the request comes from another site.",
    404: "The gallery does not hold this.",
    409: "The key is taken, or was deleted for good.",
    413: "The request is too large.",
    415: "The body is of another type.",
    422: "The request is not valid.",
    429: "Too many requests came in a short time.",
    503: "The gallery cannot answer now.",
}


def _answers(model: type[BaseModel], *more: int) -> dict[int | str, dict[str, Any]]:
    told = (400, 401, 403, 422, 429, 503, *more)
    return {
        200: {"model": model},
        **{code: {"model": Error, "description": _REASONS[code]} for code in sorted(told)},
    }


# Values that may be given more than once.
_LISTS = frozenset({"cameras", "excluded_cameras", "tags", "pids"})


class _JsonRequest(Request):
    """A request whose JSON may name no value twice: the first would be overlooked."""

    async def json(self) -> Any:
        body = (await self.body()).decode(json.detect_encoding(await self.body()))

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) != len(pairs):
                raise json.JSONDecodeError("a name is given twice", body, 0)
            return found

        return json.loads(body, object_pairs_hook=once)


class StrictRoute(APIRoute):
    """A route that takes no JSON with a name given twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, which gets a stricter request."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return answer


async def refuse_overlooked(
    request: Request, names: Sequence[str], lists: frozenset[str] = frozenset()
) -> None:
    """Refuse query parameters that a path does not have, repeated ones, and a body that nobody reads.

    Args:
        request: the request.
        names: the path's query parameters.
        lists: those that may be repeated.
    """
    method, path = request.method, request.url.path
    given = [name for name, _ in request.query_params.multi_items()]
    for name in dict.fromkeys(given):
        if name not in names:
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise RefusedError(f"{method} {path} has no parameter {name[:80]!a}; {has}.")
        if given.count(name) > 1 and name not in lists:
            raise RefusedError(f"The parameter {name} is given twice; give it once.")
    if method != "POST" and await request.body():
        raise RefusedError(f"{method} {path} takes no body; give its values in the address.")


class Lanes(NamedTuple):
    """Requests of each kind that run in parallel."""

    questions: Turns
    pictures: Turns
    encoded: Turns
    changes: Turns


def add_api(app: FastAPI, api: GalleryApi, service: PageService, lanes: Lanes, writable: bool) -> list[str]:
    """Add the API to the application, and return its paths.

    Args:
        app: the application.
        api: what the API does.
        service: the gallery, for its pictures.
        lanes: see `Lanes`.
        writable: whether entries may be added or deleted, to tell.
    """
    described: dict[str, Any] = {}

    async def nothing_is_overlooked(request: Request) -> None:
        # A mistyped `dry_run` must not delete, and of two keys the first must not be left out.
        operation = described.get(request.url.path, {}).get(request.method.lower(), {})
        names = [each["name"] for each in operation.get("parameters", ())]
        await refuse_overlooked(request, names, _LISTS)

    router = APIRouter(prefix=API, route_class=StrictRoute, dependencies=[Depends(nothing_is_overlooked)])
    questions, pictures, encoded, changes = lanes

    @router.get("/gallery", responses=_answers(About), tags=["gallery"])
    async def about(request: Request) -> Response:
        """Tell about the gallery.

        Its size and encoder, its cameras by number and its tags, and the thresholds of its calibration.
        """
        return json_answer(await questions.take(request, api.about, writable))

    @router.get("/entries", responses=_answers(Entries), tags=["entries"])
    async def part(request: Request, wanted: Annotated[Part, Query()]) -> Response:
        """List entries.

        They come in the order of their keys, at most 1,000 at a time.
        """
        return json_answer(await questions.take(request, api.part, wanted))

    @router.get("/entry", responses=_answers(OneEntry, 404), tags=["entries"])
    async def entry(request: Request, key: Annotated[str, Query(max_length=4096)]) -> Response:
        """Return an entry by its key."""
        return json_answer(await questions.take(request, api.entry, key))

    @router.get("/picture", responses=_answers(Error, 404), tags=["entries"])
    async def picture(request: Request, key: Annotated[str, Query(max_length=4096)]) -> Response:
        """Return the picture of an entry.

        It is a JPEG or PNG file of at most 512 pixels each way, without metadata.
        """
        content, kind = await pictures.take(request, service.picture, key)
        return Response(content, media_type=kind)

    @router.post("/search", responses=_answers(Hits, 404), tags=["search"])
    async def search(request: Request, wanted: Search) -> Response:
        """Search by an entry or an embedding."""
        return json_answer(await questions.take(request, api.search, wanted))

    @router.post(
        "/search/picture", responses=_answers(Hits, 413, 415), openapi_extra=_PICTURE_BODY, tags=["search"]
    )
    async def search_picture(request: Request, wanted: Annotated[Ranking, Query()]) -> Response:
        """Search by a picture.

        The picture is the body of the request. It is not kept.
        """
        content = await request.body()
        return json_answer(await encoded.take(request, api.search_picture, content, wanted))

    @router.post("/entries", responses=_answers(AddedKeys, 409, 413, 415), tags=["entries"])
    async def add(request: Request, wanted: NewRows) -> Response:
        """Add entries by their embeddings, all or none.

        The embeddings must be by the gallery's encoder.
        """
        return json_answer(await changes.take(request, api.add_rows, wanted))

    @router.post(
        "/entries/picture",
        responses=_answers(AddedKeys, 409, 413, 415),
        openapi_extra=_PICTURE_BODY,
        tags=["entries"],
    )
    async def add_picture(request: Request, wanted: Annotated[NewPicture, Query()]) -> Response:
        """Add an entry by its picture.

        The picture is the body of the request. Its embedding is kept, and the picture is not.
        """
        content = await request.body()
        return json_answer(await changes.take(request, api.add_picture, content, wanted))

    @router.delete("/entry", responses=_answers(DeletedKeys, 404), tags=["delete"])
    async def delete_entry(
        request: Request, key: Annotated[str, Query(max_length=4096)], dry_run: bool = False
    ) -> Response:
        """Delete an entry for good.

        The same key, or the same file under another key, is refused from then on.
        """
        wanted = Deletion(keys=[key], dry_run=dry_run) if key else Deletion()
        return json_answer(await changes.take(request, api.delete, wanted))

    @router.post("/delete", responses=_answers(DeletedKeys, 404), tags=["delete"])
    async def delete(request: Request, wanted: Deletion) -> Response:
        """Delete entries for good: by keys, or by conditions.

        A key, camera, tag or identity that the gallery does not have is refused, and nothing is deleted.
        """
        return json_answer(await changes.take(request, api.delete, wanted))

    @router.post(
        "/delete/picture",
        responses=_answers(DeletedKeys, 404, 413, 415),
        openapi_extra=_PICTURE_BODY,
        tags=["delete"],
    )
    async def delete_picture(request: Request, wanted: Annotated[PictureDeletion, Query()]) -> Response:
        """Delete, for good, the entries that look like a picture.

        Every entry is measured. Search first, to see which similarity shows the same person.
        """
        content = await request.body()
        return json_answer(await changes.take(request, api.delete_picture, content, wanted))

    app.include_router(router)
    schema = _described(router)
    described |= schema["paths"]
    page = api_page(schema).encode()

    @app.get(OPENAPI)
    async def openapi() -> Response:
        return json_answer(schema)

    @app.get(DOCS)
    async def docs() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get(HEALTH)
    async def health(request: Request) -> Response:
        await questions.take(request, api.check)
        return json_answer({"status": "ok"})

    return [*schema["paths"], OPENAPI, DOCS, HEALTH, METRICS]


def _described(router: APIRouter) -> dict[str, Any]:
    """Return the description of the API: FastAPI's, with this API's errors, scopes and kinds of answers."""
    schema = get_openapi(
        title="Gallery of san_tf",
        version=__version__,
        summary="Find the same person again: search, list, add and delete entries of a gallery.",
        description=(
            "Every error is a JSON object with a sentence, `error`. Where the server was started with "
            "tokens, send one as `Authorization: Bearer TOKEN`; its scopes are read, write and delete. "
            "Requests beyond the rate limit get 429 with `Retry-After`. Similarities differ between encoders."
        ),
        routes=router.routes,
    )
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            scope = scope_of(method.upper(), path)
            operation["security"] = [{"token": []}, {}]
            operation["x-scope"] = scope
            operation["operationId"] = operation["operationId"].partition("_api_v1")[0]
    picture = schema["paths"][f"{API}/picture"]["get"]["responses"]["200"]
    binary = {"schema": {"type": "string", "format": "binary"}}
    picture["content"] = {"image/jpeg": binary, "image/png": binary}
    models = schema["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        models.pop(unused, None)
    schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return schema


def api_page(schema: Mapping[str, Any]) -> str:
    """Return the description as a page for people: plain HTML, without scripts.

    Args:
        schema: an OpenAPI description as from `add_api`.
    """
    models = schema["components"]["schemas"]

    def resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
        return models[part["$ref"].rpartition("/")[2]] if "$ref" in part else part

    def kind(part: Mapping[str, Any]) -> str:
        if "$ref" in part:
            return str(part["$ref"].rpartition("/")[2])
        if "anyOf" in part:
            return " or ".join(dict.fromkeys(kind(each) for each in part["anyOf"]))
        if part.get("type") == "array":
            return f"list of {kind(part.get('items', {}))}"
        if part.get("format") == "binary":
            return "file"
        return str(part.get("type", "any"))

    def limits(part: Mapping[str, Any]) -> str:
        words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
        found = [
            f"{word} {part[name]:,}" for name, word in words.items() if abs(part.get(name, 2**62)) < 2**62
        ]
        if part.get("default") not in (None, []):
            found.append(f"default {json.dumps(part['default'])}")
        return ", ".join(found)

    def meaning(part: Mapping[str, Any]) -> str:
        return "; ".join(filter(None, (part.get("description"), limits(part))))

    def table(fields: Sequence[tuple[str, Mapping[str, Any], bool]]) -> str:
        rows = "".join(
            f"<tr><td><code>{html.escape(name)}</code>{' <b>required</b>' if needed else ''}</td>"
            f"<td>{html.escape(kind(part))}</td><td>{html.escape(meaning(part))}</td></tr>"
            for name, part, needed in fields
        )
        return f"<table>{rows}</table>" if rows else ""

    def fields_of(part: Mapping[str, Any], given: bool = False) -> str:
        model = resolved(part)
        # An answer has all of its fields.
        needed = model.get("required", ()) if given else ()
        return table([(name, each, name in needed) for name, each in model.get("properties", {}).items()])

    sections = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            about, _, more = operation.get("description", "").partition("\n\n")
            parts = [
                f"<h2><b>{method.upper()}</b> <code>{html.escape(path)}</code> "
                f"<span>{html.escape(operation['x-scope'] or '')}</span></h2>"
                f"<p>{html.escape(about)} {html.escape(more)}</p>"
            ]
            if operation.get("parameters"):
                given = []
                for each in operation["parameters"]:
                    about = each.get("description") or each["schema"].get("description")
                    field = {**each["schema"], "description": about}
                    given.append((each["name"], field, each.get("required", False)))
                parts.append(f"<h3>Query</h3>{table(given)}")
            for media, body in operation.get("requestBody", {}).get("content", {}).items():
                parts.append(f"<h3>Body: {html.escape(media)}</h3>{fields_of(body['schema'], given=True)}")
            for status, answer in operation["responses"].items():
                for media, body in answer.get("content", {}).items():
                    if status == "200":
                        parts.append(f"<h3>Answer: {html.escape(media)}</h3>{fields_of(body['schema'])}")
            codes = " ".join(
                f"<li><code>{status}</code> {html.escape(answer['description'])}</li>"
                for status, answer in operation["responses"].items()
                if status != "200"
            )
            parts.append(f"<details><summary>Errors</summary><ul>{codes}</ul></details>")
            sections.append(f'<section class="panel">{"".join(parts)}</section>')
    shown = ("OneHit", "OneEntry", "NewRow", "Threshold")
    for name in (name for name in shown if name in models):
        about = html.escape(models[name].get("description", ""))
        sections.append(
            f'<section class="panel"><h2><code>{name}</code></h2><p>{about}</p>'
            f"{fields_of(models[name], given=name.startswith('New'))}</section>"
        )
    info = {
        name: re.sub("`(.*?)`", r"<code>\1</code>", html.escape(text))
        for name, text in schema["info"].items()
    }
    return f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>API: {info["title"]}</title>
  <link rel="icon" href="{ASSETS}icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="{ASSETS}page.css">
  <link rel="stylesheet" href="{ASSETS}api.css">
</head>
<body>
  <header class="top">
    <a class="home" href="/"><img src="{ASSETS}icon.svg" alt="" width="28" height="28"><span>san_tf</span></a>
    <p class="about"><strong>API</strong><span>version {info["version"]}</span></p>
  </header>
  <main class="api">
    <h1>{info["title"]}</h1>
    <p>{info["description"]} <a href="{OPENAPI}">OpenAPI</a></p>
    {"".join(sections)}
  </main>
</body>
</html>
"""
