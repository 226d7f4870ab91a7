from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.metrics import METRICS, hit_rate, ndcg, rank_counts, reciprocal_rank


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
