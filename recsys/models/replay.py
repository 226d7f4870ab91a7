"""History replay: the items of the history again, newest first, then by popularity.

The floor of data with repeats (music, visits): what a model adds is what it knows beyond it. It answers with
seen items alone, so it needs a ranking that keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import ReplayConfig
from recsys.models.popularity import tie_breaker
from recsys.sequences import Ragged


@dataclass(frozen=True)
class Replay:
    """An item of the history scores its last place there; the prior (popularity below 1) orders the rest."""

    prior: NDArray[np.float32]

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) place, from 1, of each item's last event in each history."""
        n_items = len(self.prior)
        places = np.arange(len(histories.values)) - np.repeat(histories.offsets[:-1], histories.lengths) + 1
        pairs = histories.rows * n_items + histories.values - 1
        pairs, from_the_end = np.unique(pairs[::-1], return_index=True)
        rows = np.searchsorted(pairs, np.arange(len(histories) + 1) * n_items)
        parts = (places[::-1][from_the_end].astype(np.float32), pairs % n_items, rows)
        return sp.csr_array(parts, shape=(len(histories), n_items))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The prior."""
        return {"prior": self.prior}

    @classmethod
    def from_arrays(cls, config: object, arrays: dict[str, NDArray[np.generic]]) -> Replay:
        """Rebuild from what `arrays` gave."""
        return cls(np.asarray(arrays["prior"], dtype=np.float32))


def fit_replay(
    config: ReplayConfig, training: Ragged, times: NDArray[np.int64] | None, n_items: int
) -> Replay:
    """Count every training event; the histories bring the rest."""
    return Replay(tie_breaker(training, n_items))
