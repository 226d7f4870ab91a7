from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.beyond import (
    attribute_features,
    beyond_accuracy,
    diversity,
    gini,
    novelty,
    popularity_lift,
    repeat_rate,
    vector_features,
)
from recsys.evaluation import evaluate
from recsys.sequences import Ragged
from recsys.slices import popularity_classes
from tests.worlds import encoder_bundle, prepared, ring


def lists(*rows: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    return np.array(rows, dtype=np.int32)


def test_gini_is_0_for_equal_and_towards_1_for_one_item() -> None:
    assert gini(np.array([3, 3, 3, 3])) == 0.0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(1 - 1 / 4)
    shown = np.array([1, 5, 0, 2])
    mean_gap = np.mean([abs(a - b) for a, b in itertools.product(shown, shown)])
    assert gini(shown) == pytest.approx(mean_gap / (2 * shown.mean()))


def test_novelty_is_the_mean_self_information_in_bits() -> None:
    counts = np.array([8, 4, 4, 0])  # 1, 2 and 2 bits; never trained on: as one of 16 events, 4 bits
    assert novelty(lists([1, 2], [3, 4]), counts) == pytest.approx((1.5 + 3) / 2)
    assert novelty(lists([1, 0], [2, 3]), counts) == pytest.approx((1 + 2) / 2)  # a short list


def test_popularity_lift_is_relative_to_the_histories() -> None:
    counts = np.array([10, 2, 6])
    histories = Ragged.of([[2, 2], [3], []])  # means 2 and 6; the last user has none
    assert popularity_lift(lists([1, 1], [1, 3], [2, 2]), histories, counts) == pytest.approx((9 - 4) / 4)
    assert popularity_lift(lists([2], [3], [1]), histories, counts) == pytest.approx(0)
    unknown = np.array([0, 0, 6])
    assert popularity_lift(lists([3], [3]), Ragged.of([[1], [2]]), unknown) is None
    assert popularity_lift(lists([3]), Ragged.of([[]]), counts) is None
    assert popularity_lift(lists([0]), Ragged.of([[1]]), counts) is None


def test_items_of_equal_count_are_of_one_class() -> None:
    assert popularity_classes(np.array([1, 1, 4, 1, 0, 1])).tolist() == [1, 1, 0, 1, 2, 1]
    assert popularity_classes(np.array([2, 10, 1, 1, 2])).tolist() == [1, 0, 2, 2, 1]


def test_diversity_is_1_minus_the_mean_cosine_of_pairs() -> None:
    rng = np.random.default_rng(0)
    units = vector_features(rng.normal(size=(9, 4)).astype(np.float32))
    some = lists([1, 2, 3], [4, 9, 0], [5, 0, 0])  # the last has no pair
    known = [
        np.mean([1 - units[a - 1] @ units[b - 1] for a, b in itertools.combinations(row, 2)])
        for row in ([1, 2, 3], [4, 9])
    ]
    assert diversity(some, units) == pytest.approx(np.mean(known), abs=1e-6)
    same = np.ones((9, 4), np.float32) / 2
    assert diversity(some, same) == pytest.approx(0)
    assert diversity(some[:, :1], units) is None  # no list has a pair
    assert diversity(lists([1, 0], [0, 0]), units) is None


def test_attributes_are_lists_and_shared_texts() -> None:
    items = pa.table(
        {
            "index": pa.array([1, 2, 3, 4, 5], pa.int32()),
            "id": list("abcde"),
            "count": [1] * 5,
            "title": ["same"] * 5,
            "genres": [["rock"], ["rock", "folk"], None, [], ["folk", "folk"]],
            "brand": ["x", "x", "y", None, "y"],
            "text": ["one of a kind", "another", "a third", "a fourth", "a fifth"],
            "year": [1990] * 5,
        }
    )
    features = attribute_features(items)
    assert features is not None
    cosines = (features @ features.T).toarray()
    assert features.shape == (5, 4)  # rock, folk, x, y
    assert cosines[0, 1] == pytest.approx(2 / np.sqrt(2 * 3))
    assert cosines[2, 4] == pytest.approx(1 / np.sqrt(2))
    assert cosines[3].tolist() == [0] * 5
    assert attribute_features(items.select(["index", "id", "count", "title", "text", "year"])) is None


def test_repeats_are_a_mean_over_users_with_a_list() -> None:
    histories = Ragged.of([[2, 7], [1], [5]])
    assert repeat_rate(lists([1, 2], [3, 0], [0, 0]), histories) == pytest.approx((1 / 2 + 0) / 2)


def test_every_measure_at_every_cutoff_and_none_without_features() -> None:
    found = beyond_accuracy(
        lists([1, 2, 3], [1, 2, 4]), Ragged.of([[5], [5]]), np.array([4, 2, 1, 1, 8]), None, (1, 3)
    )
    names = ("coverage", "gini", "novelty", "popularity_lift", "diversity", "repeat_rate")
    assert set(found) == {f"{name}@{k}" for name in names for k in (1, 3)}
    assert (found["coverage@1"], found["coverage@3"], found["diversity@3"]) == (1 / 5, 4 / 5, None)


def test_the_lists_of_an_evaluation_are_measured(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(150, 80), 150)
    model = encoder_bundle(tmp_path / "bundle", data).model
    result = evaluate(model, data)
    assert result.diversity_by == "attributes"
    assert 0 < (result.beyond["diversity@10"] or 0) < 1
    bare = type(data)(**{**vars(data), "items": data.items.select(["index", "id", "count"])})
    assert evaluate(model, bare).diversity_by == "vectors"
    sampled = evaluate(model, data, protocol="uniform-100")
    assert (sampled.beyond, sampled.diversity_by) == ({}, None)
