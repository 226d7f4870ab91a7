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
    """(V,) 0 head, 1 torso, 2 tail, by the training events of more popular items.

    An item belongs where the events of all items of a higher count end, so that items of equal count are of
    one class; an item without an event is tail.
    """
    levels, level_V, items = np.unique(-counts_V, return_inverse=True, return_counts=True)
    events = -levels * items
    share = (np.cumsum(events) - events) / max(int(events.sum()), 1)
    classes: NDArray[np.int64] = (share >= HEAD).astype(np.int64) + (share >= TORSO)
    classes[levels == 0] = 2
    return np.take(classes, level_V)


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
