"""The field's evaluation protocols, in one function.

| name | gallery | removed for a query | repeated |
|---|---|---|---|
| `market` | all images | junk; images of its identity under its camera | no |
| `cross-camera` | all images | junk; *all* images under its camera | no |
| `partial` | all images (whole bodies; queries are parts) | junk | no |
| `cuhk03` | one image per identity, drawn | as `market`, before the draw | yes |
| `vehicleid` | one image per identity, drawn from all; the other images are the queries | junk | yes |

Images of unknown cameras (-1) are never removed as same-camera images. `market` and `cuhk03` then also rank
easy images of the same moment, and give higher scores than with cameras. `cross-camera` refuses unknown
cameras. `partial` and `vehicleid` ignore cameras.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.counted_pairs import cameras_of_pairs
from san_tf.evaluation.distances import distance_blocks
from san_tf.evaluation.feature_set import UNKNOWN, Distances, FeatureSet, rows_per_block
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.ranking import MAX_RANK, RankingResult, evaluate_distances, evaluate_ranking
from san_tf.progress import with_bar
from san_tf.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class SingleShotHits(ShortRepr):
    """Scores of repeated draws.

    Attributes:
        cmc: `(repeats, 50)` float64 CMC of each draw.
        first: `(Q,)` float64 share of draws in which a query's first image is right; NaN without a match.
    """

    cmc: np.ndarray
    first: np.ndarray


def cuhk03_cmcs(
    blocks: Iterable[tuple[int, np.ndarray]],
    query_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray,
    repeats: int,
    rng: np.random.Generator,
) -> SingleShotHits:
    """Return the CMC of one gallery image per identity, drawn `repeats` times.

    A draw is a random order of the gallery, the same for all queries. The first image of each identity
    counts; of the query's identity, the first under another camera. So every draw is a possible gallery, and
    the curves vary as such galleries do. (Some toolkits draw anew for each query, with the same expectation.)
    Equal distances rank in gallery order.

    Args:
        blocks: pairs of the first query's index and `(rows, G)` distances.
        query_pids: `(Q,)` int.
        query_camids: `(Q,)` int, all known.
        gallery_pids: `(G,)` int.
        gallery_camids: `(G,)` int.
        repeats: number of draws.
        rng: generator of the draws.

    Raises:
        UserError: no query has an image of its identity under another camera.
    """
    draws = [_draw(gallery_pids, gallery_camids, rng) for _ in range(repeats)]
    identities = np.unique(gallery_pids[gallery_pids != -1])
    own = np.searchsorted(identities, query_pids)
    own[own == len(identities)] = 0
    known = (identities[own] == query_pids) if len(identities) else np.zeros(len(query_pids), bool)
    ranks = np.zeros((repeats, len(query_pids)), np.int64)
    for start, block in blocks:
        rows = np.flatnonzero(known[start : start + len(block)])
        identity, camids = own[start + rows], query_camids[start + rows]
        for draw, (first, elsewhere) in enumerate(draws):
            match = np.where(gallery_camids[first[identity]] != camids, first[identity], elsewhere[identity])
            valid = match >= 0
            row, right = rows[valid], match[valid]
            wanted = block[row, right][:, None]
            others = block[row[:, None], first]
            nearer = (others < wanted) | ((others == wanted) & (first < right[:, None]))
            nearer[np.arange(len(row)), identity[valid]] = False
            ranks[draw, start + row] = 1 + np.count_nonzero(nearer, axis=1)
    matched = ranks[0] > 0
    if not matched.any():
        raise UserError(
            "No query has an image of its identity under another camera; check that query and gallery belong "
            "together and that cameras differ."
        )
    found = ranks[:, matched, None] <= np.arange(1, MAX_RANK + 1)
    return SingleShotHits(found.mean(axis=1), np.where(matched, (ranks == 1).mean(axis=0), np.nan))


def vehicleid_draws(
    pids: np.ndarray, repeats: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices of the queries and of the gallery (one image per identity) of each draw.

    Args:
        pids: `(N,)` int identities of all images; junk (-1) is left out.
        repeats: number of draws.
        rng: generator of the draws.

    Raises:
        UserError: no identity has two images.
    """
    kept = np.flatnonzero(pids != -1)
    if len(np.unique(pids[kept])) == len(kept):
        raise UserError("No identity has two images, so there is nothing to find; give all test images.")
    for _ in range(repeats):
        order = rng.permutation(kept)
        _, position = np.unique(pids[order], return_index=True)
        drawn = np.sort(order[position])
        yield np.setdiff1d(kept, drawn, assume_unique=True), drawn


