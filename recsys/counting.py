"""Best items of a counting model: stored entries of the sparse row and the top of the prior, no index.

Shapes: `B` histories, `V` items, `k` answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.models import check_has_answers
from recsys.models.protocol import CountingModel
from recsys.search import Found
from recsys.sequences import Ragged


class Ranking:
    """Items in one order for everybody: by score, equal scores by index."""

    def __init__(self, scores: NDArray[np.float32]) -> None:
        """Sort once.

        Args:
            scores: (V,) score of each item.
        """
        self.scores = scores
        self.order = (np.argsort(-scores, kind="stable") + 1).astype(np.int32)

    def best(self, k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
        """(at most k,) item indices of the best allowed items; `allowed` is (V,)."""
        return self.order[:k] if allowed is None else self.order[allowed[self.order - 1]][:k]


class CountingIndex:
    """Search behind a counting model, from histories instead of vectors."""

    name = "counts"

    def __init__(self, model: CountingModel, model_name: str) -> None:
        """Take the model, with its name in `recsys.models.COUNTING`, and sort its prior."""
        self._model = model
        self._model_name = model_name
        self._prior = Ranking(model.prior)

    def search(
        self,
        histories: Ragged,
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude: Ragged | None = None,
    ) -> Found:
        """The k best allowed items of each history; arguments and answer as in `ItemIndex.search`.

        Raises:
            InputError: the model answers with items of the history, and those are excluded.
        """
        check_has_answers(self._model_name, exclude_seen=exclude is not None)
        stored = self._model.scores(histories)
        stored.sum_duplicates()
        longest = 0 if exclude is None else int(exclude.lengths.max(initial=0))
        # k unbanned items of the prior beat every other item that has no stored entry.
        head = self._prior.best(k + longest, allowed)
        indices = np.zeros((len(histories), k), dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        for row in range(len(histories)):
            entries = slice(stored.indptr[row], stored.indptr[row + 1])
            columns, values = stored.indices[entries].astype(np.int32) + 1, stored.data[entries]
            banned = np.empty(0, np.int32) if exclude is None else exclude[row]
            candidates = np.union1d(columns, head[: k + len(banned)])
            total = self._model.prior[candidates - 1].astype(np.float32)
            total[np.searchsorted(candidates, columns)] += values
            kept = ~np.isin(candidates, banned)
            if allowed is not None:
                kept &= allowed[candidates - 1]
            candidates, total = candidates[kept], total[kept]
            best = np.argsort(-total, kind="stable")[:k]  # candidates are sorted by index, and so stay ties
            indices[row, : len(best)] = candidates[best]
            scores[row, : len(best)] = total[best]
        return indices, scores
