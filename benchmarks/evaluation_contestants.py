"""Contestants of `evaluation.py`: this package, a matrix product, and the peers' code.

Each contestant runs in its own process. It warms up on a small input, prepares its input once, and then runs
on request, so that rounds can be interleaved and memory measured separately. The peers' code is read from the
folder of their sources; none of it is part of this repository.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from contestants import forget_peak, memory, timed

Job = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Problem:
    """Random features around one centre per identity, with cameras and distractors."""

    queries: int
    images: int
    dimensions: int
    noise: float = 1.5  # as hard as Market-1501: mAP about 0.82
    people: int = 750
    distractors: float = 0.18

    @functools.cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Features, pids and camids of the queries, then of the gallery."""
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((self.people, self.dimensions), np.float32)
        sides: list[np.ndarray] = []
        for number in (self.queries, self.images):
            pids = rng.integers(1, self.people + 1, number)
            features = self.noise * rng.standard_normal((number, self.dimensions), np.float32)
            features += centres[pids - 1]
            if number == self.images:
                strangers = rng.random(number) < self.distractors
                pids[strangers] = 0
                features[strangers] = self.noise * rng.standard_normal(
                    (int(strangers.sum()), self.dimensions), np.float32
                )
            sides += [features, pids, rng.integers(0, 6, number)]
        return tuple(sides)

    @property
    def ids(self) -> tuple[np.ndarray, ...]:
        """Query pids, gallery pids, query camids, gallery camids, in the peers' order."""
        _, q_pids, q_camids, _, g_pids, g_camids = self.arrays
        return q_pids, g_pids, q_camids, g_camids


SMALL = Problem(20, 300, 16)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distances = a @ b.T
    distances *= -2.0
    distances += np.einsum("nd,nd->n", a, a)[:, None]
    distances += np.einsum("nd,nd->n", b, b)
    return np.maximum(distances, 0.0, out=distances)


def product(problem: Problem, peers: Path | None) -> Job:
    query, gallery = problem.arrays[0], problem.arrays[3]

    def job() -> dict[str, float]:
        query @ gallery.T
        return {}

    return job


def all_pairs_product(problem: Problem, peers: Path | None) -> Job:
    features = np.concatenate([problem.arrays[0], problem.arrays[3]])

    def job() -> dict[str, float]:
        for start in range(0, len(features), 2048):
            features[start : start + 2048] @ features.T
        return {}

    return job


def ours(problem: Problem, peers: Path | None) -> Job:
    from san_tf.evaluation.ranking import evaluate_ranking

    return lambda: measures(evaluate_ranking(*problem.arrays))


def ours_from_matrix(problem: Problem, peers: Path | None) -> Job:
    from san_tf.evaluation.ranking import evaluate_distances

    query, q_pids, q_camids, gallery, g_pids, g_camids = problem.arrays
    matrix = squared_distances(query, gallery)
    return lambda: measures(evaluate_distances([(0, matrix)], q_pids, q_camids, g_pids, g_camids))


def ours_reranked(problem: Problem, peers: Path | None) -> Job:
    from san_tf.evaluation.ranking import evaluate_distances
    from san_tf.evaluation.reranking import Reranking

    query, q_pids, q_camids, gallery, g_pids, g_camids = problem.arrays

    def job() -> dict[str, float]:
        blocks = Reranking.of(query, gallery).blocks()
        return measures(evaluate_distances(blocks, q_pids, q_camids, g_pids, g_camids))

    return job


def cython_of(folder: str) -> Callable[[Problem, Path | None], Job]:
    def contestant(problem: Problem, peers: Path | None) -> Job:
        compiled = next(iter(source(peers, folder).glob("rank_cy.*.so")), None)
        if compiled is None:
            raise FileNotFoundError(f"{folder} is not compiled")
        evaluate = loaded("rank_cy", compiled).evaluate_cy
        matrix = squared_distances(problem.arrays[0], problem.arrays[3])

        def job() -> dict[str, float]:
            cmc, precisions, *_ = evaluate(matrix, *problem.ids, 50)
            return {"rank1": float(np.asarray(cmc)[0]), "mAP": float(np.mean(precisions))}

        return job

    return contestant


