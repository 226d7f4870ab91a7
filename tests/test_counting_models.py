from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from recsys.answers import Filters
from recsys.config import ItemKNNConfig
from recsys.errors import InputError
from recsys.metrics import rank_counts
from recsys.models import ANSWERS_SEEN, COUNTING, counting_from_arrays, fit_counting, item_knn
from recsys.models.protocol import CountingModel
from recsys.models.sparse import rank_counts_sparse, strongest_per_row
from recsys.recommender import Recommender
from recsys.sequences import Ragged
from serving.export import Wanted, export
from tests.worlds import DAY, counting_bundle, experiment, prepared

SEQUENCES = Ragged.of([[1, 2, 3], [1, 2, 4], [2, 4], [5], []])
TIMES = np.array([0, 1, 9, 0, 1, 2, 3, 9, 10], dtype=np.int64) * DAY
ITEMS = pa.table(
    {
        "title": ["red pizza", "blue pizza", "red burger", "green tea", None, "green burger"],
        "kinds": ["Pizza, Food", "Pizza, Food", "Burger, Food", "Tea", None, "Burger, Food"],
    }
)
KINDS: dict[str, dict[str, object]] = {
    **{name: {"name": name} for name in COUNTING},
    "markov 2": {"name": "markov", "order": 2},
    "markov 3": {"name": "markov", "order": 3, "backoff": 0.2},
    "item_knn all": {"name": "item_knn", "history": "all", "neighbours": 4},
    "item_knn recent": {"name": "item_knn", "history": "recent", "half_life": 1.5},
}


def fitted(**model: object) -> CountingModel:
    return fit_counting(experiment(**model).model, SEQUENCES, TIMES, 6, ITEMS)


def dense(model: CountingModel, *histories: list[int]) -> np.ndarray:
    scores = model.scores(Ragged.of(histories))
    assert isinstance(scores, sp.csr_array)
    assert scores.dtype == np.float32
    assert (scores.data > 0).all()
    return np.asarray(scores.toarray())


def random_sequences(n_items: int, n_sequences: int, seed: int = 0) -> Ragged:
    """Skewed random walks with repeats; some of them empty."""
    rng = np.random.default_rng(seed)
    draws = (rng.geometric(2 / n_items, size=rng.integers(0, 12)) for _ in range(n_sequences))
    return Ragged.of([np.minimum(row, n_items) for row in draws])


def test_popularity_counts_training_events() -> None:
    assert fitted(name="popularity").prior.tolist() == [2, 3, 1, 2, 1, 0]
    assert not dense(fitted(name="popularity"), [1, 2]).any()


def test_text_knn_finds_what_reads_alike_whether_it_was_heard_or_not() -> None:
    model = fitted(name="text_knn", attributes=["title"])
    scores = dense(model, [3], [4], [5], [1, 2])
    assert scores[0].argsort()[::-1][:3].tolist() == [2, 0, 5] or scores[0, 5] == pytest.approx(scores[0, 0])
    assert scores[0, 2] == pytest.approx(1)
    assert scores[1, 5] > 0 == scores[1, 0]  # green; item 6 has no event
    assert not scores[2].any()  # item 5 has no text
    assert scores[3, :2] == pytest.approx(scores[3, :2].mean(), rel=0.3)
    with pytest.raises(InputError, match="names `colour`, which the item table lacks; it has title, kinds"):
        fitted(name="text_knn", attributes=["colour"])


def test_category_popularity_is_match_times_popularity() -> None:
    model = fitted(name="category_popularity")
    (scores,) = dense(model, [1])
    mean = (2 + 3 + 1 + 2 + 1) / 5
    half = 1 / np.sqrt(2)  # both categories of item 1 hold half of its event; every item here has two
    np.testing.assert_allclose(scores, [2 * half, 3 * half, half / 2, 0, 0, mean * half / 2], rtol=1e-6)
    with pytest.raises(InputError, match=r"there is no column `colour`; set model\.attribute"):
        fitted(name="category_popularity", attribute="colour")
    config, titles = experiment(name="category_popularity").model, ITEMS.select(["title"])
    with pytest.raises(InputError, match="no column has values that recur"):
        fit_counting(config, SEQUENCES, None, 6, titles)


def test_recent_popularity_counts_a_window_and_orders_the_rest_by_popularity() -> None:
    prior = fitted(name="recent_popularity", days=5.0).prior
    np.testing.assert_allclose(prior, np.array([0, 0, 1, 1, 1, 0]) + np.array([2, 3, 1, 2, 1, 0]) / 4)
    with pytest.raises(InputError, match="needs event times"):
        fit_counting(experiment(name="recent_popularity").model, SEQUENCES, None, 6)


