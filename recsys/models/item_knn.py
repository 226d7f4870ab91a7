"""Item-kNN: items that the same sequences hold, by the cosine of their binary sequence vectors.

Shapes: `B` sequences, `S` training sequences, `V` items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import ItemKNNConfig
from recsys.models.popularity import tie_breaker
from recsys.models.sparse import (
    all_items,
    last_items,
    matrix_from_arrays,
    matrix_to_arrays,
    strongest_per_row,
)
from recsys.sequences import Ragged

TIE_SCALE = np.float32(1e-6)  # below any difference between cosines that matters
ROWS_PER_BLOCK = 1024


@dataclass(frozen=True)
class ItemKNN:
    """Sum of the cosines to the last item, or to every item of the history.

    Attributes:
        prior: (V,) popularity scaled into [0, 1e-6).
        neighbours: (V, V) sparse cosines, the nearest items of each row, without the item itself.
        last_only: whether the last item alone votes.
    """

    prior: NDArray[np.float32]
    neighbours: sp.csr_array
    last_only: bool

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) summed cosines."""
        voters = (last_items if self.last_only else all_items)(histories, len(self.prior))
        return sp.csr_array(voters @ self.neighbours)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Prior and neighbours."""
        return {"prior": self.prior, **matrix_to_arrays(self.neighbours)}

    @classmethod
    def from_arrays(cls, config: ItemKNNConfig, arrays: dict[str, NDArray[np.generic]]) -> ItemKNN:
        """Rebuild from what `arrays` gave."""
        prior = np.asarray(arrays["prior"], dtype=np.float32)
        return cls(prior, matrix_from_arrays(arrays, len(prior)), config.history == "last")


def fit_item_knn(
    config: ItemKNNConfig, training: Ragged, times: NDArray[np.int64] | None, n_items: int
) -> ItemKNN:
    """Cosines in blocks of rows, so that the (V, V) product never stands in memory at once."""
    held_SV = all_items(training, n_items)
    held_SV.data[:] = 1.0
    norms_V = np.sqrt(np.maximum(held_SV.sum(axis=0), 1.0))
    unit_SV = sp.csr_array(held_SV @ sp.diags_array(1.0 / norms_V, dtype=np.float32))
    unit_VS = sp.csr_array(unit_SV.T)
    blocks = []
    for start in range(0, n_items, ROWS_PER_BLOCK):
        cosines = sp.coo_array(unit_VS[start : start + ROWS_PER_BLOCK] @ unit_SV)
        other = cosines.row + start != cosines.col
        pairs = (cosines.row[other], cosines.col[other])
        block = sp.csr_array((cosines.data[other], pairs), shape=cosines.shape)
        blocks.append(strongest_per_row(block, config.neighbours))
    neighbours = sp.csr_array(sp.vstack(blocks, format="csr"), dtype=np.float32)
    return ItemKNN(tie_breaker(training, n_items) * TIE_SCALE, neighbours, config.history == "last")
