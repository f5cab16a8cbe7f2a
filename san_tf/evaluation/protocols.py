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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.counted_pairs import cameras_of_pairs
from san_tf.evaluation.distances import distance_blocks
from san_tf.evaluation.feature_set import UNKNOWN, Distances, FeatureSet, rows_per_block
from san_tf.evaluation.query_scores import QueryScores
from san_tf.evaluation.ranking import RankingResult, evaluate_distances, evaluate_ranking
from san_tf.evaluation.single_shot import cuhk03_cmcs, vehicleid_draws
from san_tf.progress import with_bar

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
