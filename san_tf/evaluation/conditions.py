"""Scores under conditions: matches from another side, in another pose, or occluded.

One number hides whether an encoder recognises a person from behind or only finds the next frame of the same
view. Under a condition, only the true matches that fulfil it together with the query count. The other true
matches are removed like junk, and all images of other people stay. Queries without such a match are left out,
so each condition is a mean over different queries: compare methods under one condition, not conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.ranking import RankingResult, score_matches
from san_tf.evaluation.true_matches import TrueMatches
from san_tf.short_repr import ShortRepr

# Degrees of yaw: at most, and at least.
SAME_SIDE, OPPOSITE_SIDES = 60.0, 120.0
# Visibility: at least, and below. 5 % of the test images of synthetic_reid/tiny are below 0.85, and 25 % of
# its queries have a match where one of the two is. Both limits were fixed before any method was measured.
WHOLE, OCCLUDED = 0.9, 0.85


@dataclass(frozen=True, repr=False)
class Seen(ShortRepr):
    """How N images show their person.

    Attributes:
        yaw: `(N,)` degrees; 0 faces the camera, 90 shows the left side.
        pose: `(N,)` int or str: the person's pose.
        visibility: `(N,)` visible share of the person, in [0, 1].
    """

    yaw: np.ndarray
    pose: np.ndarray
    visibility: np.ndarray

    @classmethod
    def of(cls, extras: Mapping[str, np.ndarray]) -> Seen:
        """Take the columns of the same names from `extras`, such as `Records.extras`.

        Raises:
            UserError: a column is missing, as for photographs.
        """
        missing = [name for name in ("yaw", "pose", "visibility") if name not in extras]
        if missing:
            raise UserError(
                f"A breakdown by condition needs the column {missing[0]}, which these records lack; use a "
                "rendered data set, such as synthetic_reid."
            )
        return cls(*(np.asarray(extras[name]) for name in ("yaw", "pose", "visibility")))

    def at(self, indices: np.ndarray) -> Seen:
        """The images at these indices."""
        return Seen(self.yaw[indices], self.pose[indices], self.visibility[indices])


def yaw_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees in [0, 180] between two directions.

    Example:
        >>> float(yaw_difference(np.array(170.0), np.array(-170.0)))
        20.0
    """
    return np.abs((np.asarray(first, np.float64) - second + 180.0) % 360.0 - 180.0)


def _least(query: Seen, match: Seen) -> np.ndarray:
    return np.minimum(query.visibility, match.visibility)


# Each function takes the queries and matches of M pairs and returns `(M,)` bool.
CONDITIONS: Mapping[str, Callable[[Seen, Seen], np.ndarray]] = {
    "same side": lambda query, match: yaw_difference(query.yaw, match.yaw) <= SAME_SIDE,
    "quarter turn": lambda query, match: (
        (yaw_difference(query.yaw, match.yaw) > SAME_SIDE)
        & (yaw_difference(query.yaw, match.yaw) < OPPOSITE_SIDES)
    ),
    "opposite sides": lambda query, match: yaw_difference(query.yaw, match.yaw) >= OPPOSITE_SIDES,
    "same pose": lambda query, match: query.pose == match.pose,
    "different pose": lambda query, match: query.pose != match.pose,
    "both whole": lambda query, match: _least(query, match) >= WHOLE,
    "one occluded": lambda query, match: _least(query, match) < OCCLUDED,
}


def by_condition(
    ranked: TrueMatches,
    query: Seen,
    gallery: Seen,
    conditions: Mapping[str, Callable[[Seen, Seen], np.ndarray]] = CONDITIONS,
) -> dict[str, RankingResult | None]:
    """Measure a ranking once for each condition.

    All conditions share one ranking: the number of other people's images before a match does not depend on
    which matches count.

    Args:
        ranked: from `ranking.rank_matches`.
        query: how the Q queries show their person.
        gallery: likewise for the G gallery images.
        conditions: name -> function of the queries and matches of M pairs that returns `(M,)` bool.

    Returns:
        Name -> result; its `num_valid` counts the queries with such a match. None for a name without any.

    Raises:
        UserError: the columns do not fit the ranking.

    Example:
        >>> results = by_condition(ranked, Seen.of(query.extras), Seen.of(gallery.extras))
        >>> results["opposite sides"].mAP
        0.31
    """
    for name, seen, number in (
        ("query", query, len(ranked.query_pids)),
        ("gallery", gallery, len(ranked.gallery_pids)),
    ):
        for column, values in vars(seen).items():
            if np.shape(values) != (number,):
                raise UserError(
                    f"The {column} of the {name} images has shape {np.shape(values)}, but there are {number}"
                    " images; give one value per image."
                )
    asked, found = query.at(ranked.owners), gallery.at(ranked.matches)
    results: dict[str, RankingResult | None] = {}
    for name, holds in conditions.items():
        kept = holds(asked, found)
        results[name] = score_matches(ranked.only(kept)) if kept.any() else None
    return results
