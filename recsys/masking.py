"""Which items of a training sequence are hidden.

Shapes: `B` sequences, `L` positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.schema import PAD


def cloze_mask(
    items_BL: NDArray[np.int32], *, mask_prob: float, last_item_prob: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(B, L) positions to hide: some anywhere in most rows, the last item alone in the others.

    As in the authors' code, a row of n items hides a fixed count of them, max(1, round(mask_prob * n)),
    chosen uniformly; with probability `last_item_prob` a row hides its last item alone, which is the
    task at prediction time.

    Args:
        items_BL: item indices, padded with PAD on the left; no row is all padding.
        mask_prob: share of items to hide (rho).
        last_item_prob: share of rows that hide the last item alone.
        rng: the source of all draws.
    """
    real_BL = items_BL != PAD
    keys_BL = np.where(real_BL, rng.random(items_BL.shape), np.inf)
    ranks_BL = keys_BL.argsort(axis=1).argsort(axis=1)
    counts_B = np.maximum(np.rint(mask_prob * real_BL.sum(axis=1)), 1)
    mask_BL: NDArray[np.bool_] = ranks_BL < counts_B[:, None]
    last_only_B = rng.random(len(items_BL)) < last_item_prob
    mask_BL[last_only_B] = False
    mask_BL[last_only_B, -1] = True
    return mask_BL
