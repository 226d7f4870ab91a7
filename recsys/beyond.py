"""What the lists are like, beside whether they hit: one number a list length, no target needed.

Shapes: `T` users, `V` items, `K` listed items, `A` attributes or dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys import schema
from recsys.sequences import Ragged

USERS_PER_BLOCK = 1 << 14
TITLE = "title"

Features: TypeAlias = NDArray[np.float32] | sp.csr_array
Floats = NDArray[np.float64]


def beyond_accuracy(
    lists_TK: NDArray[np.int32],
    histories: Ragged,
    counts_V: NDArray[np.int64],
    features_VA: Features | None,
    cutoffs: Iterable[int],
) -> dict[str, float | None]:
    """Every measure of this file at every cutoff, by names such as `coverage@10`.

    Args:
        lists_TK: item indices, best first, 0 where there is none.
        histories: T ragged rows, what each user had before.
        counts_V: training events of each item.
        features_VA: unit vectors of the items, or None; then there is no diversity.
        cutoffs: the k.
    """
    values: dict[str, float | None] = {}
    for k in cutoffs:
        lists = lists_TK[:, :k]
        shown_V = np.bincount(lists.ravel(), minlength=len(counts_V) + 1)[1:]
        values[f"coverage@{k}"] = float((shown_V > 0).mean())
        values[f"gini@{k}"] = gini(shown_V)
        values[f"novelty@{k}"] = novelty(lists, counts_V)
        values[f"popularity_lift@{k}"] = popularity_lift(lists, histories, counts_V)
        values[f"diversity@{k}"] = None if features_VA is None else diversity(lists, features_VA)
        values[f"repeat_rate@{k}"] = repeat_rate(lists, histories)
    return values


def gini(shown_V: NDArray[np.int64]) -> float:
    """Gini coefficient of how often each item is shown: 0 all equally, towards 1 ever fewer items."""
    ordered, size = np.sort(shown_V), len(shown_V)
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float(weights @ ordered / max(size * int(ordered.sum()), 1))


def novelty(lists_TK: NDArray[np.int32], counts_V: NDArray[np.int64]) -> float:
    """Mean self-information -log2 p of the listed items, in bits, p the item's share of training events.

    Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma of recommender systems". An item
    without a training event counts as if it had one. The mean is over each user's list, then over users.
    """
    events = max(int(counts_V.sum()), 1)
    bits = np.log2(events) - np.log2(np.maximum(counts_V, 1))
    return _nan_mean(_list_means(lists_TK, bits))


def popularity_lift(
    lists_TK: NDArray[np.int32], histories: Ragged, counts_V: NDArray[np.int64]
) -> float | None:
    """(GAP of the lists - GAP of the histories) / GAP of the histories; 0 is no lift, 1 twice as popular.

    GAP, the group average popularity, is the mean over users of the mean training count of their items
    (Abdollahpouri et al. 2020, "The connection between popularity bias, calibration, and fairness in
    recommendation", equations 2 and 3). Users without a history are left out of both. None where
    there is nothing to compare: no history, none with an item of training, or no list.
    """
    with_history = histories.lengths > 0
    counts = counts_V.astype(np.float64)
    sums = np.add.reduceat(np.r_[counts[histories.values - 1], 0.0], histories.offsets[:-1])
    profile = _nan_mean(sums[with_history] / histories.lengths[with_history])
    listed_T = _list_means(lists_TK[with_history], counts)
    if profile == 0 or np.isnan(listed_T).all():
        return None
    return (_nan_mean(listed_T) - profile) / profile


def diversity(lists_TK: NDArray[np.int32], features_VA: Features) -> float | None:
    """Mean over users of 1 - the mean cosine of two different items of the list.

    Intra-list similarity of Ziegler et al. 2005, "Improving recommendation lists through topic
    diversification". The cosines of all pairs are had from the square of the sum of the unit vectors. Lists
    of fewer than two items are left out; an item without features is like no other. None where no list has
    two items.
    """
    means = []
    own_V = np.asarray((features_VA * features_VA).sum(axis=1), dtype=np.float64)
    for start in range(0, len(lists_TK), USERS_PER_BLOCK):
        lists = lists_TK[start : start + USERS_PER_BLOCK]
        rows, places = np.nonzero(lists)
        columns = lists[rows, places] - 1
        ones = np.ones(len(rows))
        member_BV = sp.csr_array((ones, (rows, columns)), shape=(len(lists), len(own_V)))
        summed = member_BV @ features_VA
        square_B = np.asarray((summed * summed).sum(axis=1), dtype=np.float64)
        length_B = np.bincount(rows, minlength=len(lists))
        pairs_B = square_B - member_BV @ own_V
        several = length_B > 1
        means.append(1 - pairs_B[several] / (length_B * (length_B - 1))[several])
    found = np.concatenate([np.empty(0), *means])
    return float(found.mean()) if len(found) else None


def repeat_rate(lists_TK: NDArray[np.int32], histories: Ragged) -> float:
    """Mean over users of the share of their list that their history holds; 0 where seen items are taken out.

    Empty lists are left out.
    """
    shares = []
    width = int(max(lists_TK.max(initial=0), histories.values.max(initial=0))) + 1
    for start in range(0, len(lists_TK), USERS_PER_BLOCK):
        lists = lists_TK[start : start + USERS_PER_BLOCK]
        seen = histories.take(np.arange(start, start + len(lists)))
        rows, places = np.nonzero(lists)
        keys = rows * width + lists[rows, places]
        again = np.isin(keys, seen.rows * width + seen.values)
        listed_B = np.bincount(rows, minlength=len(lists))
        repeated_B = np.bincount(rows[again], minlength=len(lists))
        shares.append(repeated_B[listed_B > 0] / listed_B[listed_B > 0])
    return _nan_mean(np.concatenate([np.empty(0), *shares]))


def attribute_features(items: pa.Table) -> sp.csr_array | None:
    """(V, A) unit vectors of the items' attributes, 1 for each value an item has before scaling; or None.

    Attributes are list columns, and text columns that fewer than half as many values as items share; numbers,
    titles and free text are none.
    """
    size, parts = len(items), []
    for name in items.column_names:
        if name in (*schema.RESERVED_ITEM_COLUMNS, TITLE):
            continue
        column = items[name].combine_chunks()
        kind = column.type
        nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if nested:
            rows, values = np.asarray(pc.list_parent_indices(column)), pc.list_flatten(column)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            rows, values = np.arange(size), column
        else:
            continue
        coded = values.dictionary_encode()
        known = np.asarray(coded.is_valid())
        if not known.any() or not (nested or len(coded.dictionary) < size / 2):
            continue
        codes = np.asarray(coded.indices.filter(pa.array(known)), dtype=np.int64)
        shape = (size, len(coded.dictionary))
        parts.append(sp.csr_array((np.ones(len(codes)), (rows[known], codes)), shape=shape))
    if not parts:
        return None
    binary = sp.csr_array(sp.hstack(parts, format="csr"))
    binary.data[:] = 1.0
    return sp.csr_array(sp.diags_array(1 / np.sqrt(np.maximum(binary.sum(axis=1), 1))) @ binary)


def vector_features(table_VD: NDArray[np.float32]) -> NDArray[np.float32]:
    """(V, D) unit vectors of an encoder's item table; a vector of zeros stays one."""
    lengths = np.linalg.norm(table_VD, axis=1, keepdims=True)
    unit: NDArray[np.float32] = table_VD / np.maximum(lengths, 1e-12)
    return unit


def _list_means(lists_TK: NDArray[np.int32], values_V: Floats) -> Floats:
    """(T,) mean value of each list's items; NaN for an empty list."""
    padded = np.r_[0.0, values_V]
    lengths = (lists_TK > 0).sum(axis=1)
    sums = np.zeros(len(lists_TK))
    for place in range(lists_TK.shape[1]):  # a column at a time: no (T, K) floats
        sums += padded[lists_TK[:, place]]
    return np.where(lengths > 0, sums / np.maximum(lengths, 1), np.nan)


def _nan_mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0
