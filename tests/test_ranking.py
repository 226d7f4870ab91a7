from __future__ import annotations

import numpy as np

from recsys import ranking
from recsys.dataset import Targets
from recsys.ranking import chunks, rank_all
from recsys.sequences import Ragged


def targets_of(n_users: int) -> Targets:
    histories = Ragged.of([[1 + user % 3] * (1 + user % 5) for user in range(n_users)])
    return Targets(np.arange(n_users), histories, np.full(n_users, 4, np.int32))


def test_the_scores_of_the_caller_are_left_alone() -> None:
    targets = targets_of(5)
    scores = np.arange(35, dtype=np.float32).reshape(5, 7)
    kept = scores.copy()
    asked = Ragged(targets.items, np.arange(6))
    rank_all(lambda histories: scores, targets, asked, n_items=7, k=3, exclude_seen=True)
    assert (scores == kept).all()


def test_chunks_are_bounded_whatever_the_catalogue() -> None:
    targets = targets_of(3000)
    for n_items in (10, 1_000_000, 10 * ranking.CELLS_PER_CHUNK):
        found = list(chunks(targets, n_items))
        most = max(min(ranking.CELLS_PER_CHUNK // n_items, ranking.ROWS_PER_CHUNK), 1)
        assert max(map(len, found)) == most
        assert np.sort(np.concatenate(found)).tolist() == list(range(3000))
