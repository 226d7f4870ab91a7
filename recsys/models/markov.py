"""First-order Markov chain: what followed the last item, most often first, then by popularity.

Shapes: `B` sequences, `V` items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import MarkovConfig
from recsys.models.popularity import tie_breaker
from recsys.models.sparse import last_items, matrix_from_arrays, matrix_to_arrays
from recsys.sequences import Ragged


@dataclass(frozen=True)
class Markov:
    """Transition counts of the last item; the prior (popularity below 1) is the backoff.

    Attributes:
        prior: (V,) popularity scaled into [0, 1).
        transitions: (V, V) sparse counts, row i-1 column j-1 how often item j followed item i.
    """

    prior: NDArray[np.float32]
    transitions: sp.csr_array

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) counts of what followed the last item of each history; nothing for an empty one."""
        return sp.csr_array(last_items(histories, len(self.prior)) @ self.transitions)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Prior and transitions."""
        return {"prior": self.prior, **matrix_to_arrays(self.transitions)}

    @classmethod
    def from_arrays(cls, config: object, arrays: dict[str, NDArray[np.generic]]) -> Markov:
        """Rebuild from what `arrays` gave."""
        prior = np.asarray(arrays["prior"], dtype=np.float32)
        return cls(prior, matrix_from_arrays(arrays, len(prior)))


def fit_markov(
    config: MarkovConfig, training: Ragged, times: NDArray[np.int64] | None, n_items: int
) -> Markov:
    """Count the transitions inside each training sequence."""
    before, after = training.values[:-1], training.values[1:]
    rows = training.rows
    inside = rows[:-1] == rows[1:]
    ones = np.ones(int(inside.sum()), dtype=np.float32)
    pairs = (before[inside] - 1, after[inside] - 1)
    transitions = sp.coo_array((ones, pairs), shape=(n_items, n_items)).tocsr()
    return Markov(tie_breaker(training, n_items), transitions)
