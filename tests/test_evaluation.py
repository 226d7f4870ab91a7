from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.bundle import Bundle, save_bundle
from recsys.dataset import PreparedData, Targets
from recsys.errors import InputError
from recsys.evaluation import evaluate, evaluate_bundle, score_function
from recsys.floors import measure_floors
from recsys.metrics import METRICS, SET_METRICS, rank_counts, user_metrics
from recsys.models import fit_counting
from recsys.protocols import Protocol
from recsys.ranking import rank_all
from recsys.sequences import Ragged
from recsys.topk import top_k
from tests.worlds import counting_bundle, experiment, prepared, ring, small_encoder

N_ITEMS = 150


def next_on_the_ring(histories: Ragged) -> NDArray[np.float32]:
    scores = np.zeros((len(histories), N_ITEMS), np.float32)
    scores[np.arange(len(histories)), histories.values[histories.offsets[1:] - 1] % N_ITEMS] = 1
    return scores


def constant(histories: Ragged) -> NDArray[np.float32]:
    return np.zeros((len(histories), N_ITEMS), np.float32)


def with_marks(data: PreparedData, valid: list[int], test: list[int]) -> PreparedData:
    """The same sequences under another split."""
    marks = {"train_end": valid, "valid_start": valid, "test_start": test}
    arrays = {name: np.array(values, np.int32) for name, values in marks.items()}
    return PreparedData(**{**vars(data), **arrays})


@pytest.mark.parametrize("protocol", ["full", "pop-100", "uniform-100"])
def test_a_perfect_scorer_is_perfect(tmp_path: Path, protocol: str) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 400), N_ITEMS)
    result = evaluate(next_on_the_ring, data, protocol=protocol)  # type: ignore[arg-type]
    for k in result.cutoffs:
        assert {result.metrics[f"{name}@{k}"] for name in ("hr", "ndcg", "mrr", "recall", "map")} == {1.0}
        assert result.metrics[f"precision@{k}"] == pytest.approx(1 / k)
    assert result.users == 400


def test_a_constant_scorer_scores_chance(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 300), N_ITEMS)
    kept = evaluate(constant, data, exclude_seen=False)
    assert kept.metrics["hr@10"] == pytest.approx(10 / N_ITEMS)
    assert kept.metrics["precision@10"] == pytest.approx(1 / N_ITEMS)
    discounts = 1 / np.log2(np.arange(2, 12))
    assert kept.metrics["ndcg@10"] == pytest.approx(discounts.sum() / N_ITEMS)
    left = N_ITEMS - data.targets("test").histories.lengths
    assert evaluate(constant, data).metrics["hr@10"] == pytest.approx((10 / left).mean())
    sampled = evaluate(constant, data, protocol="uniform-100")
    assert sampled.metrics["hr@10"] == pytest.approx(10 / 101)
    assert sampled.metrics["mrr@10"] == pytest.approx((1 / np.arange(1, 11)).sum() / 101)


def test_a_random_scorer_scores_chance_within_its_interval(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 2000), N_ITEMS)
    rng = np.random.default_rng(3)
    result = evaluate(
        lambda histories: rng.random((len(histories), N_ITEMS), np.float32), data, exclude_seen=False
    )
    for metric, chance in (("hr@20", 20 / N_ITEMS), ("precision@20", 1 / N_ITEMS)):
        interval = result.intervals[metric]
        assert interval.low < chance < interval.high
        assert interval.high - interval.low < 0.04


def test_ties_with_the_target_cannot_be_gamed(tmp_path: Path) -> None:
    """Half of the items tied with the target on top: the target is among 10 of 75 by chance alone."""
    data = prepared(tmp_path / "data", ring(N_ITEMS, 100), N_ITEMS)
    parity = data.targets("test").items % 2

    def tied(histories: Ragged) -> NDArray[np.float32]:
        last = histories.values[histories.offsets[1:] - 1]
        target_is_odd = ((last % N_ITEMS) + 1) % 2
        level: NDArray[np.bool_] = np.arange(1, N_ITEMS + 1)[None] % 2 == target_is_odd[:, None]
        return level.astype(np.float32)

    assert set(parity.tolist()) == {0, 1}
    result = evaluate(tied, data, exclude_seen=False)
    assert result.metrics["hr@10"] == pytest.approx(10 / 75)
    assert result.metrics["mrr@5"] == pytest.approx((1 / np.arange(1, 6)).sum() / 75)