def _draw(pids: np.ndarray, camids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one random order of the gallery.

    Returns:
        Two indices for each identity, sorted as `np.unique`: its first image, and its first image under
        another camera than that one, or -1.
    """
    order = rng.permutation(np.flatnonzero(pids != -1))
    _, position, identity = np.unique(pids[order], return_index=True, return_inverse=True)
    first = order[position]
    other = np.flatnonzero(camids[order] != camids[first[identity]])
    which, position = np.unique(identity[other], return_index=True)
    elsewhere = np.full(len(first), -1, np.int64)
    elsewhere[which] = order[other[position]]
    return first, elsewhere


PROTOCOLS = ("market", "cuhk03", "vehicleid", "cross-camera", "partial")
REPEATED = ("cuhk03", "vehicleid")


@dataclass(frozen=True)
class ProtocolResult:
    """Scores of a ranking by one protocol, as shares in [0, 1].

    Attributes:
        protocol: name of the protocol.
        cmc: `(50,)` float64, mean over the draws.
        mAP: mean average precision, mean over the draws.
        mINP: mean inverse negative penalty, likewise.
        cmc_spread: `(50,)` standard deviation over the draws; zeros where nothing is drawn.
        mAP_spread: likewise.
        mINP_spread: likewise.
        repeats: draws; 1 where nothing is drawn.
        num_valid: queries with a true match (mean over the draws, rounded).
        num_queries: all queries, likewise.
        per_query: scores of each query; for "vehicleid", of each pooled image.
        pids: identities of the queries or pooled images.
        notes: sentences on what limits the scores, such as missing cameras.
    """

    protocol: str
    cmc: np.ndarray
    mAP: float
    mINP: float
    cmc_spread: np.ndarray
    mAP_spread: float
    mINP_spread: float
    repeats: int
    num_valid: int
    num_queries: int
    per_query: QueryScores
    pids: np.ndarray
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.protocol}: rank-1 {self.cmc[0]:.1%}, mAP {self.mAP:.1%}, "
            f"mINP {self.mINP:.1%}, {self.num_valid:,} of {self.num_queries:,} queries have a true match)"
        )

    @classmethod
    def of(cls, protocol: str, ranking: RankingResult, pids: np.ndarray) -> ProtocolResult:
        """Return the result of one ranking.

        Args:
            protocol: name of the protocol.
            ranking: its scores.
            pids: `(Q,)` int identities of the queries.
        """
        return cls(
            protocol,
            ranking.cmc,
            ranking.mAP,
            ranking.mINP,
            np.zeros_like(ranking.cmc),
            0.0,
            0.0,
            1,
            ranking.num_valid,
            ranking.num_queries,
            QueryScores.of(ranking),
            pids,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        values: dict[str, Any] = {
            "protocol": self.protocol,
            "cmc": self.cmc.tolist(),
            "mAP": self.mAP,
            "mINP": self.mINP,
            "queries": self.num_queries,
            "queries_with_a_match": self.num_valid,
        }
        if self.repeats > 1:
            values["repeats"] = self.repeats
            values["spread"] = {
                "cmc": self.cmc_spread.tolist(),
                "mAP": self.mAP_spread,
                "mINP": self.mINP_spread,
            }
        return values


def evaluate_protocol(
    query: FeatureSet,
    gallery: FeatureSet,
    protocol: str = "market",
    metric: str = "euclidean",
    repeats: int = 10,
    seed: int = 0,
    distances: Distances | None = None,
) -> ProtocolResult:
    """Rank the gallery for each query and measure the result by a protocol.

    `cuhk03` is the classic protocol (Li et al., "DeepReID", CVPR 2014). Its CMC is of one gallery image per
    identity, drawn anew `repeats` times. Its mAP and mINP are of the whole gallery, as all toolkits report
    them. `vehicleid` (Liu et al., "Deep Relative Distance Learning", CVPR 2016) pools both sets: the
    benchmark lists only test images, and each draw chooses the queries.

    Args:
        query: Q images.
        gallery: G images.
        protocol: one of `PROTOCOLS`.
        metric: "euclidean" or "cosine".
        repeats: number of draws for "cuhk03" and "vehicleid".
        seed: of the draws.
        distances: distances to use instead of the features', such as re-ranked ones; not for "vehicleid".

    Raises:
        UserError: unknown protocol, too few repeats, unknown cameras for "cross-camera", or no query has a
            true match.

    Example:
        >>> result = evaluate_protocol(query, gallery, "cuhk03", repeats=20)
        >>> f"{result.cmc[0]:.1%} ± {result.cmc_spread[0]:.1%}"
        '62.3% ± 1.1%'
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"There is no protocol {protocol!r}; choose one of: {', '.join(PROTOCOLS)}.")
    if protocol in REPEATED and repeats < 1:
        raise UserError(f"repeats is {repeats}, but the protocol {protocol} draws at least once.")
    if protocol == "vehicleid":
        if distances is not None:
            raise UserError(
                "The protocol vehicleid draws its queries anew each time, so given distances cannot be used; "
                "leave re-ranking out."
            )
        return _vehicleid(query, gallery, metric, repeats, seed)

    query_camids, gallery_camids = cameras_of_pairs(query, gallery, protocol)
    if protocol == "cross-camera":
        missing = np.count_nonzero(query.camids == UNKNOWN) + np.count_nonzero(gallery.camids == UNKNOWN)
        if missing:
            raise UserError(
                f"The protocol cross-camera needs the camera of every image, but {missing} have none; give "
                "camids, or use the protocol partial, which ignores cameras."
            )
        given = distances or features_distances(query, gallery, metric)
        distances = lambda: _other_cameras_first(given, query.camids, gallery.camids)  # noqa: E731
    if distances is not None:
        ranking = evaluate_distances(distances(), query.pids, query_camids, gallery.pids, gallery_camids)
    else:
        ranking = evaluate_ranking(
            query.features,
            query.pids,
            query_camids,
            gallery.features,
            gallery.pids,
            gallery_camids,
            metric,
        )
    result = ProtocolResult.of(protocol, ranking, query.pids)
    if protocol == "cuhk03":
        blocks = (distances or features_distances(query, gallery, metric))()
        hits = cuhk03_cmcs(
            blocks,
            query.pids,
            query_camids,
            gallery.pids,
            gallery_camids,
            repeats,
            np.random.default_rng(seed),
        )
        result = replace(
            result,
            cmc=hits.cmc.mean(axis=0),
            cmc_spread=_spread(hits.cmc),
            repeats=repeats,
            per_query=replace(result.per_query, rank1=hits.first),
        )
    return replace(result, notes=_notes(protocol, query, gallery))


