"""What the page asks, checked before anything is done."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from san_tf.errors import UserError
from san_tf.retrieval.entries import Filter

_Text = Annotated[str, Field(min_length=1, max_length=4096)]
_Number = Annotated[int, Field(ge=-1, lt=2**62)]


class RefusedError(UserError):
    """What was asked or sent cannot be used. The message is a sentence for the page: it names no path.

    Other `UserError`s are for the terminal, where the paths are wanted; the page never shows them.
    """


class Question(BaseModel):
    """Common to all: strict types, and nothing that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Where(Question):
    """Which entries count; see `retrieval.entries.Filter`."""

    cameras: Annotated[list[_Number], Field(max_length=1000)] = []
    excluded_cameras: Annotated[list[_Number], Field(max_length=1000)] = []
    since: FiniteFloat | None = None
    until: FiniteFloat | None = None
    tags: Annotated[list[_Text], Field(max_length=64)] = []

    def filter(self) -> Filter:
        """The gallery's own."""
        return Filter(
            tuple(self.cameras), tuple(self.excluded_cameras), self.since, self.until, tuple(self.tags)
        )


class Listing(Question):
    """A part of the gallery, in the order of its keys."""

    where: Where = Where()
    start: Annotated[int, Field(ge=0, lt=2**62)] = 0
    limit: Annotated[int, Field(ge=1, le=200)] = 60


class Search(Question):
    """Whom to look for, and among whom.

    Attributes:
        key: of the entry that is looked for, or
        upload: the name that the server gave an uploaded picture.
        pid: who is in the uploaded picture, where that is known.
        top: hits wanted.
        rerank: put so many of the first in a better order; 0 leaves the order.
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
            raise ValueError("name a key or an upload, one of both")
        return self
