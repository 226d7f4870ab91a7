from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.bundle import Bundle, save_bundle
from recsys.errors import InputError
from recsys.evaluation import draw_negatives, evaluate, evaluate_bundle, score_function
from recsys.metrics import METRICS
from recsys.models import fit_counting
from recsys.sequences import Ragged
from tests.worlds import experiment, prepared, ring, small_encoder

N_ITEMS = 150


def next_on_the_ring(histories: Ragged) -> NDArray[np.float32]:
    scores = np.zeros((len(histories), N_ITEMS), np.float32)
    scores[np.arange(len(histories)), histories.values[histories.offsets[1:] - 1] % N_ITEMS] = 1
    return scores


@pytest.mark.parametrize("protocol", ["full", "pop-100", "uniform-100"])
def test_a_perfect_scorer_is_perfect(tmp_path: Path, protocol: str) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 400), N_ITEMS)
    result = evaluate(next_on_the_ring, data, protocol=protocol)  # type: ignore[arg-type]
    assert set(result.metrics.values()) == {1.0}
    assert result.users == 400


def test_a_constant_scorer_scores_chance(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 300), N_ITEMS)

    def constant(histories: Ragged) -> NDArray[np.float32]:
        return np.zeros((len(histories), N_ITEMS), np.float32)

    kept = evaluate(constant, data, exclude_seen=False)
    assert kept.metrics["hr@10"] == pytest.approx(10 / N_ITEMS)
    left = N_ITEMS - data.targets("test").histories.lengths
    assert evaluate(constant, data).metrics["hr@10"] == pytest.approx((10 / left).mean())
    sampled = evaluate(constant, data, protocol="uniform-100")
    assert sampled.metrics["hr@10"] == pytest.approx(10 / 101)


def test_the_planted_chain_is_found_by_markov_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 600), N_ITEMS)

    def hr(**model: object) -> float:
        fitted = fit_counting(
            experiment(**model).model, data.training(), data.training_times(), len(data.vocabulary)
        )
        return evaluate(score_function(fitted), data).metrics["hr@5"]

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

    assert evaluate(first_item, data).metrics["hr@20"] == 0.0
    assert evaluate(first_item, data, exclude_seen=False).metrics["hr@5"] == 1.0


def test_targets_never_trained_on_stay_in(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", Ragged.of([[1, 2, 3, 140]] * 4 + [[1, 2, 3, 2]]), N_ITEMS)
    result = evaluate(next_on_the_ring, data, exclude_seen=False)
    assert (result.users, result.cold_targets) == (5, 4)


def test_negatives_are_never_the_users_own_and_follow_popularity() -> None:
    weights = np.r_[np.full(100, 1.0), np.full(100, 9.0), 0.0]
    own = Ragged.of([[1, 2, 150]] * 500)
    drawn = draw_negatives(weights, own, np.full(500, 150, np.int32), np.random.default_rng(0))
    assert drawn.shape == (500, 101)
    assert (drawn[:, 0] == 150).all()
    negatives = drawn[:, 1:]
    assert not np.isin(negatives, [1, 2, 150, 201]).any()
    assert all(len(set(row)) == 100 for row in negatives.tolist())
    assert 2 < (negatives > 100).sum() / (negatives <= 100).sum() < 9


def test_too_few_items_for_the_protocol_are_an_error(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(40, 50), 40)
    with pytest.raises(InputError, match="100 negatives were asked for, but a user has only"):
        evaluate(lambda histories: np.zeros((len(histories), 40), np.float32), data, protocol="pop-100")


def test_chunks_do_not_change_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 300), N_ITEMS)
    _, model = small_encoder(N_ITEMS)
    whole = evaluate(score_function(model), data).metrics
    monkeypatch.setattr("recsys.evaluation.CELLS_PER_CHUNK", 7 * N_ITEMS)
    assert evaluate(score_function(model), data).metrics == pytest.approx(whole, abs=1e-6)
    assert set(whole) == {f"{name}@{k}" for name in METRICS for k in (5, 10, 20)}


def test_what_has_seen_the_targets_is_not_measured_on_them(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 50), N_ITEMS)
    config, model = small_encoder(N_ITEMS)
    save_bundle(
        tmp_path / "final",
        config=config,
        model=model,
        data=data,
        metrics={},
        trained_on="all",
        best_epoch=1,
    )
    with pytest.raises(InputError, match=r"fitted on all events.*without --final"):
        evaluate_bundle(Bundle.load(tmp_path / "final"), data)
    save_bundle(
        tmp_path / "bundle",
        config=config,
        model=model,
        data=data,
        metrics={},
        trained_on="training",
        best_epoch=1,
    )
    bundle = Bundle.load(tmp_path / "bundle")
    assert evaluate_bundle(bundle, data).users == 50
    with pytest.raises(InputError, match="split `train` is unknown"):
        evaluate_bundle(bundle, data, split="train")
    with pytest.raises(InputError, match="protocol `top` is unknown"):
        evaluate_bundle(bundle, data, protocol="top")
