from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.sequences import Ragged

rows = st.lists(st.lists(st.integers(1, 99), max_size=9), max_size=9)


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


@given(rows, st.data())
def test_every_cut_equals_the_same_cut_of_plain_lists(plain: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.of(plain)
    assert lists(ragged) == plain
    assert ragged.lengths.tolist() == [len(row) for row in plain]
    assert ragged.rows.tolist() == [place for place, row in enumerate(plain) for _ in row]
    k = data.draw(st.integers(1, 10))
    assert lists(ragged.last(k)) == [row[-k:] for row in plain]
    counts = [data.draw(st.integers(0, 10)) for _ in plain]
    assert lists(ragged.first(counts)) == [row[:count] for row, count in zip(plain, counts, strict=True)]
    if plain:
        chosen = data.draw(st.lists(st.integers(0, len(plain) - 1)))
        assert lists(ragged.take(chosen)) == [plain[row] for row in chosen]


@given(rows, st.integers(0, 12))
def test_padding_stands_on_the_left_and_the_newest_stay(plain: list[list[int]], width: int) -> None:
    matrix = Ragged.of(plain).padded(width)
    assert matrix.shape == (len(plain), width)
    for row, line in zip(plain, matrix.tolist(), strict=True):
        newest = row[-width:] if width else []
        assert line == [0] * (width - len(newest)) + newest


def test_padding_is_as_narrow_as_the_longest_row() -> None:
    assert Ragged.of([[1], [2, 3]]).padded().tolist() == [[0, 1], [2, 3]]
    assert Ragged.of([]).padded().shape == (0, 0)
    assert np.asarray(Ragged.of([[], []]).padded()).shape == (2, 0)
