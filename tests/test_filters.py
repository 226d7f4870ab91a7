"""Conditions, limits of a value's share and least scores, against brute force over a small item table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.answers import Filters, Question, spread
from recsys.catalogue import Catalogue
from recsys.errors import InputError
from recsys.index import build_index
from recsys.predicates import Groups, holds
from recsys.recommender import Recommender
from recsys.search import Found
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring

N_ITEMS = 240
COLUMNS = {
    "year": pa.chunked_array([[1990, None, 1995], [2000, 1990]]),
    "price": pa.chunked_array([[1.5, 2.0, None, 0.5, 9.0]]),
    "title": pa.chunked_array([["b", "a", None, "c", "a"]]),
    "genres": pa.chunked_array([[["rock", "jazz"], [], None, ["jazz"], ["folk", "folk"]]]),
    "large": pa.chunked_array([[0, 2**60 + 1]]),
    "narrow": pa.chunked_array([pa.array([0.1, 0.2], pa.float32())]),
    "box": pa.chunked_array([[{"a": 1}, None]]),
    "kind": pa.chunked_array([pa.array(["a", "b"]).dictionary_encode()]),
    "new": pa.chunked_array([[True, False, None, True, False]]),
}


@pytest.mark.parametrize(
    ("name", "condition", "rows"),
    [
        ("year", [1990], [0, 4]),
        ("year", [1990, None], [0, 1, 4]),
        ("year", {"==": 1990}, [0, 4]),
        ("year", {"==": None}, [1]),
        ("year", {">=": 1990, "<=": 1995}, [0, 2, 4]),
        ("year", {">=": 1990.5}, [2, 3]),
        ("year", {">=": -1e300, "<=": 1e300}, [0, 2, 3, 4]),
        ("large", {">=": 2.5}, [1]),
        ("large", {"<=": 0.5}, [0]),
        ("narrow", {"<=": 0.1}, [0]),
        ("narrow", {">=": 0.2}, [1]),
        ("narrow", {"==": 0.1}, [0]),
        ("box", [], []),
        ("box", [None], [1]),
        ("year", {"in": [1990, 2000], ">=": 1995}, [3]),
        ("year", {"in": []}, []),
        ("year", {}, [0, 1, 2, 3, 4]),
        ("price", {"<=": 2}, [0, 1, 3]),
        ("title", {">=": "b"}, [0, 3]),
        ("title", ["a", None], [1, 2, 4]),
        ("genres", ["jazz"], [0, 3]),
        ("genres", {">=": "jazz"}, [0, 3]),
        ("genres", [None], [1, 2]),
        ("genres", ["folk", None], [1, 2, 4]),
        ("new", {"==": False}, [1, 4]),
    ],
)
def test_conditions(name: str, condition: Any, rows: list[int]) -> None:  # noqa: ANN401
    assert np.flatnonzero(holds(name, COLUMNS[name], condition)).tolist() == rows


def test_times_are_compared_with_text() -> None:
    days = pa.chunked_array([pa.array([0, 20_000], pa.date32())])
    assert holds("day", days, {">=": "2000-01-01"}).tolist() == [False, True]
    times = pa.chunked_array([pa.array([0, 10**15], pa.timestamp("us"))])
    assert holds("time", times, {"<=": "2000-01-01"}).tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "condition", "message"),
    [
        ("year", "1990", r"one of the text '1990'; give a list of values"),
        ("year", {">": 1}, r"the operator `>`, which is unknown; known: in, ==, >=, <="),
        ("year", {"in": 1990}, r"shall be `in` 1990; expected a list of values"),
        ("year", {">=": "old"}, r"is of type int64, not to be compared by >= with 'old'"),
        ("year", {">=": None}, r"not to be compared by >= with None"),
        ("year", {">=": float("nan")}, r"not to be compared by >= with nan"),
        ("year", {"<=": 2**70}, r"not to be compared by <= with 1180591620717411303424"),
        ("year", {"<=": [1]}, r"not to be compared by <= with \[1\]"),
        ("title", {"<=": 3}, r"is of type string, not to be compared by <= with 3"),
        ("box", ["x"], r"is of type struct<a: int64>, and one of \['x'\] is not"),
        ("kind", ["a"], r"is of type dictionary<.*>, and one of \['a'\] is not"),
        ("new", {">=": "x"}, r"is of type bool, not to be compared by >= with 'x'"),
    ],
)
def test_conditions_that_make_no_sense(name: str, condition: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(InputError, match=message):
        holds(name, COLUMNS[name], condition)


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_at_most_m_of_each_is_the_walk_down_the_ranking(
    values: list[list[int]],
    k: int,
    most: int,
    random: Any,  # noqa: ANN401
) -> None:
    ranking = list(range(1, len(values) + 1))
    random.shuffle(ranking)

    def search(k: int, allowed: Any) -> Found:  # noqa: ANN401
        found = [index for index in ranking if allowed[index - 1]][:k]
        found += [0] * (k - len(found))
        return np.array([found], np.int32), np.array([found], np.float32)

    group = Groups("v", pa.chunked_array([pa.array(values, pa.list_(pa.int64()))]))
    expected: list[int] = []
    counts = dict.fromkeys(range(4), 0)
    for index in ranking:
        has = set(values[index - 1])
        if len(expected) < k and all(counts[value] < most for value in has):
            expected.append(index)
            for value in has:
                counts[value] += 1
    assert spread(search, k, np.ones(len(values), bool), [(group, most)])[0].tolist() == expected


@pytest.fixture(scope="module", params=["annoy", "exact", "counts"])
def recommender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("filters")
    data = prepared(folder / "data", ring(N_ITEMS, 200), N_ITEMS)
    if request.param == "counts":
        return Recommender.load(counting_bundle(folder / "bundle", data, name="markov").folder)
    bundle = encoder_bundle(folder / "bundle", data)
    build_index(bundle, data.sequences, recall=1.0)
    return Recommender.load(bundle.folder, backend=request.param)


def test_k_come_whenever_k_may_and_else_the_answer_says_why(recommender: Recommender) -> None:
    seen = ["i1", "i2"]
    full = recommender.recommend(seen, k=20, max_per={"year": 2})
    years = [int(item.id[1:]) % 10 for item in full.items]  # type: ignore[index]
    assert max(np.bincount(years)) == 2 and len(years) == 20 and full.fewer_because is None
    short = recommender.recommend(seen, k=21, max_per={"year": 2})
    assert short.items == full.items
    assert short.fewer_because == "no further item may come with at most 2 of each `year`"
    ranked = recommender.recommend(seen, k=N_ITEMS)
    assert ranked.fewer_because == "only 238 of 240 items may come (exclude_seen)"
    least = ranked.items[0].score
    cut = recommender.recommend(seen, k=50, min_score=least)
    assert cut.items == [item for item in ranked.items if item.score >= least] and len(cut.items) < 50
    assert cut.fewer_because == f"only {len(cut.items)} items that may come score at least {least:g}"
    assert recommender.recommend(seen, k=5, min_score=1e300).items == []
    assert recommender.recommend(seen, k=5, min_score=-1e300).items == ranked.items[:5]
    few = recommender.recommend(seen, k=3, allow=["i2", "i9"], where={"year": {"<=": 1999}})
    assert few.fewer_because == "only 1 of 240 items may come (allow, where, exclude_seen)"
    popular = recommender.recommend([], k=3, max_per={"genres": 1})
    assert [item.id for item in popular.items] == [recommender.recommend([], k=1).items[0].id], (
        "all are music"
    )


def test_questions_together_are_answered_as_alone(recommender: Recommender) -> None:
    rng = np.random.default_rng(0)
    available = rng.random(N_ITEMS) < 0.5
    histories = [[f"i{i}" for i in rng.integers(1, N_ITEMS, size=size)] for size in (1, 3, 0, 7, 20, 5, 9)]
    kinds = [
        Filters(),
        Filters(exclude_seen=False),
        Filters(where={"genres": ["rock"]}, deny=["i3"]),
        Filters(max_per={"year": 1}, available=available),
        Filters(available=available),
        Filters(min_score=0.5),
    ]
    questions = [Question(history, k, filters) for history in histories for filters in kinds for k in (3, 10)]
    wrong = Question(["i1"], 5, Filters(where={"nope": [1]}))
    stages: list[str] = []
    together = recommender.answer([*questions, wrong], lambda stage, seconds: stages.append(stage))
    assert stages == ["filter", "encode", "search"]
    assert isinstance(together[-1], InputError) and "no attribute `nope`" in str(together[-1])
    for question, answer in zip(questions, together, strict=False):
        assert answer == recommender.answer([question])[0]
        assert not isinstance(answer, InputError)
        if question.filters.available is not None:
            indices = recommender.vocabulary.encode([item.id for item in answer.items])
            assert available[indices - 1].all()


def test_similar_items_are_filtered_too(recommender: Recommender) -> None:
    everything = recommender.answer_similar("i5", N_ITEMS, Filters())
    assert len(everything.items) == N_ITEMS - 1 and "i5" not in {item.id for item in everything.items}
    rock = recommender.answer_similar("i5", 10, Filters(where={"genres": ["rock"]}, deny=["i3"]))
    expected = [item for item in everything.items if int(str(item.id)[1:]) % 3 == 0 and item.id != "i3"]
    assert rock.items == expected[:10]
    spread_out = recommender.answer_similar("i5", 30, Filters(max_per={"year": 1}))
    assert len(spread_out.items) == 10 and spread_out.fewer_because is not None


def test_bad_limits_are_named(recommender: Recommender) -> None:
    with pytest.raises(InputError, match="at most 0 of each `year` are asked for; expected at least 1"):
        recommender.recommend(["i1"], max_per={"year": 0})
    with pytest.raises(InputError, match=r"no attribute `yeer` to filter by; known: title, genres, year"):
        recommender.recommend([], max_per={"yeer": 1})


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(10, 5), 10)
    table = data.items.append_column("box", pa.array([{"a": 1}] * 10))
    with pytest.raises(
        InputError, match=r"attribute `box` is of type struct<.*whose values cannot be counted"
    ):
        Catalogue(table, data.vocabulary).groups("box")
