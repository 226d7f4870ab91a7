from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.batching import WIDTH_GROWTH, BatchPlan, windows
from recsys.sequences import Ragged

sequences = st.lists(st.integers(0, 40), min_size=1, max_size=30).map(
    lambda lengths: Ragged.of([np.arange(1, length + 1) for length in lengths])
)


@given(sequences, st.integers(2, 12))
def test_windows_cover_every_event_and_end_at_the_end(ragged: Ragged, length: int) -> None:
    cut = windows(ragged, length)
    assert cut.lengths.max(initial=0) <= length
    expected: Counter[int] = Counter()
    for row in range(len(ragged)):
        if ragged.lengths[row] >= 2:
            expected.update([int(ragged.lengths[row])])
    newest = Counter(int(cut[row][-1]) for row in range(len(cut)))
    assert all(newest[last] >= count for last, count in expected.items())
    longest = max(expected, default=0)
    assert set(cut.values.tolist()) == set(range(1, longest + 1))


def test_a_long_sequence_gives_overlapping_windows() -> None:
    cut = windows(Ragged.of([np.arange(1, 10)]), 4)
    assert [cut[row].tolist() for row in range(len(cut))] == [
        [6, 7, 8, 9],
        [4, 5, 6, 7],
        [2, 3, 4, 5],
        [1, 2, 3, 4],
    ]


@given(sequences, st.integers(1, 200), st.integers(0, 2**31))
def test_an_epoch_holds_every_row_once_within_the_budget(ragged: Ragged, budget: int, seed: int) -> None:
    rows = windows(ragged, 20)
    plan = BatchPlan.by_length(rows, budget)
    batches = list(plan.epoch(np.random.default_rng(seed)))
    assert len(batches) == len(plan)
    seen = Counter(tuple(row[row > 0].tolist()) for batch in batches for row in batch)
    assert seen == Counter(tuple(rows[row].tolist()) for row in range(len(rows)))
    for batch in batches:
        assert batch.size <= budget or len(batch) == 1
        shortest = (batch > 0).sum(axis=1).min()
        assert shortest > int(batch.shape[1] / WIDTH_GROWTH) - 1  # little of a batch is padding


def test_epochs_differ_and_repeat_with_their_seed() -> None:
    plan = BatchPlan.by_length(Ragged.of([[row + 1, row + 2] for row in range(50)]), 20)

    def epoch(seed: int) -> list[list[list[int]]]:
        return [batch.tolist() for batch in plan.epoch(np.random.default_rng(seed))]

    assert epoch(1) == epoch(1) != epoch(2)
