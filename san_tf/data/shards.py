"""Shards: the rows of each batch that one process reads for its replicas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.errors import UserError


class Shard(NamedTuple):
    """The replicas of one process, among all replicas that share every batch.

    Args:
        first: number of this process's first replica.
        here: number of replicas of this process.
        replicas: number of replicas that share a batch, over all processes.

    Example:
        >>> Shard(1, 1, 2).rows([4, 2]).tolist()  # 4 rows of images and 2 of pairs; the second of 2 replicas
        [[2, 3, 5]]
    """

    first: int
    here: int
    replicas: int

    def rows(self, sizes: list[int]) -> np.ndarray:
        """Return the places of each replica's rows in the whole batch.

        Every part of the batch is cut into equal blocks. A replica gets whole identities if the rows of an
        identity are consecutive and the number of replicas divides P.

        Args:
            sizes: rows of each part of the batch, for example P x K images, then M pairs.

        Returns:
            `(here, rows)` int32, ascending in each row.

        Raises:
            UserError: the replicas do not divide a part.
        """
        first = 0
        places = []
        for size in sizes:
            if size % self.replicas:
                raise UserError(
                    f"A batch with {size} rows of a kind cannot be shared equally by {self.replicas} "
                    f"replicas; choose a multiple of {self.replicas}."
                )
            blocks = np.arange(first, first + size, dtype=np.int32).reshape(self.replicas, -1)
            places.append(blocks[self.first : self.first + self.here])
            first += size
        return np.concatenate(places, axis=1)
