"""A process that adds to a gallery until it is killed: `python adding_process.py GALLERY FIRST_BATCH`.

It says the number of a batch when the gallery has taken it.
"""

from __future__ import annotations

import sys

import numpy as np

from san_tf.retrieval import embedded
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.opening import open_gallery

SIZE, ROWS = 16, 20


def batch(number: int) -> tuple[np.ndarray, list[Entry]]:
    """Embeddings and entries of a batch; every third entry replaces one of the batch before."""
    rows = np.random.default_rng(number).standard_normal((ROWS, SIZE))
    keys = [f"{number:05}-{place:02}" for place in range(ROWS)]
    keys[1::3] = [f"{number - 1:05}-{place:02}" for place in range(0, ROWS - 1, 3)]
    return rows, [Entry(key, camera=number, tags=(f"b{number % 5}",)) for key in keys]


if __name__ == "__main__":
    embedded._FEWEST = embedded._MOST = 50  # the index is written often, too
    with open_gallery(sys.argv[1]) as gallery:
        print("ready", flush=True)
        for number in range(int(sys.argv[2]), 100_000):
            gallery.add(*batch(number))
            print(number, flush=True)
