"""Ranking metrics as vectorised functions of ranks, one value a user.

A rank is told by two counts, so that ties are fair: how many items score higher than the target, and how
many score the same (the target among them). Every order of tied items is equally likely, and a metric is its
exact mean over the orders (McSherry & Najork 2008, "Computing information retrieval performance measures
efficiently in the presence of tied scores"); a constant scorer therefore scores what chance scores.

HR, NDCG and MRR ask for the next item. Recall, Precision and MAP ask for every item that the user has in the
split; with one target, recall is HR, precision is HR / k and MAP is MRR.

Shapes: `B` users, `V` items, `E` targets of all users.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
BEYOND = 1 << 62
LARGEST_CUTOFF = 1000


def rank_counts(scores_BV: NDArray[np.float32], targets_B: NDArray[np.int32]) -> tuple[Counts, Counts]:
    """Items above each target, and items level with it (at least 1, the target itself).

    An item that must not be ranked has score -inf. A target that is itself excluded is a miss: its
    place is beyond every k.

    Args:
        scores_BV: column j is item j+1.
        targets_B: item indices in 1..V.

    Raises:
        InputError: a score is NaN.
    """
    if np.isnan(scores_BV).any():
        raise InputError(
            "the model gave NaN scores; nothing can be ranked: train it again, or mend the scorer"
        )
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


def recall(above_E: Counts, level_E: Counts, offsets: Counts, k: int) -> Floats:
    """(B,) Recall@k: expected share of a user's targets among the first k, |hits| / |targets|.

    Args:
        above_E: items above each target; those of user b stand at `offsets[b]:offsets[b + 1]`.
        level_E: items level with each target, itself among them.
        offsets: (B+1,); every user has at least one target.
        k: the cutoff.
    """
    return np.add.reduceat(hit_rate(above_E, level_E, k), offsets[:-1]) / np.diff(offsets)


def precision(above_E: Counts, level_E: Counts, offsets: Counts, k: int) -> Floats:
    """(B,) Precision@k: |hits| / k, whatever the number of targets; arguments as in `recall`."""
    return np.add.reduceat(hit_rate(above_E, level_E, k), offsets[:-1]) / k


def average_precision(above_E: Counts, level_E: Counts, offsets: Counts, k: int) -> Floats:
    """(B,) AP@k: the sum over hits of the precision at their rank, divided by min(k, |targets|).

    A target of rank q gains (targets at ranks up to q) / q: one for itself, one for each that stands higher,
    and for each that it is tied with, one where that comes first. Over all orders of a tie of m items after
    `above` others, the ordered pair of two targets ends at each place q with probability
    (q - above - 1) / (m (m - 1)). Arguments as in `recall`.
    """
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((above_E, users))
    above, level, user = above_E[order], level_E[order], users[order]
    new = np.r_[True, (user[1:] != user[:-1]) | (above[1:] != above[:-1])]
    starts = np.flatnonzero(new)
    tied = np.diff(np.r_[starts, len(user)])  # targets of each tie
    above, level, user = above[starts], level[starts], user[starts]
    higher = starts - offsets[user]  # targets of the same user above the tie
    places = np.arange(1.0, k + 1)
    single = _mean_over_ties(1 / places, above, level)
    # Over places q: sum of (q - above - 1) / q = number of places - (above + 1) * sum of 1 / q.
    inside = np.minimum(above + level, k) - np.minimum(above, k)
    pairs = (inside - (np.minimum(above, k) + 1) * single * level) / np.maximum(level * (level - 1), 1)
    gained = tied * (higher + 1) * single + np.where(level > 1, tied * (tied - 1) * pairs, 0)
    total = np.bincount(user, weights=gained, minlength=len(offsets) - 1)
    return total / np.minimum(np.diff(offsets), k)


METRICS: dict[str, Callable[[Counts, Counts, int], Floats]] = {
    "hr": hit_rate,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
}
"""Name -> metric of the next item, of (above, level, k); a new one is added here."""

SET_METRICS: dict[str, Callable[[Counts, Counts, Counts, int], Floats]] = {
    "recall": recall,
    "precision": precision,
    "map": average_precision,
}
"""Name -> metric of all of a user's targets, of (above, level, offsets, k)."""


def user_metrics(
    above_E: Counts, level_E: Counts, offsets: Counts, cutoffs: Iterable[int]
) -> dict[str, Floats]:
    """Every metric at every cutoff, (B,) values each, by names such as `hr@10`.

    Args:
        above_E: items above each target, users one after another; the next item is each user's first.
        level_E: items level with each target.
        offsets: (B+1,) where each user's targets begin.
        cutoffs: the k.
    """
    first = offsets[:-1]
    values = {}
    for k in cutoffs:
        for name, metric in METRICS.items():
            values[f"{name}@{k}"] = metric(above_E[first], level_E[first], k)
        for name, set_metric in SET_METRICS.items():
            values[f"{name}@{k}"] = set_metric(above_E, level_E, offsets, k)
    return values


def metric_cutoff(metric: str) -> int:
    """The cutoff of a metric such as `ndcg@10`.

    Raises:
        InputError: there is no metric of that name, or its cutoff is out of bounds.
    """
    found = re.fullmatch(r"(\w+)@([1-9][0-9]{0,3})", metric)
    if not found or found[1] not in METRICS | SET_METRICS or int(found[2]) > LARGEST_CUTOFF:
        raise InputError(
            f"`{metric}` is no metric; expected one of {', '.join(METRICS | SET_METRICS)} with a cutoff from "
            f"1 to {LARGEST_CUTOFF:,}, such as ndcg@10"
        )
    return int(found[2])


def _mean_over_ties(gain_of_place: Floats, above_B: Counts, level_B: Counts) -> Floats:
    """Mean gain over the places above, ..., above + level - 1 (from 0); places beyond k gain nothing."""
    k = len(gain_of_place)
    total = np.concatenate([[0.0], np.cumsum(gain_of_place)])
    gained: Floats = total[np.minimum(above_B + level_B, k)] - total[np.minimum(above_B, k)]
    return gained / level_B
