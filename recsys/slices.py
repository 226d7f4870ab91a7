"""Parts of the users that a mean hides: by target, by history, by what training knew.

Shapes: `T` users, `V` items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.dataset import PreparedData, Targets

HEAD, TORSO = 0.5, 0.8
"""Items that hold the first half of the training events are head, up to 80% torso, the rest tail."""
LENGTHS = ((1, 5), (6, 10), (11, 20), (21, 50), (51, None))
"""Events of a history, from and to."""

Slices = dict[str, dict[str, NDArray[np.bool_]]]


def popularity_classes(counts_V: NDArray[np.int64]) -> NDArray[np.int64]:
    """(V,) 0 head, 1 torso, 2 tail, by the training events of items at least as popular.

    An item belongs where the events of the items before it, in order of count and then of index, end; an
    item without an event is tail.
    """
    order = np.argsort(-counts_V, kind="stable")
    before = np.cumsum(counts_V[order]) - counts_V[order]
    share = before / max(int(counts_V.sum()), 1)
    classes = np.empty(len(counts_V), dtype=np.int64)
    classes[order] = (share >= HEAD).astype(np.int64) + (share >= TORSO)
    classes[counts_V == 0] = 2
    return classes


def user_slices(data: PreparedData, targets: Targets, counts_V: NDArray[np.int64]) -> Slices:
    """(T,) masks by slicing and slice; a slice without a user is left out.

    `item popularity` and `target item` are of the next item; a cold item has no training event, a cold user
    no event of their own in training.

    Args:
        data: the prepared data.
        targets: the T users' targets.
        counts_V: training events of each item.
    """
    classes = popularity_classes(counts_V)[targets.items - 1]
    lengths = targets.histories.lengths
    warm_item = counts_V[targets.items - 1] > 0
    warm_user = data.train_end[targets.rows] > 0
    slices: Slices = {
        "item popularity": {name: classes == place for place, name in enumerate(("head", "torso", "tail"))},
        "history length": {
            f"{low}-{high}" if high else f"{low}+": (lengths >= low) & (lengths <= (high or lengths.max()))
            for low, high in LENGTHS
        },
        "target item": {"warm": warm_item, "cold": ~warm_item},
        "user": {"warm": warm_user, "cold": ~warm_user},
    }
    return {
        name: {part: mask for part, mask in parts.items() if mask.any()} for name, parts in slices.items()
    }
