"""FAISS index (inverted file) that finds embeddings near a query without comparing all.

The space is divided into cells around centres (k-means), and a search visits the cells nearest to the query.
Each number takes one byte: 512 MB for a million embeddings of 512, memory-mapped. Because of this rounding
and of unvisited cells, a gallery asks for more candidates than it needs and measures them again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

# Cells that a search visits. If a filter passes a share of the entries, the number is divided by its square:
# fewer entries of a cell pass, and the nearest are farther away. Below about a tenth that is all cells.
_PROBES = 32
# Training embeddings per cell, from which the centres are computed.
_SAMPLE = 50


@functools.cache
def faiss() -> Any | None:
    """Return the FAISS module; None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def sample_size(number: int) -> int:
    """Return how many of `number` embeddings `train` needs as a sample."""
    return min(number, _SAMPLE * _cells(number))


def _cells(number: int) -> int:
    return max(1, round(2 * math.sqrt(number)))


class VectorIndex:
    """An index: in memory for changes, or memory-mapped for searches.

    Args:
        index: index of FAISS.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def train(cls, sample: np.ndarray, number: int) -> VectorIndex:
        """Make an empty index for `number` embeddings, trained on a sample `(n, D)` of them."""
        index = faiss().index_factory(  # type: ignore[union-attr]  # callers have FAISS
            sample.shape[1],
            f"IVF{_cells(number)},SQ8",
            faiss().METRIC_INNER_PRODUCT,  # type: ignore[union-attr]
        )
        index.cp.max_points_per_centroid = _SAMPLE
        index.cp.min_points_per_centroid = 1  # else FAISS prints warnings
        # Store numbers themselves, not differences from the cell's centre, with room beyond the largest:
        # later embeddings of unlike people must not be clipped.
        index.by_residual = False
        index.sq.rangestat_arg = 0.25
        index.train(sample)
        return cls(index)

    @classmethod
    def open(cls, path: Path, size: int, last_id: int, change: bool = False) -> VectorIndex:
        """Open a file, to search or to change it.

        FAISS does not check it well, so check its digest before.

        Args:
            path: path of the file.
            size: dimensions of an embedding.
            last_id: the largest id it may hold.
            change: load it into memory for changes.

        Raises:
            RuntimeError: the file is missing, broken or another kind of index.
        """
        library: Any = faiss()
        index = library.read_index(str(path), 0 if change else library.IO_FLAG_MMAP)
        if not isinstance(index, library.IndexIVFScalarQuantizer):
            raise RuntimeError("it is another kind of index")
        if index.d != size or index.ntotal > last_id or index.metric_type != library.METRIC_INNER_PRODUCT:
            raise RuntimeError("it is of another gallery")
        return cls(index)

    def add(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Add `(n, D)` rows under their `(n,)` ids."""
        self._index.add_with_ids(rows, ids)

    def remove(self, ids: np.ndarray) -> None:
        """Remove ids; missing ones are ignored.

        A cell that loses embeddings gets the mean of the others as its centre: the centre of few embeddings
        is nearly one of them, and removed embeddings must not stay in the file.
        """
        if not len(ids):
            return
        library: Any = faiss()
        lists, cells = self._index.invlists, self._index.nlist
        before = [lists.list_size(cell) for cell in range(cells)]
        self._index.remove_ids(ids)
        flat = library.downcast_index(self._index.quantizer)
        centres = library.rev_swig_ptr(flat.get_xb(), cells * self._index.d).reshape(cells, self._index.d)
        for cell in range(cells):
            left = lists.list_size(cell)
            if left == before[cell]:
                continue
            mean = np.zeros(self._index.d)
            if left:
                codes = library.rev_swig_ptr(lists.get_codes(cell), left * lists.code_size)
                mean = self._index.sq.decode(codes.reshape(left, -1)).mean(axis=0)
                mean /= max(float(np.linalg.norm(mean)), 1e-12)
            centres[cell] = mean

    def save(self, path: Path) -> None:
        """Write a file.

        Raises:
            RuntimeError: the disk is full.
        """
        faiss().write_index(self._index, str(path))  # type: ignore[union-attr]

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: np.ndarray, count: int, passing: np.ndarray | None) -> Iterable[np.ndarray]:
        """Find the ids nearest to queries.

        Args:
            queries: `(Q, D)` float32.
            count: ids per query.
            passing: `(M,)` bool, whether each id counts; None for all. The fewer pass, the more cells are
                visited, up to all of them.

        Returns:
            `(up to count,)` int64 for each query.
        """
        library = faiss()
        if library is None or not len(self):
            return [np.empty(0, np.int64)] * len(queries)
        count = min(count, len(self))
        parameters, probes = library.SearchParametersIVF(), float(_PROBES)
        # Visit cells that hold some four times more entries than are asked for.
        probes = max(probes, 4 * count * self._index.nlist / len(self))
        if passing is not None:
            # Ids that were never in the index may count as passing, too.
            probes *= max(1.0, len(self) / max(int(np.count_nonzero(passing)), 1)) ** 2
            bits = np.packbits(passing, bitorder="little")
            # In variables, because FAISS holds only pointers to both.
            selector = library.IDSelectorBitmap(len(bits), library.swig_ptr(bits))
            parameters.sel = selector
        parameters.nprobe = int(min(self._index.nlist, math.ceil(probes)))
        found = self._index.search(queries, count, params=parameters)[1]
        fewer = np.flatnonzero((found < 0).any(axis=1))
        if len(fewer) and parameters.nprobe < self._index.nlist:
            # These cells hold fewer than are asked for; other cells may hold more.
            parameters.nprobe = self._index.nlist
            found[fewer] = self._index.search(queries[fewer], count, params=parameters)[1]
        return [row[row >= 0] for row in found]
