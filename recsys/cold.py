"""What training never saw: which targets are asked for, which items may be answered, and means without them.

Shapes: `T` users, `E` targets of all of them, `V` items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recsys.dataset import Targets
from recsys.errors import InputError
from recsys.metrics import user_metrics
from recsys.ranking import Ranks
from recsys.sequences import Ragged

Candidates = Literal["all", "warm", "cold"]
"""What is ranked: every item, those that training has events of, or those that it has none of."""


def candidate_mask(candidates: str, counts_V: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """(V,) items that are ranked; None for all.

    Raises:
        InputError: there is no such choice.
    """
    if candidates not in get_args(Candidates):
        raise InputError(f"candidates `{candidates}` are unknown; known: {', '.join(get_args(Candidates))}")
    if candidates == "all":
        return None
    return counts_V > 0 if candidates == "warm" else counts_V == 0


def asked_among(
    targets: Targets, asked: Ragged, allowed_V: NDArray[np.bool_] | None, candidates: str
) -> tuple[Targets, Ragged]:
    """The users whose next item may be answered, and of their targets (T ragged rows) those that may.

    Raises:
        InputError: there is no such user.
    """
    if allowed_V is None:
        return targets, asked
    users = np.flatnonzero(allowed_V[targets.items - 1])
    if not len(users):
        raise InputError(f"no target is a {candidates} item; leave --candidates out, or use another split")
    rows = asked.take(users)
    kept = allowed_V[rows.values - 1]
    offsets = np.r_[0, np.cumsum(np.bincount(rows.rows[kept], minlength=len(rows)))].astype(np.int64)
    some = replace(
        targets,
        rows=targets.rows[users],
        histories=targets.histories.take(users),
        items=targets.items[users],
    )
    return some, Ragged(rows.values[kept], offsets)


def trained_metrics(
    ranks: Ranks, asked: Ragged, counts_V: NDArray[np.int64], cutoffs: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    """Metrics without the targets that no training event has; users whose next item is one are left out."""
    warm_E = counts_V[asked.values - 1] > 0
    kept_E = warm_E & warm_E[asked.offsets[:-1]][asked.rows]
    numbers = np.bincount(asked.rows[kept_E], minlength=len(asked))
    offsets = np.r_[0, np.cumsum(numbers[numbers > 0])]
    if len(offsets) == 1:
        return {name: np.empty(0) for name in user_metrics(ranks.above, ranks.level, ranks.offsets, cutoffs)}
    return user_metrics(ranks.above[kept_E], ranks.level[kept_E], offsets, cutoffs)
