"""The lists of an inverted file: centres by k-means, and the nearest centre of each vector.

By numpy and its BLAS: beside other jobs faiss takes far longer for the same products (its threads wait for each other
at the end of every block).
"""

from __future__ import annotations

import math

import numpy as np

from cir.arrays import Floats, Rows, unit

PER_LIST = 40  # vectors of the sample for each centre; more do not make lists of more equal length (measured at 1e6)
ROUNDS = 8
_BLOCK_ROWS = 4096


def list_count(rows: int) -> int:
    """How many lists suit a number of rows: about 2 sqrt(N), a power of two, with enough vectors to train each.

    Half and twice as many make searches slower, four times as many only builds (`bench/index.py lists`, at 1e6).
    """
    power = round(math.log2(2 * math.sqrt(rows)))
    return max(1, min(1 << power, rows // PER_LIST))


def centres_of(sample: Floats, count: int) -> Floats:
    """(count, D) float32, unit-norm: centres of a sample of (n, D) unit-norm vectors, n at least `count`."""
    rng = np.random.default_rng(0)
    centres = sample[rng.choice(len(sample), count, replace=False)]
    for _ in range(ROUNDS):
        nearest = nearest_of(sample, centres)
        order = np.argsort(nearest, kind="stable")
        used, starts = np.unique(nearest[order], return_index=True)
        # A list that nothing is nearest to starts again elsewhere.
        centres = sample[rng.choice(len(sample), count, replace=False)]
        centres[used] = unit(np.add.reduceat(sample[order], starts, axis=0))
    return centres


def nearest_of(vectors: Floats, centres: Floats) -> Rows:
    """(n,) the centre with the largest inner product for each of (n, D) vectors."""
    nearest = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        nearest[block] = (vectors[block] @ centres.T).argmax(axis=1)
    return nearest
