"""Checked requests of the page."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from san_tf.errors import UserError
from san_tf.retrieval.entries import Filter

_Text = Annotated[str, Field(min_length=1, max_length=4096)]
_Number = Annotated[int, Field(ge=-1, lt=2**62)]


class RefusedError(UserError):
    """A request or picture cannot be used; the message is a sentence for the page, without paths.

    Other `UserError`s name paths. They go to the terminal, and the page never shows them.
    """


class Question(BaseModel):
    """Base of all requests: strict types, and no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Where(Question):
    """Which entries count; see `retrieval.entries.Filter`."""

    cameras: Annotated[list[_Number], Field(max_length=1000)] = []
    excluded_cameras: Annotated[list[_Number], Field(max_length=1000)] = []
    since: FiniteFloat | None = None
    until: FiniteFloat | None = None
    tags: Annotated[list[_Text], Field(max_length=64)] = []
    pids: Annotated[list[_Number], Field(max_length=1000)] = []

    def filter(self) -> Filter:
        """Return the gallery's filter."""
        return Filter(
            tuple(self.cameras),
            tuple(self.excluded_cameras),
            self.since,
            self.until,
            tuple(self.tags),
            tuple(self.pids),
        )


class Listing(Question):
    """A part of the gallery, in the order of its keys."""

    where: Where = Where()
    start: Annotated[int, Field(ge=0, lt=2**62)] = 0
    limit: Annotated[int, Field(ge=1, le=200)] = 60


class Search(Question):
    """A query, and the entries to search; give either `key` or `upload`.

    Attributes:
        key: key of the entry that is the query.
        upload: name of an uploaded picture, from the server.
        pid: identity in the uploaded picture, where known.
        top: number of hits.
        rerank: number of first hits to re-rank; 0 for none.
        where: which entries count.
    """

    key: _Text | None = None
    upload: _Text | None = None
    pid: _Number | None = None
    top: Annotated[int, Field(ge=1, le=200)] = 20
    rerank: Annotated[int, Field(ge=0, le=1000)] = 0
    where: Where = Where()

    @model_validator(mode="after")
    def _one_query(self) -> Search:
        if (self.key is None) == (self.upload is None):
            raise ValueError("name either a key or an upload")
        return self


_Told = Literal["yes", "no", "cannot tell"]


class Pairs(Question):
    """How many pairs to ask a person about."""

    count: Annotated[int, Field(ge=1, le=50)] = 10


class _TwoEntries(Question):
    first: _Text
    second: _Text

    @model_validator(mode="after")
    def _two(self) -> _TwoEntries:
        if self.first == self.second:
            raise ValueError("name two entries")
        return self


class NewAnswer(_TwoEntries):
    """A person's answer: do two entries show the same person?"""

    same: _Told


class AnswerUndone(_TwoEntries):
    """An answer that a person takes back.

    Attributes:
        given: the answer.
        before: what the same pair had before; None for no answer.
    """

    given: _Told
    before: _Told | None = None
