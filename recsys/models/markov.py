"""Markov chain of order 1 to 3: what followed the last items, the longer context first, then popularity.

Backing off is "stupid backoff" (Brants et al. 2007, "Large Language Models in Machine Translation", eq. 5):
an item that followed the longest known context scores its share among the followers of that context; one that
followed only a shorter context scores its share there, times 0.4 for each step down. Scores here are that
times the transitions from the last item and divided by 0.4 for each step above order 1, which changes no
order: the score of order 1 is then the plain count, and no stored score is below 1, above the prior.

Contexts form a tree, so that they are exact and small: a context of order n is the number of its newest n-1
items' context, and one older item. Shapes: `B` sequences, `V` items, `T` transitions, `C` contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import MarkovConfig
from recsys.models.popularity import tie_breaker
from recsys.models.sparse import chosen_rows, matrix_from_arrays, matrix_to_arrays
from recsys.sequences import Ragged


@dataclass(frozen=True)
class Contexts:
    """The observed contexts of one order and what followed them.

    Attributes:
        keys: (C,) int64, rising: number of the context without its oldest item, times V, plus that item - 1.
            Of order 1 there are V, without keys: the last item - 1 is the number.
        followers: (C, V) sparse counts, column j-1 how often item j followed.
    """

    keys: NDArray[np.int64] | None
    followers: sp.csr_array

    @cached_property
    def totals(self) -> NDArray[np.float32]:
        """(C,) transitions from each context, and a 0 that number -1 finds."""
        return np.append(self.followers.sum(axis=1), 0).astype(np.float32)


@dataclass(frozen=True)
class Markov:
    """Transition counts; the prior (popularity below 1) is the last backoff.

    Attributes:
        prior: (V,) popularity scaled into [0, 1).
        contexts: of order 1, 2 and so on.
        backoff: factor of a step to the next shorter context.
    """

    prior: NDArray[np.float32]
    contexts: tuple[Contexts, ...]
    backoff: float

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) backed-off counts of what followed the last items; nothing for an empty history."""
        order = len(self.contexts)
        numbers = _numbers(histories.last(order).padded(order), self.contexts)
        steps = zip(self.contexts, numbers, strict=True)
        level, last_B = next(steps)
        found = chosen_rows(level.followers, last_B)
        transitions_B = level.totals[last_B]
        for above, (level, number_B) in enumerate(steps, start=1):
            longer = chosen_rows(level.followers, number_B)
            share_B = transitions_B / np.maximum(level.totals[number_B], 1) / self.backoff**above
            longer.data *= np.repeat(share_B.astype(np.float32), np.diff(longer.indptr))
            found = longer + (found - found.multiply(longer != 0))
        return sp.csr_array(found, dtype=np.float32)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Prior, transitions of order 1, and keys and transitions of each order above."""
        arrays: dict[str, NDArray[np.generic]] = {"prior": self.prior}
        for order, level in enumerate(self.contexts, start=1):
            arrays |= matrix_to_arrays(level.followers, _suffix(order))
            if level.keys is not None:
                arrays[f"keys{_suffix(order)}"] = level.keys
        return arrays

    @classmethod
    def from_arrays(cls, config: MarkovConfig, arrays: dict[str, NDArray[np.generic]]) -> Markov:
        """Rebuild from what `arrays` gave."""
        prior = np.asarray(arrays["prior"], dtype=np.float32)
        levels = [Contexts(None, matrix_from_arrays(arrays, len(prior)))]
        for order in range(2, config.order + 1):
            keys = np.asarray(arrays[f"keys{_suffix(order)}"], dtype=np.int64)
            levels.append(Contexts(keys, matrix_from_arrays(arrays, len(prior), _suffix(order))))
        return cls(prior, tuple(levels), config.backoff)


def fit_markov(
    config: MarkovConfig, training: Ragged, times: NDArray[np.int64] | None, n_items: int
) -> Markov:
    """Count what followed every context inside each training sequence."""
    rows = training.rows
    after = np.flatnonzero(rows[1:] == rows[:-1]) + 1
    followers_T = training.values[after]
    starts_T = np.maximum(training.offsets[rows[after]], after - config.order)
    windows_TN = training.slices(starts_T, after).padded(config.order)
    levels = []
    number_T = windows_TN[:, -1].astype(np.int64) - 1
    levels.append(Contexts(None, _counts(number_T, followers_T, n_items, n_items)))
    for order in range(2, config.order + 1):
        sought_T = _keys(number_T, windows_TN[:, -order], n_items)
        keys = np.unique(sought_T[sought_T >= 0])
        number_T = _find(keys, sought_T)
        levels.append(Contexts(keys, _counts(number_T, followers_T, len(keys), n_items)))
    return Markov(tie_breaker(training, n_items), tuple(levels), config.backoff)


def _suffix(order: int) -> str:
    """Name of an order's arrays in the bundle."""
    return "" if order == 1 else f"_{order}"


def _numbers(windows_BN: NDArray[np.int32], contexts: tuple[Contexts, ...]) -> Iterator[NDArray[np.int64]]:
    """(B,) the context of each order that each window, padded on the left, ends in; -1 where unknown."""
    n_items = contexts[0].followers.shape[1]
    number_B = windows_BN[:, -1].astype(np.int64) - 1
    yield number_B
    for order, level in enumerate(contexts[1:], start=2):
        assert level.keys is not None
        number_B = _find(level.keys, _keys(number_B, windows_BN[:, -order], n_items))
        yield number_B


def _keys(shorter_B: NDArray[np.int64], older_B: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    """(B,) keys of the contexts with one more, older item; -1 where there is no such context."""
    return np.where((shorter_B >= 0) & (older_B > 0), shorter_B * n_items + older_B - 1, -1)


def _find(keys: NDArray[np.int64], sought_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """(B,) place of each key among the rising keys, -1 where it is not there."""
    place_B = np.searchsorted(keys, sought_B)
    return np.where(np.append(keys, -2)[place_B] == sought_B, place_B, -1)


def _counts(
    number_T: NDArray[np.int64], followers_T: NDArray[np.int32], n_contexts: int, n_items: int
) -> sp.csr_array:
    known = number_T >= 0
    ones = np.ones(int(known.sum()), dtype=np.float32)
    pairs = (number_T[known], followers_T[known] - 1)
    return sp.coo_array((ones, pairs), shape=(n_contexts, n_items)).tocsr()
