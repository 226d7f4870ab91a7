"""Item-kNN: items that the same sequences hold, by the cosine of their binary sequence vectors.

Shapes: `B` sequences, `S` training sequences, `V` items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import ItemKNNConfig
from recsys.models.popularity import tie_breaker
from recsys.models.sparse import (
    all_items,
    chosen_entries,
    last_items,
    matrix_from_arrays,
    matrix_to_arrays,
    recent_items,
    strongest_per_row,
)
from recsys.sequences import Ragged

TIE_SCALE = np.float32(1e-6)  # below any difference between cosines that matters
ENTRIES_PER_BLOCK = 1 << 22
"""Cosines held at once while fitting (some 200 MB with what sorting them takes)."""


@dataclass(frozen=True)
class ItemKNN:
    """Sum of the cosines to the items of the history that vote, each with its weight.

    Attributes:
        prior: (V,) popularity scaled into [0, 1e-6).
        neighbours: (V, V) sparse cosines, the nearest items of each row, without the item itself.
        history: which items vote: the last, all, or all with a weight that halves with age.
        half_life: events after which it does.
    """

    prior: NDArray[np.float32]
    neighbours: sp.csr_array
    history: Literal["last", "all", "recent"]
    half_life: float

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) summed cosines."""
        n_items = len(self.prior)
        if self.history == "recent":
            voters = recent_items(histories, n_items, self.half_life)
        else:
            voters = (last_items if self.history == "last" else all_items)(histories, n_items)
        return sp.csr_array(voters @ self.neighbours)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Prior and neighbours."""
        return {"prior": self.prior, **matrix_to_arrays(self.neighbours)}

    @classmethod
    def from_arrays(cls, config: ItemKNNConfig, arrays: dict[str, NDArray[np.generic]]) -> ItemKNN:
        """Rebuild from what `arrays` gave."""
        prior = np.asarray(arrays["prior"], dtype=np.float32)
        return cls(prior, matrix_from_arrays(arrays, len(prior)), config.history, config.half_life)


def fit_item_knn(
    config: ItemKNNConfig, training: Ragged, times: NDArray[np.int64] | None, n_items: int
) -> ItemKNN:
    """Cosines in blocks of rows, so that the (V, V) product never stands in memory at once."""
    held_SV = all_items(training, n_items)
    held_SV.data[:] = 1.0
    norms_V = np.sqrt(np.maximum(held_SV.sum(axis=0), 1.0))
    unit_SV = sp.csr_array(held_SV @ sp.diags_array(1.0 / norms_V, dtype=np.float32))
    unit_VS = sp.csr_array(unit_SV.T)
    # An item meets at most as many others as its sequences hold, and at most all: the entries of its row.
    entries_V = np.minimum(held_SV.T @ np.diff(held_SV.indptr), n_items)
    blocks = []
    for start, stop in _blocks(entries_V):
        cosines = sp.csr_array(unit_VS[start:stop] @ unit_SV)
        rows = np.repeat(np.arange(start, stop), np.diff(cosines.indptr))
        blocks.append(strongest_per_row(chosen_entries(cosines, cosines.indices != rows), config.neighbours))
    neighbours = sp.csr_array(sp.vstack(blocks, format="csr"), dtype=np.float32)
    prior = tie_breaker(training, n_items) * TIE_SCALE
    return ItemKNN(prior, neighbours, config.history, config.half_life)


def _blocks(entries_V: NDArray[np.floating]) -> Iterator[tuple[int, int]]:
    """Ranges of rows of at most `ENTRIES_PER_BLOCK` entries together, and at least one row each."""
    before = np.concatenate([[0], np.cumsum(entries_V)])
    start = 0
    while start < len(entries_V):
        stop = int(np.searchsorted(before, before[start] + ENTRIES_PER_BLOCK, side="right")) - 1
        yield start, max(stop, start + 1)
        start = max(stop, start + 1)
