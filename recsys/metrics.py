"""Ranking metrics as vectorised functions of ranks, averaged over users.

A rank is told by two counts, so that ties are fair: how many items score higher than the target, and how
many score the same (the target among them). The target's rank is uniform over the places that the tied
items share, and a metric is its mean over them; a constant scorer therefore scores what chance scores.

Shapes: `B` users, `V` items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
BEYOND = 1 << 62


def rank_counts(scores_BV: NDArray[np.float32], targets_B: NDArray[np.int32]) -> tuple[Counts, Counts]:
    """Items above each target, and items level with it (at least 1, the target itself).

    An item that must not be ranked has score -inf. A target that is itself excluded is a miss: its
    place is beyond every k.

    Args:
        scores_BV: column j is item j+1.
        targets_B: item indices in 1..V.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(scores_BV).any():
        raise ValueError("the model gave NaN scores; nothing can be ranked")
    target_B1 = np.take_along_axis(scores_BV, targets_B[:, None].astype(np.int64) - 1, axis=1)
    above_B = (scores_BV > target_B1).sum(axis=1, dtype=np.int64)
    level_B = (scores_BV == target_B1).sum(axis=1, dtype=np.int64)
    excluded_B = np.isneginf(target_B1[:, 0])
    return np.where(excluded_B, BEYOND, above_B), np.where(excluded_B, 1, level_B)


def hit_rate(above_B: Counts, level_B: Counts, k: int) -> Floats:
    """(B,) HR@k: 1 where the target is among the first k. Equal to Recall@k with one target."""
    return _mean_over_ties(np.ones(k), above_B, level_B)


def ndcg(above_B: Counts, level_B: Counts, k: int) -> Floats:
    """(B,) NDCG@k with one target: 1 / log2(1 + rank) within the first k, rank from 1."""
    gains: Floats = np.reciprocal(np.log2(np.arange(2.0, k + 2)))
    return _mean_over_ties(gains, above_B, level_B)


def reciprocal_rank(above_B: Counts, level_B: Counts, k: int) -> Floats:
    """(B,) MRR@k: 1 / rank within the first k, rank from 1."""
    gains: Floats = np.reciprocal(np.arange(1.0, k + 1))
    return _mean_over_ties(gains, above_B, level_B)


METRICS: dict[str, Callable[[Counts, Counts, int], Floats]] = {
    "hr": hit_rate,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
}
"""Name -> metric of (above, level, k); a new one is added here."""


def _mean_over_ties(gain_of_place: Floats, above_B: Counts, level_B: Counts) -> Floats:
    """Mean gain over the places above, ..., above + level - 1 (from 0); places beyond k gain nothing."""
    k = len(gain_of_place)
    total = np.concatenate([[0.0], np.cumsum(gain_of_place)])
    gained: Floats = total[np.minimum(above_B + level_B, k)] - total[np.minimum(above_B, k)]
    return gained / level_B
