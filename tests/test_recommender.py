from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from recsys.bundle import Bundle
from recsys.dataset import PreparedData
from recsys.encoding import encode_histories, item_vectors
from recsys.errors import InputError
from recsys.index import Backend, build_index
from recsys.models.protocol import CountingModel, Encoder
from recsys.recommender import Recommender
from recsys.sequences import Ragged
from tests.worlds import counting_bundle, encoder_bundle, item_id, prepared, ring

N_ITEMS = 400
KINDS: list[dict[str, Any]] = [
    {"name": "bert4rec"},
    {"name": "popularity"},
    {"name": "recent_popularity"},
    {"name": "markov"},
    {"name": "item_knn"},
    {"name": "item_knn", "history": "all"},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepared(tmp_path_factory.mktemp("recommender") / "data", ring(N_ITEMS, 300), N_ITEMS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Bundle:
    made = encoder_bundle(tmp_path_factory.mktemp("recommender") / "bundle", data)
    build_index(made, data.sequences)
    return made


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Recommender:
    return Recommender.load(bundle.folder)


@pytest.fixture(scope="module")
def markov(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Recommender:
    folder = tmp_path_factory.mktemp("recommender") / "markov"
    return Recommender.load(counting_bundle(folder, data, name="markov").folder)


def test_the_ring_is_answered_with_the_next_item(markov: Recommender) -> None:
    answer = markov.recommend(["i1", "i2", "i3", "i7"], k=3)
    assert answer.items[0].id == "i8" and answer.items[0].title == "Song 8"
    assert answer.items[0].score >= 1 > answer.items[1].score, "one transition, then the backoff"
    assert (answer.unknown, answer.fallback, answer.model_version) == ([], None, markov.model_version)
    assert markov.similar("i399", k=1)[0].id == "i400"
    assert markov.recommend(["i2"], k=1).items[0].title is None, "item 3 has no title"


def test_answers_are_brute_force_over_the_model(tmp_path: Path, data: PreparedData, bundle: Bundle) -> None:
    histories = data.sequences.take(range(20))
    for number, kind in enumerate(KINDS):
        made = bundle
        if kind["name"] != "bert4rec":
            made = counting_bundle(tmp_path / str(number), data, **kind)
        recommender = Recommender.load(made.folder, backend="exact")
        if isinstance(made.model, Encoder):
            dense = encode_histories(made.model, histories).astype(np.float64) @ item_vectors(made.model).T
        else:
            assert isinstance(made.model, CountingModel)
            dense = made.model.scores(histories).toarray() + made.model.prior
        mask = recommender.catalogue.allowed(deny=["i5", "i6"], where={"genres": ["rock", "folk"]})
        for allowed in (None, mask):
            for seen in (True, False):
                got, scores = recommender.recommend_batch(histories, 25, exclude_seen=seen, allowed=allowed)
                for row in range(len(histories)):
                    expected = dense[row].astype(np.float32)
                    if seen:
                        expected[histories[row] - 1] = -np.inf
                    if allowed is not None:
                        expected[~allowed] = -np.inf
                    order = np.lexsort((np.arange(N_ITEMS), -expected))[:25]
                    assert got[row].tolist() == (order + 1).tolist(), kind
                    assert np.allclose(scores[row], expected[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["annoy", "exact"])
def test_a_history_is_answered_the_same_alone_and_among_others(bundle: Bundle, backend: Backend) -> None:
    recommender = Recommender.load(bundle.folder, backend=backend)
    assert recommender.backend == backend
    rng = np.random.default_rng(0)
    histories = Ragged.of([rng.integers(1, N_ITEMS + 1, size=rng.integers(0, 60)) for _ in range(150)])
    together = recommender.recommend_batch(histories, 30)
    shuffled = rng.permutation(150)
    mixed = recommender.recommend_batch(histories.take(shuffled), 30)
    for row in range(150):
        alone = recommender.recommend_batch(histories.take([row]), 30)
        place = int(np.flatnonzero(shuffled == row)[0])
        for many, at in ((together, row), (mixed, place)):
            assert np.array_equal(alone[0][0], many[0][at])
            assert np.array_equal(alone[1][0], many[1][at]), "to the last bit"


def test_unknown_ids_are_ignored_and_named(encoder: Recommender) -> None:
    answer = encoder.recommend(["nope", "i4", 17, "i9", "nope"], k=5, deny=["i1", "gone"])
    assert answer.unknown == ["nope", 17, "gone"]
    assert answer.fallback is None
    assert answer.items == encoder.recommend(["i4", "i9"], k=5, deny=["i1"]).items


@pytest.mark.parametrize("history", [[], ["nope"]])
def test_without_a_known_item_recent_popularity_answers_and_says_so(
    encoder: Recommender, markov: Recommender, history: list[str]
) -> None:
    for recommender in (encoder, markov):
        answer = recommender.recommend(history, k=12)
        assert (answer.fallback, answer.unknown) == ("recent popularity", history)
        columns = (recommender.bundle.items[name].to_pylist() for name in ("recent", "count", "index"))
        order = sorted((-recent, -count, index) for recent, count, index in zip(*columns, strict=True))
        assert [item.id for item in answer.items] == [f"i{index}" for *_, index in order[:12]]
        denied = recommender.recommend(history, k=12, deny=[answer.items[0].id])
        assert [item.id for item in denied.items][:11] == [item.id for item in answer.items][1:]


def test_filters_leave_what_they_should(encoder: Recommender) -> None:
    seen = ["i1", "i2", "i3"]
    assert len(encoder.recommend(seen, k=1000).items) == N_ITEMS - 3
    assert len(encoder.recommend(seen, k=1000, exclude_seen=False).items) == N_ITEMS
    only = encoder.recommend(seen, k=10, allow=["i3", "i4", "i5", "nope"])
    assert {item.id for item in only.items} == {"i4", "i5"} and only.unknown == ["nope"]
    both = encoder.recommend(seen, k=50, where={"genres": ["rock"], "year": [1990, 1991]})
    right = {f"i{i}" for i in range(4, N_ITEMS + 1) if i % 3 == 0 and i % 10 in (0, 1)}
    assert {item.id for item in both.items} == right
    assert encoder.recommend(seen, k=5, allow=[]).items == []
    assert encoder.recommend(seen, k=5, where={"year": [5]}).items == []


def test_bad_questions_get_clear_answers(encoder: Recommender) -> None:
    with pytest.raises(InputError, match=r"no attribute `genre` to filter by; known: title, genres, year"):
        encoder.recommend(["i1"], where={"genre": ["rock"]})
    with pytest.raises(InputError, match=r"attribute `year` is of type int64, and one of .*'abc'"):
        encoder.recommend(["i1"], where={"year": ["abc"]})
    with pytest.raises(InputError, match=r"attribute `year` is of type int64, and one of \[1180591620717"):
        encoder.recommend(["i1"], where={"year": [2**70]})
    with pytest.raises(InputError, match=r"attribute `title` is of type string, and one of \['\\ud800'\]"):
        encoder.recommend(["i1"], where={"title": ["\ud800"]})
    with pytest.raises(InputError, match="k is 0; expected at least 1"):
        encoder.recommend(["i1"], k=0)
    with pytest.raises(InputError, match="item 'nope' is unknown"):
        encoder.similar("nope")


def test_similar_is_by_cosine(encoder: Recommender) -> None:
    assert isinstance(encoder.bundle.model, Encoder)
    table = item_vectors(encoder.bundle.model).astype(np.float64)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosines = unit @ unit[6]
    cosines[6] = -np.inf
    found = encoder.similar("i7", k=8)
    assert [item.id for item in found] == [f"i{at + 1}" for at in np.argsort(-cosines)[:8]]
    assert np.allclose([item.score for item in found], np.sort(cosines)[::-1][:8], atol=1e-6)


def test_items_are_found_best_match_first(encoder: Recommender) -> None:
    counts = dict(zip(*(encoder.bundle.items[name].to_pylist() for name in ("id", "count")), strict=True))
    found = encoder.search_items("sONG 12", k=50)
    assert [item.title for item in found[:1]] == ["Song 12"]
    assert {item.id for item in found} == {"i12"} | {f"i{n}" for n in range(120, 130)}
    in_order = sorted((counts[f"i{n}"] for n in range(120, 130)), reverse=True)
    assert [item.count for item in found[1:]] == in_order
    assert encoder.search_items("i3", k=1)[0].id == "i3" and encoder.search_items("i3", k=1)[0].title is None
    assert encoder.search_items("no such thing") == []
    popular = [item.count for item in encoder.search_items("", k=5)]
    assert popular == sorted(counts.values(), reverse=True)[:5]


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_frames_come_back_in_their_kind(encoder: Recommender, kind: Callable[..., object]) -> None:
    frame = kind(
        {
            "user": ["b", "a", "b", "a", "c", "b"],
            "song": ["i9", "i4", "i7", "i5", "unknown", "i8"],
            "at": [3, 2, 1, 1, 1, 2],
        }
    )
    answer = encoder.recommend_frame(frame, sequence="user", item="song", time="at", k=4)
    assert type(answer) is type(frame)
    rows: Any = nw.from_native(answer, eager_only=True)
    assert rows.columns == ["user", "rank", "song", "score"]
    assert rows["user"].to_list() == ["b"] * 4 + ["a"] * 4 + ["c"] * 4
    assert rows["rank"].to_list() == [1, 2, 3, 4] * 3
    histories: list[list[int | str]] = [["i7", "i8", "i9"], ["i5", "i4"], []]
    expected = [item for history in histories for item in encoder.recommend(history, k=4).items]
    assert rows["song"].to_list() == [item.id for item in expected]
    assert rows["score"].to_list() == [item.score for item in expected]
    unordered = encoder.recommend_frame(frame, sequence="user", item="song", k=4)
    first = nw.from_native(unordered, eager_only=True)["song"].to_list()[:4]
    assert first == [item.id for item in encoder.recommend(["i9", "i7", "i8"], k=4).items]


def test_frames_that_do_not_fit_are_refused(encoder: Recommender) -> None:
    frame = pl.DataFrame({"sequence": ["a", None], "item": ["i1", "i2"], "number": [1, 2]})
    with pytest.raises(InputError, match="has no column `song`; it has sequence, item, number"):
        encoder.recommend_frame(frame, item="song")
    with pytest.raises(InputError, match="column `sequence` has 1 nulls"):
        encoder.recommend_frame(frame)
    with pytest.raises(InputError, match="item ids are of type int64, but this vocabulary holds strings"):
        encoder.recommend_frame(frame.drop_nulls(), item="number")
    with pytest.raises(InputError, match=r"got a LazyFrame; expected .* collect it first"):
        encoder.recommend_frame(frame.lazy())
    with pytest.raises(InputError, match="got a dict; expected"):
        encoder.recommend_frame({"sequence": ["a"], "item": ["i1"]})
    empty = encoder.recommend_frame(frame.clear())
    assert empty.is_empty() and empty.columns == ["sequence", "rank", "item", "score"]


def categories_of(kind: str, values: list[str]) -> Any:  # noqa: ANN401 -- a column of that library
    """A column of categories, sorted, of which the last is never used."""
    categories = [*sorted(set(values)), "zz"]
    if kind == "pandas":
        return pd.Categorical(values, categories=categories)
    if kind == "polars":
        return pl.Series(values, dtype=pl.Enum(categories))
    return pa.DictionaryArray.from_arrays([categories.index(value) for value in values], categories)


@pytest.mark.parametrize(
    ("kind", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("arrow", pa.table)]
)
def test_categories_answer_like_their_values(
    encoder: Recommender, kind: str, frame: Callable[..., object]
) -> None:
    columns = {"user": ["b", "a", "b"], "song": ["i9", "i4", "i7"], "day": ["tue", "mon", "mon"]}
    coded = frame({name: categories_of(kind, values) for name, values in columns.items()})
    answers = [
        encoder.recommend_frame(each, sequence="user", item="song", time="day", k=2)
        for each in (coded, frame(columns))
    ]
    got, right = (nw.from_native(answer, eager_only=True).to_dict(as_series=False) for answer in answers)
    assert got == right and got["user"] == ["b", "b", "a", "a"]


@pytest.mark.parametrize("name", ["score", "rank", "song"])
def test_names_that_would_stand_twice_in_the_answer_are_refused(encoder: Recommender, name: str) -> None:
    frame = pl.DataFrame({"user": ["u"], "score": ["a"], "rank": ["i2"], "song": ["i1"]})
    with pytest.raises(InputError, match=f"column `{name}` would stand twice .* rename it in the frame"):
        encoder.recommend_frame(frame, sequence=name, item="song")
    with pytest.raises(InputError, match=f"column `{name}` would stand twice"):
        encoder.recommend_frame(frame, sequence="song", item=name)
    by_score = encoder.recommend_frame(frame, sequence="user", item="song", time=name, k=1)
    assert by_score.columns == ["user", "rank", "song", "score"], "the column of times is not answered"


def test_integer_ids_keep_their_type(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(30, 50), 30, strings=False)
    recommender = Recommender.load(encoder_bundle(tmp_path / "b", data).folder)
    answer = recommender.recommend([10, "20", 5], k=3)
    assert answer.unknown == [5] and all(type(item.id) is int for item in answer.items)
    array: Any = np.array([10, 20])
    assert recommender.recommend(array, k=3) == recommender.recommend([10, 20], k=3)
    assert recommender.search_items("300")[0].id == item_id(30, strings=False)


def test_threads_get_the_same_answers(encoder: Recommender) -> None:
    histories = [[f"i{start + step}" for step in range(1 + start % 7)] for start in range(1, 60)]
    expected = [encoder.recommend(history) for history in histories]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(encoder.recommend, histories)) == expected


def test_answering_imports_nothing_of_training(bundle: Bundle) -> None:
    program = (
        "import sys, serving.app, serving.export, serving.server, recsys.bundle, recsys.recommender\n"
        "heavy = {'lightning', 'pytorch_lightning', 'mlflow', 'polars', 'matplotlib', 'narwhals'}\n"
        "print(sorted((heavy | {'pandas'}) & set(sys.modules)))\n"
        f"recommender = recsys.recommender.Recommender.load({str(bundle.folder)!r})\n"
        "recommender.recommend(['i1']); serving.app.create_app(recommender)\n"
        "print(sorted(heavy & set(sys.modules)))"  # Arrow itself imports pandas when it sees the first array
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]
