"""Items like one item: by the cosine of their vectors, or what a counting model makes of a one-item history.

Shapes: `B` items to find the like of, `V` items of the model.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.answering import RowsSearch
from recsys.bundle import Bundle
from recsys.counting import CountingIndex
from recsys.encoding import item_vectors
from recsys.models.protocol import Encoder
from recsys.search import ExactIndex, Found, ItemIndex
from recsys.sequences import Ragged


class Likeness:
    """What searches for items like items. Safe to ask from several threads."""

    def __init__(self, bundle: Bundle, index: ItemIndex | CountingIndex, device: str) -> None:
        """Take what a recommender has; vectors are made ready by the first question."""
        self._bundle = bundle
        self._index = index
        self._device = device

    def of(self, items: NDArray[np.int32]) -> RowsSearch:
        """The search for items like some of these B item indices; an item itself never comes."""
        each = Ragged(items, np.arange(len(items) + 1, dtype=np.int64))

        def search(rows: NDArray[np.int64], k: int, allowed: NDArray[np.bool_] | None) -> Found:
            chosen = each.take(rows)
            if isinstance(self._index, CountingIndex):
                return self._index.search(chosen, k, allowed=allowed, exclude=chosen)
            units = self._unit_vectors
            return units.search(units.table[chosen.values - 1], k, allowed=allowed, exclude=chosen)

        return search

    @cached_property
    def _unit_vectors(self) -> ExactIndex:
        """Item vectors of length 1, whose inner product is the cosine."""
        assert isinstance(self._bundle.model, Encoder)
        table = item_vectors(self._bundle.model)
        lengths = np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        return ExactIndex(table / lengths, self._device)