def test_markov_counts_what_followed_and_backs_off_to_popularity() -> None:
    model = fitted(name="markov")
    assert dense(model, [5, 2], [1], [5], []).tolist() == [
        [0, 0, 1, 2, 0, 0],
        [0, 2, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(model.prior, np.array([2, 3, 1, 2, 1, 0]) / 4)
    assert model.prior.max() < 1  # it never overrules a count


def backed_off(sequences: Ragged, history: list[int], order: int, backoff: float) -> dict[int, float]:
    """Stupid backoff written down from its definition, up to the scale that makes order 1 a count."""
    followed: Counter[tuple[tuple[int, ...], int]] = Counter()
    for row in range(len(sequences)):
        items = sequences[row].tolist()
        for place in range(1, len(items)):
            for n in range(1, min(order, place) + 1):
                followed[tuple(items[place - n : place]), items[place]] += 1
    contexts = [tuple(history[-n:]) for n in range(min(order, len(history)), 0, -1)]
    totals = {known: sum(count for (c, _), count in followed.items() if c == known) for known in contexts}
    found: dict[int, float] = {}
    for context in contexts:
        for (before, item), count in followed.items():
            if before == context and item not in found:
                found[item] = count / totals[context] * backoff ** (order - len(context))
    scale = totals[contexts[-1]] / backoff ** (order - 1) if contexts else 1.0
    return {item: score * scale for item, score in found.items()}


@pytest.mark.parametrize(("order", "backoff"), [(1, 0.4), (2, 0.4), (3, 0.4), (3, 0.05)])
def test_markov_of_any_order_is_stupid_backoff(order: int, backoff: float) -> None:
    sequences = random_sequences(7, 60)
    model = fit_counting(experiment(name="markov", order=order, backoff=backoff).model, sequences, None, 7)
    histories = [
        [],
        [1],
        [7, 7],
        [3, 1, 2],
        [1, 2, 1, 1, 2],
        [2, 2, 2, 2],
        *([a, b, 1] for a in (1, 6) for b in (1, 5)),
    ]
    scores = dense(model, *histories)
    for history, row in zip(histories, scores, strict=True):
        expected = np.zeros(7)
        for item, score in backed_off(sequences, history, order, backoff).items():
            expected[item - 1] = score
        np.testing.assert_allclose(row, expected, rtol=1e-5)
        assert row[row > 0].min(initial=1.0) > model.prior.max()  # whatever followed comes before the rest


def test_a_longer_context_knows_what_the_last_item_cannot() -> None:
    # After 3 comes 4 where 1 came before, 5 where 2 did, and 6 most often of all, but after neither.
    sequences = Ragged.of([[1, 3, 4]] * 2 + [[2, 3, 5]] * 2 + [[3, 6]] * 9)
    first, second = (
        fit_counting(experiment(name="markov", order=order).model, sequences, None, 6) for order in (1, 2)
    )
    assert (dense(first, [1, 3], [2, 3]).argmax(axis=1) + 1).tolist() == [6, 6]
    assert (dense(second, [1, 3], [2, 3], [3], [4, 3]).argmax(axis=1) + 1).tolist() == [4, 5, 6, 6]


def test_markov_stores_no_context_that_was_not_observed() -> None:
    arrays = fitted(name="markov", order=3).arrays()
    assert set(fitted(name="markov").arrays()) == {"prior", "data", "indices", "indptr"}
    assert len(arrays["keys_2"]) == 1  # 1, 2
    assert len(arrays["keys_3"]) == 0
    assert arrays["data_2"].tolist() == [1, 1]  # then 3, or 4


def test_item_knn_is_the_cosine_of_co_occurrence() -> None:
    held = np.zeros((5, 6))
    for row in range(5):
        held[row, SEQUENCES[row] - 1] = 1
    cosines = held.T @ held / np.maximum(np.sqrt(np.outer(held.sum(0), held.sum(0))), 1)
    np.fill_diagonal(cosines, 0)
    last, whole = fitted(name="item_knn"), fitted(name="item_knn", history="all")
    recent = fitted(name="item_knn", history="recent", half_life=2)
    np.testing.assert_allclose(dense(last, [3, 2]), cosines[[1]], rtol=1e-6)
    np.testing.assert_allclose(dense(whole, [3, 2]), cosines[[1]] + cosines[[2]], rtol=1e-6)
    expected = cosines[[1]] * (1 + 0.5) + cosines[[2]] * 0.5**0.5  # 2 is the newest, and two events older
    np.testing.assert_allclose(dense(recent, [2, 3, 2]), expected, rtol=1e-6)
    nearest = dense(fitted(name="item_knn", neighbours=1), [1], [2], [3], [4], [5])
    assert (np.count_nonzero(nearest, axis=1) <= 1).all()
    np.testing.assert_allclose(nearest.max(axis=1), cosines[:5].max(axis=1), rtol=1e-6)


def test_votes_of_a_very_old_event_vanish_without_a_trace() -> None:
    model = fitted(name="item_knn", history="recent", half_life=0.001)
    np.testing.assert_array_equal(dense(model, [1, 3, 2]), dense(fitted(name="item_knn"), [2]))


def test_item_knn_is_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(40, 200)
    config = ItemKNNConfig(neighbours=5)
    whole = fit_counting(config, sequences, None, 40).arrays()
    for size in (1, 100):
        monkeypatch.setattr(item_knn, "ENTRIES_PER_BLOCK", size)
        for name, array in fit_counting(config, sequences, None, 40).arrays().items():
            np.testing.assert_array_equal(array, whole[name])


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(1, 7)
)
def test_the_strongest_of_a_row_are_kept_and_lower_columns_of_equal_ones(
    rows: list[list[int]], count: int
) -> None:
    matrix = sp.csr_array(np.array(rows, dtype=np.float32))
    kept = strongest_per_row(matrix, count).toarray()
    for before, after in zip(np.array(rows), kept, strict=True):
        best = np.lexsort((np.arange(6), -before))[:count]
        expected = np.zeros(6)
        expected[best] = before[best]
        assert after.tolist() == expected.tolist()


def test_replay_answers_the_history_newest_first_then_popularity() -> None:
    model = fitted(name="replay")
    assert dense(model, [3, 1, 3, 5], []).tolist() == [[2, 0, 3, 0, 4, 0], [0] * 6]
    total = model.prior + dense(model, [3, 1, 3, 5], [], [6, 1])
    order = np.argsort(-total, axis=1, kind="stable") + 1
    assert order.tolist() == [[5, 3, 1, 2, 4, 6], [2, 1, 4, 3, 5, 6], [1, 6, 2, 4, 3, 5]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_counting_model_comes_back_from_its_arrays(kind: str) -> None:
    model = fitted(**KINDS[kind])
    assert isinstance(model, CountingModel)
    again = counting_from_arrays(experiment(**KINDS[kind]).model, model.arrays())
    histories = [[1, 2], [4], []]
    np.testing.assert_array_equal(dense(again, *histories), dense(model, *histories))
    np.testing.assert_array_equal(again.prior, model.prior)


@pytest.mark.parametrize("kind", KINDS)
def test_every_counting_model_is_served_and_exported_as_it_scores(kind: str, tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", random_sequences(30, 80), 30)
    bundle = counting_bundle(tmp_path / "bundle", data, **KINDS[kind])
    recommender = Recommender.load(bundle.folder)
    keep_seen = bundle.config.model.name in ANSWERS_SEEN
    model = bundle.model
    assert isinstance(model, CountingModel)
    rows = np.flatnonzero(data.sequences.lengths)
    histories = data.sequences.take(rows)
    total = model.prior + model.scores(histories).toarray()
    if not keep_seen:
        total[histories.rows, histories.values - 1] = -np.inf
    expected = np.argsort(-total, axis=1, kind="stable")[:, :8] + 1
    found, scores = recommender.recommend_batch(histories, 8, exclude_seen=not keep_seen)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(total, expected - 1, axis=1))
    wanted = Wanted(k=8, filters=Filters(exclude_seen=not keep_seen))
    export(recommender, data, tmp_path / "out.parquet", wanted)
    lists = pq.read_table(tmp_path / "out.parquet")["items"].take(rows).to_pylist()
    assert lists == [recommender.vocabulary.decode(row) for row in expected]


def test_replay_refuses_to_leave_out_what_it_answers_with(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", random_sequences(30, 80), 30)
    recommender = Recommender.load(counting_bundle(tmp_path / "bundle", data, name="replay").folder)
    with pytest.raises(InputError, match=r"items of the history again.*keep seen items \(--keep-seen"):
        recommender.recommend(["i3", "i4"], k=2)
    answer = recommender.recommend(["i3", "i4", "i9"], k=3, exclude_seen=False)
    assert [item.id for item in answer.items] == ["i9", "i4", "i3"]


@given(st.data())
def test_sparse_ranks_are_the_dense_ones(data: st.DataObject) -> None:
    n_items, n_rows = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    few = st.integers(0, 2)  # many ties, also between stored and plain scores
    prior = np.array(data.draw(st.lists(few, min_size=n_items, max_size=n_items)), dtype=np.float32)
    cells = st.lists(few, min_size=n_items, max_size=n_items)
    added = np.array(data.draw(st.lists(cells, min_size=n_rows, max_size=n_rows)), dtype=np.float32)
    items = st.integers(1, n_items)
    targets = np.array(data.draw(st.lists(items, min_size=n_rows, max_size=n_rows)), dtype=np.int32)
    seen = Ragged.of(data.draw(st.lists(st.lists(items, max_size=5), min_size=n_rows, max_size=n_rows)))
    total = prior + added
    for exclude in (None, seen):
        if exclude is not None:
            total[exclude.rows, exclude.values - 1] = -np.inf
        above, level = rank_counts(total, targets)
        # In any order of the stored entries: what a sparse product gives is not sorted.
        stored = sp.csr_array(
            sp.csr_array(added[:, ::-1].copy()) @ sp.csr_array(np.eye(n_items)[::-1].astype(np.float32))
        )
        found = rank_counts_sparse(prior, stored, targets, exclude)
        np.testing.assert_array_equal(found[0], above)
        np.testing.assert_array_equal(found[1], level)
