"""Sparse pieces that the counting models share.

Shapes: `B` sequences, `V` items, `R` rows of a matrix; column j is item j+1.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.metrics import BEYOND
from recsys.sequences import Ragged


def last_items(histories: Ragged, n_items: int) -> sp.csr_array:
    """(B, V) float32, 1 at the last item of each history; an empty history has an empty row."""
    return all_items(histories.last(1), n_items)


def all_items(histories: Ragged, n_items: int) -> sp.csr_array:
    """(B, V) float32, how often each history holds each item."""
    return _weighted(histories, np.ones(len(histories.values), dtype=np.float32), n_items)


def recent_items(histories: Ragged, n_items: int, half_life: float) -> sp.csr_array:
    """(B, V) float32, each event counted 0.5^(age / half_life); the newest event has age 0."""
    ages = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.values))
    matrix = _weighted(histories, np.exp2(-ages / half_life).astype(np.float32), n_items)
    matrix.eliminate_zeros()  # what is so old that its weight is below float32
    return matrix


def _weighted(histories: Ragged, weights: NDArray[np.float32], n_items: int) -> sp.csr_array:
    shape = (len(histories), n_items)
    matrix = sp.csr_array((weights, histories.values - 1, histories.offsets.copy()), shape=shape)
    matrix.sum_duplicates()
    return matrix


def chosen_entries(matrix: sp.csr_array, chosen: NDArray[np.bool_]) -> sp.csr_array:
    """The matrix with only those stored entries; `chosen` is aligned with `matrix.data`."""
    before = np.concatenate([[0], np.cumsum(chosen)])
    parts = (matrix.data[chosen], matrix.indices[chosen], before[matrix.indptr])
    return sp.csr_array(parts, shape=matrix.shape)


def chosen_rows(matrix: sp.csr_array, rows_B: NDArray[np.int64]) -> sp.csr_array:
    """(B, V) rows of a matrix (R, V), in that order; an empty row where `rows_B` is -1."""
    starts_B = matrix.indptr[rows_B].astype(np.int64)
    stops_B = np.where(rows_B < 0, starts_B, matrix.indptr[rows_B + 1])
    picked = Ragged(matrix.indices, matrix.indptr).slices(starts_B, stops_B)
    places = np.arange(picked.offsets[-1]) + np.repeat(starts_B - picked.offsets[:-1], picked.lengths)
    parts = (matrix.data[places], picked.values, picked.offsets)
    return sp.csr_array(parts, shape=(len(rows_B), matrix.shape[1]))


def strongest_per_row(matrix: sp.csr_array, count: int) -> sp.csr_array:
    """The `count` largest entries of each row; of equal ones, those with the lower column.

    Args:
        matrix: float32, every stored entry > 0; its indices are sorted in place.
        count: entries to keep.
    """
    matrix.sort_indices()
    stored_R = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(len(stored_R), dtype=np.uint64), stored_R)
    wide = np.flatnonzero(np.repeat(stored_R > count, stored_R))
    # The bits of a positive float32 are ordered as its value: one integer orders by row, then falling value.
    strength = matrix.data[wide].view(np.uint32).astype(np.uint64)
    order = np.argsort((rows[wide] << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - strength), kind="stable")
    before_R = np.cumsum(np.where(stored_R > count, stored_R, 0)) - stored_R
    rank = np.arange(len(wide)) - before_R[rows[wide[order]].astype(np.int64)]
    chosen = np.ones(len(matrix.data), dtype=np.bool_)
    chosen[wide[order[rank >= count]]] = False
    return chosen_entries(matrix, chosen)


def rank_counts_sparse(
    prior: NDArray[np.float32],
    scores: sp.csr_array,
    targets: NDArray[np.int32],
    exclude: Ragged | None = None,
    *,
    ordered_prior: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What `recsys.metrics.rank_counts` says of prior + scores, without making the (B, V) sum.

    Every item is counted with its prior first, by a search in the sorted prior; the stored entries, whose
    score is another, are then counted anew, and the excluded items taken out.

    Args:
        prior: (V,) score that every history starts from.
        scores: (B, V) what to add to it, each place stored at most once, in any order.
        targets: (B,) item indices in 1..V.
        exclude: B ragged rows of items that must not be ranked; an excluded target is a miss.
        ordered_prior: the prior in rising order, for a caller with many batches.

    Returns:
        (B,) items above each target, (B,) items level with it (at least 1, the target itself).
    """
    n_rows, n_items = scores.shape
    before = prior[scores.indices]
    totals = before + scores.data
    rows_B = np.arange(n_rows, dtype=np.int64)
    wanted_B = rows_B * n_items + targets - 1
    banned = np.empty(0, np.int64)
    if exclude is not None:
        banned = np.unique(exclude.rows * n_items + exclude.values - 1)
    known = _scores_at(np.concatenate([wanted_B, banned]), prior, scores, totals)
    goal_B, banned_scores = known[:n_rows], known[n_rows:]

    ordered = np.sort(prior) if ordered_prior is None else ordered_prior
    not_above_B = np.searchsorted(ordered, goal_B, side="right")
    above_B = n_items - not_above_B
    level_B = not_above_B - np.searchsorted(ordered, goal_B, side="left")
    goal = np.repeat(goal_B, np.diff(scores.indptr))
    above_B += _per_row(totals > goal, scores.indptr) - _per_row(before > goal, scores.indptr)
    level_B += _per_row(totals == goal, scores.indptr) - _per_row(before == goal, scores.indptr)
    if len(banned):
        starts = np.searchsorted(banned, np.append(rows_B, n_rows) * n_items)
        goal = np.repeat(goal_B, np.diff(starts))
        above_B -= _per_row(banned_scores > goal, starts)
        level_B -= _per_row(banned_scores == goal, starts)
        missed_B = _per_row(banned == np.repeat(wanted_B, np.diff(starts)), starts) > 0
        above_B, level_B = np.where(missed_B, BEYOND, above_B), np.where(missed_B, 1, level_B)
    return above_B, level_B


