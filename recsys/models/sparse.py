"""Sparse pieces that the counting models share.

Shapes: `B` sequences, `V` items; column j is item j+1.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.sequences import Ragged


def last_items(histories: Ragged, n_items: int) -> sp.csr_array:
    """(B, V) float32, 1 at the last item of each history; an empty history has an empty row."""
    return all_items(histories.last(1), n_items)


def all_items(histories: Ragged, n_items: int) -> sp.csr_array:
    """(B, V) float32, how often each history holds each item."""
    ones = np.ones(len(histories.values), dtype=np.float32)
    offsets = histories.offsets.copy()  # summing works in place, and a memory-mapped array is read-only
    matrix = sp.csr_array((ones, histories.values - 1, offsets), shape=(len(histories), n_items))
    matrix.sum_duplicates()
    return matrix


def strongest_per_row(matrix: sp.csr_array, count: int) -> sp.csr_array:
    """The `count` largest entries of each row; of equal ones, those with the lower column."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    rank = np.arange(len(order)) - matrix.indptr[:-1][rows[order]]
    kept = order[rank < count]
    pairs = (rows[kept], matrix.indices[kept])
    return sp.csr_array((matrix.data[kept], pairs), shape=matrix.shape)


def matrix_to_arrays(matrix: sp.csr_array) -> dict[str, NDArray[np.generic]]:
    """The three arrays of a square sparse matrix, for the bundle."""
    return {
        "data": matrix.data.astype(np.float32),
        "indices": matrix.indices.astype(np.int32),
        "indptr": matrix.indptr.astype(np.int64),
    }


def matrix_from_arrays(arrays: dict[str, NDArray[np.generic]], size: int) -> sp.csr_array:
    """The (size, size) matrix that `matrix_to_arrays` took apart."""
    parts = (arrays["data"], arrays["indices"], arrays["indptr"])
    return sp.csr_array(parts, shape=(size, size))
