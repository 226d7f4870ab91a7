"""Popularity, over all of training or over its last days.

Shapes: `B` sequences, `V` items, `E` training events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import PopularityConfig, RecentPopularityConfig
from recsys.errors import InputError
from recsys.sequences import Ragged

MICROSECONDS_PER_DAY = 86_400 * 1_000_000


@dataclass(frozen=True)
class Popularity:
    """The same scores for every history: the prior alone."""

    prior: NDArray[np.float32]

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) without a stored entry."""
        return sp.csr_array((len(histories), len(self.prior)), dtype=np.float32)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The prior."""
        return {"prior": self.prior}

    @classmethod
    def from_arrays(cls, config: object, arrays: dict[str, NDArray[np.generic]]) -> Popularity:
        """Rebuild from what `arrays` gave."""
        return cls(np.asarray(arrays["prior"], dtype=np.float32))


def item_counts(items: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    """(V,) events of each item among item indices (E,)."""
    return np.bincount(items, minlength=n_items + 1)[1 : n_items + 1].astype(np.int64)


def recent_counts(
    training: Ragged, times: NDArray[np.int64] | None, n_items: int, days: float
) -> NDArray[np.int64]:
    """(V,) events in the last `days` of the training part; all of its events where the data has no time."""
    if times is None or not len(times):
        return item_counts(training.values, n_items)
    since = times.max() - days * MICROSECONDS_PER_DAY
    return item_counts(training.values[times > since], n_items)


def tie_breaker(training: Ragged, n_items: int) -> NDArray[np.float32]:
    """(V,) popularity scaled into [0, 1), so that it orders what whole numbers leave tied."""
    counts = item_counts(training.values, n_items)
    scaled: NDArray[np.float32] = (counts / (counts.max(initial=0) + 1)).astype(np.float32)
    return scaled


def fit_popularity(
    config: PopularityConfig, training: Ragged, times: NDArray[np.int64] | None, n_items: int
) -> Popularity:
    """Count every training event."""
    return Popularity(item_counts(training.values, n_items).astype(np.float32))


def fit_recent_popularity(
    config: RecentPopularityConfig, training: Ragged, times: NDArray[np.int64] | None, n_items: int
) -> Popularity:
    """Count the training events of the last days; all-time popularity orders the items without one.

    Raises:
        InputError: the data has no time.
    """
    if times is None:
        raise InputError(
            "model `recent_popularity` needs event times, and this prepared data set has none; "
            "map `data.columns.time`, or use model `popularity`"
        )
    recent = recent_counts(training, times, n_items, config.days)
    return Popularity(recent.astype(np.float32) + tie_breaker(training, n_items))
