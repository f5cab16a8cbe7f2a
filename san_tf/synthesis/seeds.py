"""Random generators addressed by name, reproducible in any order and process."""

from __future__ import annotations

import zlib

import numpy as np


def generator_at(seed: int, *address: int | str) -> np.random.Generator:
    """Return the random generator of an address under a seed.

    Generators of different addresses are independent. So a crop depends neither on the crops made before it
    nor on the number of processes.

    Args:
        seed: seed of the data set, an integer >= 0.
        *address: integers >= 0 and short words that name the use of the numbers.

    Returns:
        A fresh `numpy.random.Generator`.

    Example:
        >>> generator_at(0, "camera", 3).random() == generator_at(0, "camera", 3).random()
        True
    """
    words = [seed]
    for part in address:
        # The tag distinguishes the number 7 from a word whose checksum is 7.
        words += [1, zlib.crc32(part.encode())] if isinstance(part, str) else [0, part]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
