from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.vocabulary import Vocabulary, vocabulary_of

ids = st.one_of(
    st.lists(st.integers(-(2**60), 2**60), unique=True, min_size=1, max_size=20),
    st.lists(st.text(max_size=5), unique=True, min_size=1, max_size=20),
)


@given(ids)
def test_ids_come_back_in_their_own_type(values: list[int | str]) -> None:
    vocabulary = vocabulary_of(values)
    indices = vocabulary.encode(values)
    assert indices.tolist() == list(range(1, len(values) + 1))
    assert vocabulary.decode(indices) == values
    assert vocabulary.encode_array(pa.array(values)).tolist() == indices.tolist()


@given(ids, st.randoms())
def test_the_hash_tells_order_and_type_apart(values: list[int | str], random: object) -> None:
    assert vocabulary_of(values).hash == vocabulary_of(list(values)).hash
    if len(values) > 1:
        assert vocabulary_of(values).hash != vocabulary_of(values[::-1]).hash
    if isinstance(values[0], int):
        assert vocabulary_of(values).hash != vocabulary_of([str(value) for value in values]).hash


def test_unknown_ids_are_pad_and_digits_find_integers() -> None:
    vocabulary = vocabulary_of([10, 20])
    assert vocabulary.encode([10, 99, "20", "x", None, True, 1.5]).tolist() == [1, 0, 2, 0, 0, 0, 0]
    assert vocabulary_of(["10"]).index(10) == 0
    assert (len(vocabulary), vocabulary.mask) == (2, 3)


def test_numpy_ids_are_as_good_as_pythons() -> None:
    numbers, words = vocabulary_of([10, 20]), vocabulary_of(["a", "b"])
    assert numbers.encode(np.array([20, 10, 30])).tolist() == [2, 1, 0]
    assert numbers.encode(np.array(["20", "x"])).tolist() == [2, 0]
    assert numbers.encode([np.uint8(10), np.bool_(True), np.float32(10)]).tolist() == [1, 0, 0]
    assert words.encode(np.array(["b", "c"])).tolist() == [2, 0]


@pytest.mark.parametrize("spelling", ["1_0", " 10 ", "+10", "010", "\u0661\u0660", "10.0", "-0", ""])
def test_a_string_finds_an_integer_in_its_plain_spelling_alone(spelling: str) -> None:
    vocabulary = vocabulary_of([10, 0, -10])
    assert vocabulary.index(spelling) == 0
    assert vocabulary.encode(["10", "0", "-10"]).tolist() == [1, 2, 3]


def test_bad_ids_are_refused() -> None:
    with pytest.raises(InputError, match="expected integers or strings"):
        Vocabulary(pa.array([1.5]))
    with pytest.raises(InputError, match="1 item ids are null"):
        Vocabulary(pa.array(["a", None]))
    with pytest.raises(InputError, match="stands twice"):
        vocabulary_of(["a", "a"])
    with pytest.raises(InputError, match="this vocabulary holds integers"):
        vocabulary_of([1]).encode_array(pa.array(["1"]))
    with pytest.raises(IndexError, match=r"1\.\.2"):
        vocabulary_of([1, 2]).decode(np.array([0]))
