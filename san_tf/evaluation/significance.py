"""Bootstrap confidence intervals of scores, and tests of the difference between two runs.

A test set is a sample of all possible queries. Intervals resample it with replacement (Efron, "Bootstrap
Methods", 1979; percentile intervals). Queries of one identity succeed and fail together, so resampling whole
identities gives the honest, wider interval for "other people, same cameras".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.query_scores import QueryScores

UNITS = ("query", "identity")
# Drawn counts in memory together.
_VALUES = 2**22
# Up to this many units n, all 2^n swaps of two runs are tried instead of a sample.
_EXACT = 14


@dataclass(frozen=True)
class Interval:
    """A score with its confidence interval, all in [0, 1]."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Difference of two runs.

    Attributes:
        mean: score of the first run minus that of the second.
        low: lower end of the bootstrap interval of the difference.
        high: upper end.
        p_value: two-sided p-value of the permutation test: how often random swaps of the two runs give a
            difference at least as large.
    """

    mean: float
    low: float
    high: float
    p_value: float


def confidence_intervals(
    scores: QueryScores,
    pids: np.ndarray,
    resamples: int = 2000,
    level: float = 0.95,
    unit: str = "query",
    seed: int = 0,
) -> dict[str, Interval]:
    """Return percentile bootstrap intervals of rank-1, mAP and mINP.

    Args:
        scores: scores of Q queries; queries without a true match are left out.
        pids: `(Q,)` int identities of the queries.
        resamples: number of bootstrap samples, at least 100.
        level: confidence, in (0, 1).
        unit: what is drawn: "query", or "identity" with all its queries.
        seed: of the draws.

    Raises:
        UserError: resamples, level or unit are out of range.

    Example:
        >>> confidence_intervals(result.per_query, query.pids)["mAP"]
        Interval(mean=0.883, low=0.874, high=0.891)
    """
    _check(resamples, level, unit)
    valid = scores.valid()
    values = np.stack([column[valid] for column in scores.columns().values()], axis=1)
    sums, sizes = _by_unit(values, np.asarray(pids)[valid], unit)
    means = _bootstrap_means(sums, sizes, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        name: Interval(float(values[:, i].mean()), float(low[i]), float(high[i]))
        for i, name in enumerate(scores.columns())
    }


def compare(
    first: QueryScores,
    second: QueryScores,
    pids: np.ndarray,
    resamples: int = 2000,
    level: float = 0.95,
    unit: str = "query",
    seed: int = 0,
) -> dict[str, Difference]:
    """Test whether two runs on the same queries differ: paired bootstrap and permutation test.

    The permutation test swaps the two runs' scores of random units. With up to 14 units all swaps are tried,
    else `resamples` random ones; p is then at least 1 / (resamples + 1).

    Args:
        first: scores of Q queries.
        second: scores of the same queries, in the same order.
        pids: `(Q,)` int identities of the queries.
        resamples: number of bootstrap samples and of swaps, at least 100.
        level: confidence of the interval, in (0, 1).
        unit: what is drawn and swapped: "query", or "identity" with all its queries.
        seed: of the draws.

    Raises:
        UserError: the runs have different queries, or resamples, level or unit are out of range.

    Example:
        >>> compare(san.per_query, baseline.per_query, query.pids)["mAP"]
        Difference(mean=0.021, low=0.012, high=0.030, p_value=0.0005)
    """
    _check(resamples, level, unit)
    if len(first.mAP) != len(second.mAP):
        raise UserError(
            f"The two runs have {len(first.mAP)} and {len(second.mAP)} queries; give both the same queries "
            "in the same order."
        )
    valid = first.valid()
    if not np.array_equal(valid, second.valid()):
        raise UserError(
            "Some queries have a true match in only one of the two runs; give both the same identities and "
            "cameras."
        )
    columns = [
        a[valid] - b[valid] for a, b in zip(first.columns().values(), second.columns().values(), strict=True)
    ]
    values = np.stack(columns, axis=1)
    sums, sizes = _by_unit(values, np.asarray(pids)[valid], unit)
    rng = np.random.default_rng(seed)
    means = _bootstrap_means(sums, sizes, resamples, rng)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    p_values = _permutation_p(sums, resamples, rng)
    return {
        name: Difference(float(values[:, i].mean()), float(low[i]), float(high[i]), float(p_values[i]))
        for i, name in enumerate(first.columns())
    }


def as_dict(results: dict[str, Interval] | dict[str, Difference]) -> dict[str, Any]:
    """Return intervals or differences as JSON values."""
    return {name: asdict(value) for name, value in results.items()}


def _by_unit(values: np.ndarray, pids: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the scores, and number of queries, of each unit."""
    if unit == "query":
        return values, np.ones(len(values))
    _, group = np.unique(pids, return_inverse=True)
    sums = np.stack([np.bincount(group, column) for column in values.T], axis=1)
    return sums, np.bincount(group).astype(np.float64)


def _bootstrap_means(
    sums: np.ndarray, sizes: np.ndarray, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Means of the scores in each resample, `(resamples, S)`."""
    units = len(sizes)
    means = []
    for rows in _chunks(resamples, units):
        # How often each unit is drawn, when as many units are drawn as there are.
        drawn = rng.multinomial(units, np.full(units, 1 / units), size=rows).astype(np.float64)
        means.append((drawn @ sums) / (drawn @ sizes)[:, None])
    return np.concatenate(means)


def _permutation_p(sums: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Two-sided p-value of the sum of differences, when each unit's sign is random."""
    units = len(sums)
    # Sums that differ only by rounding count as equal.
    bound = np.abs(sums.sum(axis=0)) * (1 - 1e-12) - 1e-15 * units
    if units <= _EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**units)[:, None] >> np.arange(units)) & 1)
        return np.mean(np.abs(signs @ sums) >= bound, axis=0)
    extreme = np.zeros(sums.shape[1])
    for rows in _chunks(resamples, units):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (rows, units))
        extreme += np.count_nonzero(np.abs(signs @ sums) >= bound, axis=0)
    return (extreme + 1) / (resamples + 1)


def _chunks(resamples: int, units: int) -> Iterator[int]:
    size = max(1, _VALUES // units)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _check(resamples: int, level: float, unit: str) -> None:
    if resamples < 100:
        raise UserError(f"resamples is {resamples}, but it must be at least 100.")
    if not 0 < level < 1:
        raise UserError(f"level is {level}, but a confidence lies between 0 and 1, such as 0.95.")
    if unit not in UNITS:
        raise UserError(f"There is no unit {unit!r}; choose one of: {', '.join(UNITS)}.")
