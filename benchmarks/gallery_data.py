"""Synthetic embeddings, distributed like those of a person re-identification encoder.

Each identity has 25 photographs by random cameras of 16. Its centre is a direction in a space of 64
dimensions, in which people differ, plus half as much in all dimensions. A photograph adds 0.3 of its camera's
direction, the same for everybody, and 0.7 of noise. The sum is scaled to length 1. Queries are further
photographs of random identities. Everything follows from seeds, chunk by chunk.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

CHUNK, PHOTOGRAPHS, CAMERAS = 50_000, 25, 16
_DIRECTIONS, _SHARED, _OWN, _CAMERA, _NOISE = 64, 1.0, 0.5, 0.3, 0.7


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _space(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((_DIRECTIONS, dimensions)) / np.sqrt(dimensions)
    return basis, _unit(rng.standard_normal((CAMERAS, dimensions)))


def photographs(identities: np.ndarray, draw: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `(N, D)` float32 embeddings and `(N,)` cameras of photographs of identities.

    Args:
        identities: `(N,)` int; the number of an identity's chunk seeds its centre.
        draw: seed of cameras and noise.
        dimensions: dimensions of an embedding, D.
    """
    basis, cameras = _space(dimensions)
    people = CHUNK // PHOTOGRAPHS
    centres = np.empty((len(identities), dimensions), np.float32)
    for chunk in np.unique(identities // people):
        rng = np.random.default_rng([1, int(chunk)])
        shared = _unit(rng.standard_normal((people, _DIRECTIONS)) @ basis)
        own = rng.standard_normal((people, dimensions)) / np.sqrt(dimensions)
        here = identities // people == chunk
        centres[here] = (_SHARED * shared + _OWN * own)[identities[here] % people]
    rng = np.random.default_rng([2, draw])
    camids = rng.integers(0, CAMERAS, len(identities))
    noise = rng.standard_normal((len(identities), dimensions), np.float32) / np.sqrt(dimensions)
    return _unit(centres + _CAMERA * cameras[camids] + _NOISE * noise), camids


def write(folder: Path, size: int, queries: int, dimensions: int) -> dict[str, float]:
    """Write `rows.npy`, `cameras.npy` and `queries.npy`; return statistics of the cosines.

    Args:
        folder: where to write.
        size: number of embeddings.
        queries: number of queries.
        dimensions: dimensions of an embedding.
    """
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (size, dimensions))
    cameras = np.empty(size, np.int64)
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        identities = np.arange(start, stop) // PHOTOGRAPHS
        rows[start:stop], cameras[start:stop] = photographs(identities, start // CHUNK, dimensions)
    rows.flush()
    np.save(folder / "cameras.npy", cameras)
    rng = np.random.default_rng(3)
    sought = rng.choice(size // PHOTOGRAPHS, queries, replace=queries > size // PHOTOGRAPHS)
    found, _ = photographs(np.sort(sought), 10**6, dimensions)
    np.save(folder / "queries.npy", found)
    own = np.sort(sought) * PHOTOGRAPHS
    same = np.einsum("nd,nd->n", found, rows[own])
    others = np.einsum("nd,nd->n", found, rows[np.roll(own, 1)])
    return {
        "same identity, mean": float(same.mean()),
        "same identity, standard deviation": float(same.std()),
        "another identity, mean": float(others.mean()),
        "another identity, standard deviation": float(others.std()),
    }


def nearest(folder: Path, masks: list[np.ndarray], count: int = 10) -> list[np.ndarray]:
    """Return the rows nearest to the queries under each mask, by comparing all.

    Args:
        folder: where `write` wrote.
        masks: `(N,)` bool each: which rows count.
        count: rows per query.

    Returns:
        `(Q, count)` int64 row numbers for each mask.
    """
    rows, queries = np.load(folder / "rows.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    best = [np.full((len(queries), count), -np.inf, np.float32) for _ in masks]
    ids = [np.full((len(queries), count), -1, np.int64) for _ in masks]
    for start in range(0, len(rows), CHUNK):
        products = queries @ rows[start : start + CHUNK].T
        for number, mask in enumerate(masks):
            passing = np.flatnonzero(mask[start : start + CHUNK])
            scores = np.concatenate([best[number], products[:, passing]], axis=1)
            places = np.broadcast_to(passing + start, (len(queries), len(passing)))
            places = np.concatenate([ids[number], places], axis=1)
            chosen = np.argpartition(scores, -count, axis=1)[:, -count:]
            best[number] = np.take_along_axis(scores, chosen, axis=1)
            ids[number] = np.take_along_axis(places, chosen, axis=1)
    return ids