def test_several_targets_by_hand(tmp_path: Path) -> None:
    """After 1: next 2, then 3 and 4 (twice); the second user has only an item that never was trained on."""
    data = prepared(tmp_path / "data", Ragged.of([[1, 2, 3, 4, 4], [2, 9], [3, 4, 2, 1]]), N_ITEMS)
    data = with_marks(data, [1, 1, 4], [1, 1, 4])

    def scores(histories: Ragged) -> NDArray[np.float32]:
        ranking = np.zeros((len(histories), N_ITEMS), np.float32)
        ranking[:, [3, 7, 1, 9, 2]] = [5, 4, 3, 2, 1]  # 4, 8, 2, 10, 3
        return ranking

    asked = data.split_items("test")
    assert (asked.values.tolist(), asked.offsets.tolist()) == ([2, 3, 4, 9], [0, 3, 4])
    result = evaluate(scores, data, cutoffs=(1, 3, 5))
    first = {name: float(values[0]) for name, values in result.per_user.items()}
    assert (first["hr@1"], first["hr@3"]) == (0.0, 1.0)
    assert first["mrr@3"] == pytest.approx(1 / 3)
    assert first["recall@3"] == pytest.approx(2 / 3)
    assert first["precision@3"] == pytest.approx(2 / 3)
    assert first["map@1"] == 1.0  # 4 is on top, and one place holds one target at most
    assert first["map@3"] == pytest.approx((1 + 2 / 3) / 3)
    assert first["map@5"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert (result.users, result.cold_targets, result.rows.tolist()) == (2, 1, [0, 1])
    table = result.to_json()["rows"]
    assert table["all"]["users"] == 2
    assert table["trained targets"]["users"] == 1
    assert table["trained targets"]["metrics"]["map@5"]["mean"] == pytest.approx(first["map@5"])


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 30), st.integers(0, 10_000), st.sampled_from([2, 5, 10_000]))
def test_heads_and_ranks_are_those_of_a_full_sort(n_items: int, k: int, seed: int, levels: int) -> None:
    """Against scores sorted whole, with many ties, excluded items and several targets."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(7, n_items)).astype(np.float32)
    barred = Ragged.of([rng.choice(n_items, n_items // 5, replace=False) + 1 for _ in range(7)])
    whole = scores.copy()
    scores[barred.rows, barred.values - 1] = -np.inf
    depth = min(k, n_items)
    best, columns = top_k(torch.from_numpy(scores), depth)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    assert (columns.numpy() == order).all()
    assert (best.numpy() == np.take_along_axis(scores, order, axis=1)).all()

    data_rows = Ragged.of([rng.choice(n_items, rng.integers(1, min(n_items, 4) + 1), replace=False) + 1
                           for _ in range(7)])  # fmt: skip
    targets = Targets(np.arange(7), barred, data_rows.values[data_rows.offsets[:-1]])
    ranks = rank_all(lambda histories: whole, targets, data_rows, n_items=n_items, k=k, exclude_seen=True)
    above, level = rank_counts(scores[data_rows.rows], data_rows.values)
    known = user_metrics(above, level, data_rows.offsets, (k,))
    found = user_metrics(ranks.above, ranks.level, ranks.offsets, (k,))
    for name, values in known.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12, err_msg=name)


def test_the_planted_chain_is_found_by_markov_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 600), N_ITEMS)

    def hr(**model: object) -> float:
        fitted = fit_counting(
            experiment(**model).model, data.training(), data.training_times(), len(data.vocabulary)
        )
        return evaluate(fitted, data).metrics["hr@5"]

    assert hr(name="markov") == 1.0
    assert hr(name="item_knn", history="last") > 0.9
    assert hr(name="popularity") < 0.2
    assert hr(name="recent_popularity", days=1000.0) < 0.2


def test_a_repeated_target_is_a_miss_unless_seen_items_stay(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", Ragged.of([[1, 2, 3, 1]] * 5), N_ITEMS)

    def first_item(histories: Ragged) -> NDArray[np.float32]:
        scores = np.zeros((len(histories), N_ITEMS), np.float32)
        scores[:, 0] = 1
        return scores

    removed = evaluate(first_item, data)
    assert set(removed.metrics.values()) == {0.0}
    assert removed.beyond["repeat_rate@5"] == 0.0
    kept = evaluate(first_item, data, exclude_seen=False)
    assert kept.metrics["hr@5"] == 1.0
    assert kept.beyond["repeat_rate@5"] == pytest.approx(3 / 5)


def test_targets_never_trained_on_stay_in_and_a_second_row_leaves_them_out(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", Ragged.of([[1, 2, 3, 140]] * 4 + [[1, 2, 1, 2]]), N_ITEMS)
    result = evaluate(next_on_the_ring, data, exclude_seen=False)
    assert (result.users, result.cold_targets) == (5, 4)
    assert result.metrics["hr@5"] == 1 / 5  # not credited for the four
    assert "5 targets, 4 of them never seen in training (misses)" in result.lines()[0]
    by_text = evaluate(next_on_the_ring, data, exclude_seen=False, scores_cold=True)
    assert by_text.metrics["hr@5"] == pytest.approx(1 / 5 + 4 / 5 * 4 / 149)  # four places among 149 ties
    sampled = evaluate(constant, data, protocol="uniform-100")
    assert sampled.metrics["hr@10"] == pytest.approx(1 / 5 * 10 / 101)
    rows = result.to_json()["rows"]
    assert (rows["trained targets"]["users"], rows["trained targets"]["metrics"]["hr@5"]["mean"]) == (1, 1.0)
    assert "without targets never seen in training" in "\n".join(result.lines())


def test_chunks_do_not_change_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 300), N_ITEMS)
    _, model = small_encoder(N_ITEMS)
    whole = evaluate(model, data)
    monkeypatch.setattr("recsys.ranking.CELLS_PER_CHUNK", 7 * N_ITEMS)
    monkeypatch.setattr("recsys.ranking.ENCODED_AT_ONCE", 32)
    parts = evaluate(model, data)
    assert parts.metrics == pytest.approx(whole.metrics, abs=1e-6)
    assert parts.beyond == pytest.approx(whole.beyond, abs=1e-6)
    assert evaluate(score_function(model), data).metrics == pytest.approx(whole.metrics, abs=1e-6)
    assert set(whole.metrics) == {f"{name}@{k}" for name in (*METRICS, *SET_METRICS) for k in (5, 10, 20)}


def of_shape(shape: tuple[int, ...], histories: Ragged) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def test_scores_that_cannot_be_ranked_are_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 10), N_ITEMS)
    protocols: tuple[Protocol, ...] = ("full", "pop-100")
    for protocol in protocols:
        for shape in ((10, N_ITEMS + 5), (10, N_ITEMS - 1), (9, N_ITEMS), (N_ITEMS,), (10, N_ITEMS, 1)):
            message = f"answered 10 histories with scores of shape {shape}; expected (10, {N_ITEMS})"
            wrong = functools.partial(of_shape, shape)
            with pytest.raises(InputError, match=re.escape(message)):
                evaluate(wrong, data, protocol=protocol)
        with pytest.raises(InputError, match="the model gave NaN scores; nothing can be ranked"):
            evaluate(lambda histories: constant(histories) + np.nan, data, protocol=protocol)


@pytest.mark.parametrize("level", [-np.inf, -1e300, 0.0, np.inf])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_constant_of_any_size_scores_chance(tmp_path: Path, level: float) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 300), N_ITEMS)

    def same(histories: Ragged) -> NDArray[Any]:
        return np.full((len(histories), N_ITEMS), level)

    left = N_ITEMS - data.targets("test").histories.lengths
    assert evaluate(same, data).metrics["hr@10"] == pytest.approx((10 / left).mean())
    assert evaluate(same, data, exclude_seen=False).metrics["hr@10"] == pytest.approx(10 / N_ITEMS)
    assert evaluate(same, data, protocol="pop-100").metrics["hr@10"] == pytest.approx(10 / 101)


def test_slices_part_the_users_by_what_is_known(tmp_path: Path) -> None:
    # Training: item 1 four times of eight events, item 2 twice, 3 and 4 once; targets 1, 2, 3, 4 and 9.
    sequences = Ragged.of([[1, 1, 1, 1, 1], [2, 2, 2], [3, 3], [4, 4], [5, 9]])
    data = with_marks(prepared(tmp_path / "data", sequences, N_ITEMS), [4, 2, 1, 1, 0], [4, 2, 1, 1, 1])
    slices = evaluate(constant, data, exclude_seen=False).slices
    shown = {name: {part: mask.tolist() for part, mask in parts.items()} for name, parts in slices.items()}
    assert shown["item popularity"] == {
        "head": [True, False, False, False, False],
        "torso": [False, True, True, True, False],  # items 3 and 4 have equal counts
        "tail": [False, False, False, False, True],
    }
    assert shown["target item"] == {"warm": [True] * 4 + [False], "cold": [False] * 4 + [True]}
    assert shown["user"] == {"warm": [True] * 4 + [False], "cold": [False] * 4 + [True]}
    assert shown["history length"] == {"1-5": [True] * 5}
    table = evaluate(constant, data, exclude_seen=False).to_json()["slices"]
    assert table["item popularity"]["torso"]["users"] == 3
    assert table["item popularity"]["torso"]["metrics"]["hr@10"]["low"] is None
    assert set(table["item popularity"]["torso"]["metrics"]["hr@10"]) == {"mean", "low", "high"}


def test_what_has_seen_the_targets_is_not_measured_on_them(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 50), N_ITEMS)
    config, model = small_encoder(N_ITEMS)
    facts: dict[str, Any] = {"config": config, "model": model, "data": data, "metrics": {}, "best_epoch": 1}
    save_bundle(tmp_path / "final", trained_on="all", **facts)
    with pytest.raises(InputError, match=r"fitted on all events.*without --final"):
        evaluate_bundle(Bundle.load(tmp_path / "final"), data)
    save_bundle(tmp_path / "bundle", trained_on="training", **facts)
    bundle = Bundle.load(tmp_path / "bundle")
    assert evaluate_bundle(bundle, data).users == 50
    with pytest.raises(InputError, match="split `train` is unknown"):
        evaluate_bundle(bundle, data, split="train")
    with pytest.raises(InputError, match="protocol `top` is unknown"):
        evaluate_bundle(bundle, data, protocol="top")
    with pytest.raises(InputError, match="full ranking has no sampled negatives to keep"):
        evaluate_bundle(bundle, data, negatives=tmp_path / "negatives.parquet")
    with pytest.raises(InputError, match="cutoffs are "):
        evaluate_bundle(bundle, data, cutoffs=(0, 5))
    with pytest.raises(InputError, match="numbers from 1 to 1,000"):
        evaluate_bundle(bundle, data, cutoffs=(5, 1001))


@pytest.mark.parametrize("word", ["train", "validation", ""])
def test_a_split_that_there_is_not_is_refused_everywhere(tmp_path: Path, word: Any) -> None:  # noqa: ANN401
    data = prepared(tmp_path / "data", ring(N_ITEMS, 10), N_ITEMS)
    asked: list[Callable[[], object]] = [
        lambda: evaluate(constant, data, split=word),
        lambda: measure_floors(data, word),
        lambda: data.targets(word),
        lambda: data.split_items(word),
    ]
    for ask in asked:
        with pytest.raises(InputError, match=f"split `{word}` is unknown; known: valid, test"):
            ask()


def test_other_data_than_that_of_training_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 50), N_ITEMS)
    bundle = counting_bundle(tmp_path / "bundle", data, name="markov")
    other = prepared(tmp_path / "other", ring(N_ITEMS, 60), N_ITEMS)
    bundle.prepared_data(other.path)  # an export may
    digests = rf"{other.digest[:12]}.* trained on {data.digest[:12]}"
    with pytest.raises(InputError, match=rf"{digests}.*; measure it on the data that it was trained on"):
        evaluate_bundle(bundle, other)


def test_replay_needs_seen_items(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", Ragged.of([[1, 2, 3, 1]] * 5), N_ITEMS)
    bundle = counting_bundle(tmp_path / "bundle", data, name="replay")
    with pytest.raises(InputError, match=r"leaves it nothing to say; keep seen items .--keep-seen"):
        evaluate_bundle(bundle, data)
    assert evaluate_bundle(bundle, data, exclude_seen=False).metrics["hr@5"] == 1.0