def features_distances(
    query: FeatureSet, gallery: FeatureSet, metric: str = "euclidean", description: str | None = None
) -> Distances:
    """Return the distances of features, computed block by block on each call.

    Args:
        query: Q images.
        gallery: G images.
        metric: "euclidean" or "cosine".
        description: of the progress bar; None for no bar.
    """
    block = rows_per_block(len(gallery))
    total = -(-len(query) // block)
    return lambda: with_bar(
        distance_blocks(query.features, gallery.features, metric, block), description, total
    )


def _other_cameras_first(
    distances: Distances, query_camids: np.ndarray, gallery_camids: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Move images under the query's camera to the end, where they change no match's rank."""
    for start, block in distances():
        own = query_camids[start : start + len(block), None] == gallery_camids
        yield start, np.where(own, np.finfo(block.dtype).max, block)


def _vehicleid(
    query: FeatureSet, gallery: FeatureSet, metric: str, repeats: int, seed: int
) -> ProtocolResult:
    pool = query
    if gallery is not query:
        pool = FeatureSet(
            np.concatenate([query.features, gallery.features]),
            np.concatenate([query.pids, gallery.pids]),
            np.concatenate([query.camids, gallery.camids]),
        )
    rankings = []
    sums, times = np.zeros((3, len(pool))), np.zeros(len(pool))
    for queries, drawn in vehicleid_draws(pool.pids, repeats, np.random.default_rng(seed)):
        ranking = evaluate_ranking(
            pool.features[queries],
            pool.pids[queries],
            np.zeros(len(queries), np.int64),
            pool.features[drawn],
            pool.pids[drawn],
            np.ones(len(drawn), np.int64),
            metric,
        )
        rankings.append(ranking)
        sums[:, queries] += list(QueryScores.of(ranking).columns().values())
        times[queries] += 1
    cmc = np.array([ranking.cmc for ranking in rankings])
    precisions = np.array([ranking.mAP for ranking in rankings])
    penalties = np.array([ranking.mINP for ranking in rankings])
    return ProtocolResult(
        "vehicleid",
        cmc.mean(axis=0),
        float(precisions.mean()),
        float(penalties.mean()),
        _spread(cmc),
        float(_spread(precisions)),
        float(_spread(penalties)),
        repeats,
        round(np.mean([ranking.num_valid for ranking in rankings])),
        round(np.mean([ranking.num_queries for ranking in rankings])),
        # An image that was never a query has no score.
        QueryScores(*np.divide(sums, times, out=np.full_like(sums, np.nan), where=times > 0)),
        pool.pids,
    )


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the draws; 0 for a single draw."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _notes(protocol: str, query: FeatureSet, gallery: FeatureSet) -> tuple[str, ...]:
    if protocol not in ("market", "cuhk03"):
        return ()
    missing = np.count_nonzero(query.camids == UNKNOWN) + np.count_nonzero(gallery.camids == UNKNOWN)
    if not missing:
        return ()
    return (
        f"{missing} of {len(query) + len(gallery)} images have no camera: no same-camera image was removed "
        "for them, so scores are higher than they would be with cameras.",
    )
