"""Parts of a batch: which rows of the one deterministic plan a process reads for its replicas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.errors import UserError


class Shard(NamedTuple):
    """Some of the replicas that share every batch.

    Args:
        first: the first replica that this process reads for.
        here: how many it reads for.
        replicas: that share a batch, those of other processes included.

    Example:
        >>> Shard(1, 1, 2).rows([4, 2]).tolist()  # 4 rows of images and 2 of pairs; the second of 2 replicas
        [[2, 3, 5]]
    """

    first: int
    here: int
    replicas: int

    def rows(self, sizes: list[int]) -> np.ndarray:
        """The places in the whole batch of each replica's rows.

        Every part of the batch is cut into equal blocks, so that a replica gets whole identities where the
        rows of an identity are neighbours and the replicas divide P.

        Args:
            sizes: rows of each part of the batch, such as P x K images and M pairs after them.

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
