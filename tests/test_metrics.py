from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from recsys.metrics import METRICS, hit_rate, ndcg, rank_counts, reciprocal_rank, user_metrics
from tests.benchmarks import metrics_reference


def measured(scores: list[list[float]], targets: list[int], name: str, k: int) -> list[float]:
    above, level = rank_counts(np.array(scores, dtype=np.float32), np.array(targets, dtype=np.int32))
    return [float(value) for value in METRICS[name](above, level, k)]


def test_ranks_without_ties() -> None:
    scores = [[0.1, 0.9, 0.5, 0.3]]
    for target, rank in ((2, 1), (3, 2), (4, 3), (1, 4)):
        assert measured(scores, [target], "hr", 2) == [float(rank <= 2)]
        assert measured(scores, [target], "ndcg", 4) == [pytest.approx(1 / np.log2(1 + rank))]
        assert measured(scores, [target], "mrr", 4) == [pytest.approx(1 / rank)]


@given(st.integers(1, 60), st.integers(1, 70))
def test_a_constant_scorer_scores_exactly_what_chance_scores(n_items: int, k: int) -> None:
    above, level = rank_counts(np.zeros((1, n_items), np.float32), np.array([1], np.int32))
    places = np.arange(1, n_items + 1)
    assert hit_rate(above, level, k)[0] == pytest.approx((places <= k).mean())
    assert ndcg(above, level, k)[0] == pytest.approx(np.where(places <= k, 1 / np.log2(places + 1), 0).mean())
    assert reciprocal_rank(above, level, k)[0] == pytest.approx(np.where(places <= k, 1 / places, 0).mean())


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=1, max_size=6), st.integers(1, 6), st.data()
)
def test_ties_are_the_mean_over_all_orders(scores: list[float], k: int, data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    hits = [
        sorted(order, key=lambda item: -scores[item]).index(target) < k and scores[target] != -np.inf
        for order in itertools.permutations(range(len(scores)))
    ]
    assert measured([scores], [target + 1], "hr", k) == [pytest.approx(np.mean(hits))]


def test_an_excluded_target_is_a_miss_and_nan_is_refused() -> None:
    assert measured([[-np.inf, -np.inf]], [1], "hr", 5) == [0.0]
    with pytest.raises(ValueError, match="NaN"):
        rank_counts(np.array([[np.nan, 1.0]], np.float32), np.array([2], np.int32))


def by_the_book(ranking: list[int], relevant: list[int], k: int) -> dict[str, float]:
    """The metrics of one ranking without ties, as textbooks write them; `relevant[0]` is the next item."""
    hits = [item in relevant for item in ranking[:k]]
    first = ranking.index(relevant[0]) + 1 if relevant[0] in ranking[:k] else None
    at_hits = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
    return {
        "hr": float(first is not None),
        "ndcg": 1 / np.log2(first + 1) if first else 0.0,
        "mrr": 1 / first if first else 0.0,
        "recall": sum(hits) / len(relevant),
        "precision": sum(hits) / k,
        "map": sum(at_hits) / min(k, len(relevant)),
    }


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=1, max_size=6), st.integers(1, 7), st.data()
)
def test_several_targets_are_the_mean_over_all_orders_of_ties(
    scores: list[float], k: int, data: st.DataObject
) -> None:
    items = st.sampled_from(range(len(scores)))
    users = data.draw(st.lists(st.lists(items, min_size=1, unique=True), min_size=1, max_size=3))
    flat = np.array([target + 1 for relevant in users for target in relevant], np.int32)
    offsets = np.r_[0, np.cumsum([len(relevant) for relevant in users])]
    above, level = rank_counts(np.tile(np.array(scores, np.float32), (len(flat), 1)), flat)
    found = user_metrics(above, level, offsets, [k])
    for user, relevant in enumerate(users):
        each = []
        for order in itertools.permutations(range(len(scores))):
            ranked = [
                item for item in sorted(order, key=lambda item: -scores[item]) if scores[item] > -np.inf
            ]
            each.append(by_the_book(ranked, relevant, k))
        for name in each[0]:
            known = np.mean([values[name] for values in each])
            assert found[f"{name}@{k}"][user] == pytest.approx(known, abs=1e-9), name


@given(st.integers(1, 40), st.integers(1, 50), st.data())
def test_a_constant_scorer_finds_its_share_of_several_targets(
    n_items: int, k: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, n_items))
    above, level = np.zeros(n, np.int64), np.full(n, n_items)
    found = user_metrics(above, level, np.array([0, n]), [k])
    assert found[f"recall@{k}"][0] == pytest.approx(min(k, n_items) / n_items)
    assert found[f"precision@{k}"][0] == pytest.approx(min(k, n_items) * n / n_items / k)
    # A place holds a target with probability n / V, and the one before it with (n - 1) / (V - 1).
    expected = 0.0
    for place in range(1, min(k, n_items) + 1):
        earlier = (place - 1) * (n - 1) / max(n_items - 1, 1)
        expected += n / n_items * (1 + earlier) / place
    assert found[f"map@{k}"][0] == pytest.approx(expected / min(k, n))


def test_a_perfect_ranking_of_several_targets_is_perfect() -> None:
    found = user_metrics(np.array([0, 1, 2, 3]), np.ones(4, np.int64), np.array([0, 4]), [2, 10])
    for name in ("map@2", "map@10", "recall@10", "precision@2"):
        assert found[name][0] == pytest.approx(1.0, abs=1e-12)
    assert (found["recall@2"][0], found["precision@10"][0]) == (0.5, 0.4)


def test_every_metric_is_what_ranx_says_of_users_with_one_and_with_several_targets() -> None:
    reference = json.loads(metrics_reference.REFERENCE.read_text(encoding="utf-8"))
    rankings, targets = reference["rankings"], reference["targets"]
    numbers = {len(row) for row in targets}
    assert 1 in numbers and max(numbers) > 20, "one target, and more than the longest list can hold"
    found = metrics_reference.ours(rankings, targets)
    assert found.keys() == reference["expected"].keys()
    for name, expected in reference["expected"].items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-9, err_msg=name)


@given(st.integers(2, 40), st.integers(1, 50), st.sampled_from([2, 5, 1000]), st.integers(0, 10_000))
def test_ndcg_and_average_precision_agree_with_scikit_learn(
    n_items: int, k: int, levels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(3, n_items)).astype(np.float32)
    targets = rng.integers(1, n_items + 1, size=3).astype(np.int32)
    truth = np.zeros((3, n_items))
    truth[np.arange(3), targets - 1] = 1
    known = ndcg_score(truth, scores, k=k)  # the mean over the orders of ties
    assert ndcg(*rank_counts(scores, targets), k).mean() == pytest.approx(known, abs=1e-9)

    untied = rng.permutation(n_items).astype(np.float32)
    relevant = rng.choice(n_items, rng.integers(1, n_items + 1), replace=False)
    above, level = rank_counts(np.tile(untied, (len(relevant), 1)), np.asarray(relevant + 1, dtype=np.int32))
    found = user_metrics(above, level, np.array([0, len(relevant)]), [n_items])
    theirs = average_precision_score(np.isin(np.arange(n_items), relevant), untied)
    assert found[f"map@{n_items}"][0] == pytest.approx(theirs, abs=1e-9)
