"""What evaluation, index, recommender, export and serving know of a model, and nothing more.

Shapes: `B` sequences, `L` positions, `D` width, `V` items. PAD is 0, items are 1..V, MASK is V+1; row or
column j of a table of items is item j+1.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from recsys.sequences import Ragged


@runtime_checkable
class Encoder(Protocol):
    """A trained encoder: score of item j+1 = inner product of the sequence vector with table row j.

    An item bias is one more dimension of both.
    """

    @property
    def max_history(self) -> int:
        """Newest items of a history that it reads; older ones are cut."""
        ...

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) float vectors of histories (B, L) int64, padded with PAD on the left, L <= max_history."""
        ...

    def item_table(self) -> torch.Tensor:
        """(V, D) float vectors of the items."""
        ...


@runtime_checkable
class CountingModel(Protocol):
    """A model that counts instead of training: score = prior + a sparse part that depends on the history.

    It needs no index: candidates are the stored entries of the sparse row and the top of the prior.
    """

    @property
    def prior(self) -> NDArray[np.float32]:
        """(V,) score that every history starts from; never negative, and it breaks the ties of the rest."""
        ...

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) float32, stored entries > 0, to be added to the prior."""
        ...

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything needed to rebuild the fitted model, by name; what the bundle stores."""
        ...


Model = Encoder | CountingModel