def _per_row(marked: NDArray[np.bool_], starts: NDArray[np.integer]) -> NDArray[np.int64]:
    """(B,) marks in each of the runs that `starts` (B+1,) tells apart."""
    return np.diff(np.searchsorted(np.flatnonzero(marked), starts)).astype(np.int64)


def _scores_at(
    places: NDArray[np.int64],
    prior: NDArray[np.float32],
    scores: sp.csr_array,
    totals: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Score of each place row * V + column: its stored total, or else its prior.

    A table of marks finds the few stored entries that are asked for in one pass, which sorting all of them
    would take many times as long for.
    """
    n_rows, n_items = scores.shape
    asked = np.zeros(n_rows * n_items, dtype=np.bool_)
    asked[places] = True
    first = np.arange(n_rows, dtype=np.int64) * n_items
    hits = np.flatnonzero(asked[np.repeat(first, np.diff(scores.indptr)) + scores.indices])
    rows = np.searchsorted(scores.indptr, hits, side="right") - 1
    found = rows * n_items + scores.indices[hits]
    order = np.argsort(found)
    found, stored = np.append(found[order], -1), np.append(totals[hits[order]], np.float32(0))
    at = np.searchsorted(found[:-1], places)
    return np.where(found[at] == places, stored[at], prior[places % n_items])


def matrix_to_arrays(matrix: sp.csr_array, suffix: str = "") -> dict[str, NDArray[np.generic]]:
    """The three arrays of a sparse matrix, for the bundle; `suffix` tells several matrices apart."""
    return {
        f"data{suffix}": matrix.data.astype(np.float32),
        f"indices{suffix}": matrix.indices.astype(np.int32),
        f"indptr{suffix}": matrix.indptr.astype(np.int64),
    }


def matrix_from_arrays(
    arrays: dict[str, NDArray[np.generic]], n_items: int, suffix: str = ""
) -> sp.csr_array:
    """The matrix that `matrix_to_arrays` took apart, with `n_items` columns."""
    parts = tuple(arrays[f"{name}{suffix}"] for name in ("data", "indices", "indptr"))
    return sp.csr_array(parts, shape=(len(parts[2]) - 1, n_items))
