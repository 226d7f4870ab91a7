"""Attributes become sentences, sentences become tokens, histories become blocks."""

from __future__ import annotations

import datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.text.attributes import text_columns, texts_of
from recsys.text.stream import SentenceTable
from recsys.text.tokens import KEY, PADDING, START, VALUE, ItemTokenizer

ITEMS = pa.table(
    {
        "index": [1, 2, 3, 4],
        "id": ["a", "b", "c", "d"],
        "count": [3, 2, 1, 0],
        "release_year": pa.array([1995.0, None, 2001.5, None]),
        "tags": pa.array([["old", "blue"], [], None, ["", None]]),
        "title": ["Toy  Story", "", None, " "],
        "shape": pa.array([{"x": 1}, None, None, None]),
    }
)


def tokenizer(kind: str = "wordpiece") -> ItemTokenizer:
    columns = ["title", "release_year", "tags"]
    return ItemTokenizer.trained_on(ITEMS, columns, size=200, kind=kind)  # type: ignore[arg-type]


def test_values_of_every_type_are_texts() -> None:
    assert texts_of(ITEMS["release_year"]) == ["1995", None, "2001.5", None]
    assert texts_of(ITEMS["tags"]) == ["old, blue", None, None, None]
    assert texts_of(ITEMS["title"]) == ["Toy Story", None, None, None]
    others = pa.chunked_array([pa.array([True, None])])
    assert texts_of(others) == ["True", None]
    assert texts_of(pa.chunked_array([[float("nan"), 3.0]])) == [None, "3"]
    assert texts_of(pa.chunked_array([[datetime.date(2024, 5, 1)]])) == ["2024-05-01"]


def test_the_title_comes_first_and_what_is_no_text_is_left_out() -> None:
    assert text_columns(ITEMS) == ["title", "release_year", "tags"]
    assert text_columns(ITEMS, ["tags", "elsewhere", "title"]) == ["tags", "title"]
    assert text_columns(ITEMS, limit=2) == ["title", "release_year"]
    with pytest.raises(InputError, match=r"attribute `shape` is of type struct.* leave it out"):
        text_columns(ITEMS, ["shape"])
    with pytest.raises(InputError, match=r"no text of colour, only release_year, tags, title, shape"):
        text_columns(ITEMS, ["colour"])
    with pytest.raises(InputError, match="only ids; a model that reads items needs their titles"):
        text_columns(ITEMS.select(["index", "id"]))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_sentences_are_keys_and_values_and_the_rest_is_unknown(kind: str) -> None:
    words = tokenizer(kind)
    made = words.sentences(ITEMS, None, max_attributes=3, max_tokens=32)
    assert made.without_text.tolist() == [2, 4]
    assert made.notes(ITEMS["id"]) == ["2 items have no text and share one learned sentence: b, d"]
    for row in (0, 2, 4):
        assert made.tokens[row].tolist() == [words.unknown]
    kinds = made.types[made.tokens.offsets[1] : made.tokens.offsets[2]].tolist()
    runs = [kinds[0], *(b for a, b in pairwise(kinds) if a != b)]
    assert runs == [KEY, VALUE] * 3  # title, release year, tags
    third = made.tokens[3].tolist()
    assert words._tokenizer.decode(third).replace(" ", "") == "releaseyear2001.5"
    assert tokenizer(kind).definition == words.definition  # the same texts, the same tokenizer


def test_long_texts_are_cut_and_counted() -> None:
    table = pa.table({"title": ["word " * 500, "short"]})
    words = ItemTokenizer.trained_on(table, ["title"], size=100, kind="wordpiece")
    made = words.sentences(table, None, max_attributes=3, max_tokens=32)
    assert made.truncated == 1
    assert len(made.tokens[1]) == 32 + len(words._encode(["title"]).values)
    assert "1 texts are longer than max_attribute_tokens" in made.notes(pa.chunked_array([["a", "b"]]))[0]


def test_a_tokenizer_without_special_tokens_or_no_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot be read .* expected a tokenizer.json"):
        ItemTokenizer("{}")
    bare = tokenizer().definition.replace("[MASK]", "[HIDDEN]")
    with pytest.raises(InputError, match=r"no \[MASK\] or <mask>, the mask token"):
        ItemTokenizer(bare)


histories = st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=6)


@given(histories, st.integers(2, 40), st.sampled_from([4, 8]), st.booleans())
def test_a_stream_is_the_plain_concatenation_cut_at_its_limit(
    rows: list[list[int]], max_tokens: int, width: int, tight: bool
) -> None:
    rng = np.random.default_rng(0)
    sentences = [rng.integers(10, 99, size=size) for size in (1, 3, 0, 7, 2, 12, 5)]
    offsets = np.r_[0, np.cumsum([len(each) for each in sentences])]
    flat = torch.from_numpy(np.concatenate(sentences).astype(np.int32))
    table = SentenceTable(flat, (flat % 2 + KEY).to(torch.uint8), torch.from_numpy(offsets))
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    counts = torch.tensor([len(row) for row in rows])
    made = table.stream(items, counts, start=1, pad=0, max_tokens=max_tokens, width=width, tight=tight)
    for number, row in enumerate(rows):
        own = made.owner_n == number
        real = made.types_nc[own] != PADDING
        expected = [1, *(int(token) for item in row for token in sentences[item])][:max_tokens]
        places = [0, *(place for place, item in enumerate(row, 1) for _ in sentences[item])][:max_tokens]
        assert made.tokens_nc[own][real].tolist() == expected
        assert made.places_nc[own][real].tolist() == list(range(len(expected)))
        assert made.items_nc[own][real].tolist() == places
        assert made.types_nc[own].flatten()[0] == START
        assert int(own.nonzero()[0]) == made.first_B[number]
        assert own.sum() == (1 if made.alone else -(-len(expected) // width))
