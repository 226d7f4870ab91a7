from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.batching import Packed, number_of_batches, shuffled_batches, windows
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


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 2**31))
def test_an_epoch_holds_every_row_once_in_even_batches(count: int, size: int, seed: int) -> None:
    batches = list(shuffled_batches(count, size, np.random.default_rng(seed)))
    assert len(batches) == number_of_batches(count, size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_packing_keeps_every_sequence_whole_and_apart(plain: list[int]) -> None:
    lengths = np.array(plain)
    packed = Packed.rows(lengths)
    rows, width = packed.shape
    assert 0 <= width - lengths.max() < 8
    assert width % 8 == rows % 4 == 0
    assert len(set(packed.places.tolist())) == lengths.sum()  # no two events in one place
    for part in np.split(packed.places, np.cumsum(lengths)[:-1]):
        assert (np.diff(part) == 1).all()
        assert part[0] // width == part[-1] // width  # within one row
    owners = packed.owners()
    assert (owners[: rows - 3] >= 0).any(axis=1).all()  # hardly a row is empty
    positions = packed.positions(np.zeros(len(packed.lengths), np.int64))
    for row, length in enumerate(lengths):
        assert positions[owners == row].tolist() == list(range(length - 1, -1, -1))
    values = np.arange(1, lengths.sum() + 1)
    assert packed.spread(values).reshape(-1)[packed.places].tolist() == values.tolist()


def test_packing_wastes_little() -> None:
    lengths = np.random.default_rng(0).geometric(0.15, 256).clip(2, 50)
    rows, width = Packed.rows(lengths).shape
    assert lengths.sum() > 0.9 * rows * width