def torchreid_python(problem: Problem, peers: Path | None) -> Job:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate = loaded("rank", source(peers, "torchreid/torchreid/metrics/rank.py")).eval_market1501
    matrix = squared_distances(problem.arrays[0], problem.arrays[3])

    def job() -> dict[str, float]:
        cmc, mean = evaluate(matrix, *problem.ids, 50)
        return {"rank1": float(cmc[0]), "mAP": float(mean)}

    return job


def torchreid_reranked(problem: Problem, peers: Path | None) -> Job:
    from san_tf.evaluation.ranking import evaluate_distances

    rerank = loaded("rerank", source(peers, "torchreid/torchreid/utils/rerank.py")).re_ranking
    query, q_pids, q_camids, gallery, g_pids, g_camids = problem.arrays
    # It squares the given distances.
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    matrices = [np.sqrt(squared_distances(a, b)) for a, b in pairs]

    def job() -> dict[str, float]:
        blocks = [(0, rerank(*matrices))]
        return measures(evaluate_distances(blocks, q_pids, q_camids, g_pids, g_camids))

    return job


def fastreid_jaccard(problem: Problem, peers: Path | None) -> Job:
    import torch

    sys.path.insert(0, str(source(peers, "fast-reid")))
    from fastreid.utils.compute_dist import compute_jaccard_distance

    from san_tf.evaluation.ranking import evaluate_distances

    query, q_pids, q_camids, gallery, g_pids, g_camids = problem.arrays
    features = torch.from_numpy(np.concatenate([query, gallery]))

    def job() -> dict[str, float]:
        distances = compute_jaccard_distance(features, search_option=3)  # 3: on the CPU
        blocks = [(0, distances[: len(query), len(query) :])]
        return measures(evaluate_distances(blocks, q_pids, q_camids, g_pids, g_camids))

    return job


def measures(result: Any) -> dict[str, float]:
    return {"rank1": result.rank1, "mAP": result.mAP}


def source(peers: Path | None, path: str) -> Path:
    if peers is None or not (peers / path).exists():
        raise FileNotFoundError(f"{path} is not below --peers")
    return peers / path


def loaded(name: str, path: Path) -> ModuleType:
    """Import one file without its package, which would need PyTorch."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTESTANTS: dict[str, Callable[[Problem, Path | None], Job]] = {
    "matrix product, NumPy": product,
    "san_tf, from features": ours,
    "san_tf, from the matrix": ours_from_matrix,
    "torchreid Cython, from the matrix": cython_of("torchreid/torchreid/metrics/rank_cylib"),
    "fast-reid Cython, from the matrix": cython_of("fast-reid/fastreid/evaluation/rank_cylib"),
    "torchreid Python, from the matrix": torchreid_python,
    "all-pairs product, NumPy": all_pairs_product,
    "san_tf, re-ranked, from features": ours_reranked,
    "torchreid, re-ranked, from matrices": torchreid_reranked,
    "fast-reid Jaccard on CPU, from features": fastreid_jaccard,
}


def prepare(name: str, problem: Problem, peers: Path | None) -> Callable[[str], dict[str, float]]:
    """Return what runs a contestant once: seconds, processor seconds, extra megabytes and the scores.

    Args:
        name: of `CONTESTANTS`.
        problem: what to evaluate.
        peers: folder of the peers' sources.
    """
    CONTESTANTS[name](SMALL, peers)()
    job = CONTESTANTS[name](problem, peers)

    def run(_: str) -> dict[str, float]:
        gc.collect()
        before = memory("VmRSS")
        forget_peak()
        taken, found = timed(job)
        return {**taken, "extra_MB": memory() - before, **found}

    return run
