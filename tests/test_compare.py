from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.bundle import Bundle, save_bundle
from recsys.compare import compare, compare_bundles
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.models import fit_counting
from recsys.registry import promote
from recsys.sequences import Ragged
from tests.test_cli import recsys
from tests.worlds import counting_bundle, encoder_bundle, experiment, prepared, ring

N_ITEMS = 150


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    """Sequences on a ring, of which a Markov chain knows the way and popularity does not."""
    folder = tmp_path_factory.mktemp("compare")
    data = prepared(folder / "data", ring(N_ITEMS, 300), N_ITEMS)
    counting_bundle(folder / "markov", data, name="markov")
    counting_bundle(folder / "popularity", data, name="popularity")
    counting_bundle(folder / "recent", data, name="recent_popularity", days=10_000.0)
    encoder_bundle(folder / "encoder", data)
    return folder, data


def test_a_real_difference_is_told_from_one_that_is_not(world: tuple[Path, PreparedData]) -> None:
    folder, _ = world
    markov, popularity, recent = (Bundle.load(folder / name) for name in ("markov", "popularity", "recent"))
    better = compare_bundles(popularity, markov)
    assert better.differences["hr@10"].low > 0.8
    assert better.verdict("hr@10").startswith(
        f"markov {markov.model_version} is better than popularity {popularity.model_version} in hr@10: +0."
    )
    assert " is worse than " in compare_bundles(markov, popularity).verdict("ndcg@10")
    same = compare_bundles(popularity, recent, metrics=["recall@7"])  # the window holds everything
    assert same.verdict("recall@7").startswith("no difference can be shown between recent_popularity")
    assert same.differences["recall@7"].low <= 0 <= same.differences["recall@7"].high


def noisy(rate: float, seed: int) -> Any:  # noqa: ANN401
    """A scorer that knows the way round the ring for a share of the users, drawn anew by each seed."""
    rng = np.random.default_rng(seed)

    def score(histories: Ragged) -> NDArray[np.float32]:
        scores = np.zeros((len(histories), N_ITEMS), np.float32)
        knows = rng.random(len(histories)) < rate
        last = histories.values[histories.offsets[1:] - 1]
        scores[np.flatnonzero(knows), last[knows] % N_ITEMS] = 1
        return scores

    return score


def test_intervals_tell_chance_from_skill(world: tuple[Path, PreparedData]) -> None:
    _, data = world
    a, b, c = (evaluate(noisy(*each), data) for each in ((0.5, 1), (0.5, 2), (0.7, 3)))
    assert compare(a, b).verdict("hr@10").startswith("no difference can be shown between B and A in hr@10")
    found = compare(a, c, metrics=("hr@10", "map@10"))
    assert found.verdict("hr@10").startswith("B is better than A in hr@10: +0.")
    plain = (c.per_user["hr@10"] - a.per_user["hr@10"])[:, None]
    resampled = plain[np.random.default_rng(0).integers(300, size=(300, 4000))].mean(axis=0)
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (found.differences["hr@10"].low, found.differences["hr@10"].high) == pytest.approx(
        (low, high), abs=0.012
    )
    users, _ = found.slices["history length"]["6-10"]
    assert users == int(a.slices["history length"]["6-10"].sum())


def test_pairing_makes_the_interval_narrow(world: tuple[Path, PreparedData]) -> None:
    """Users differ much, models little: two separate intervals overlap, the paired one does not."""
    _, data = world
    a = evaluate(noisy(0.5, 1), data)
    b = evaluate(noisy(0.5, 1), data)
    misses = np.flatnonzero(b.per_user["hr@10"] < 1)[:12]
    for name in ("hr@10", "ndcg@10"):
        b.per_user[name][misses] = 1.0
    assert b.intervals["hr@10"].low < a.intervals["hr@10"].high
    assert compare(a, b).differences["hr@10"].low > 0


def test_what_cannot_be_paired_is_refused(world: tuple[Path, PreparedData], tmp_path: Path) -> None:
    folder, data = world
    markov = Bundle.load(folder / "markov")
    with pytest.raises(InputError, match="needs the same users, split and protocol"):
        compare(evaluate(markov.model, data), evaluate(markov.model, data, split="valid"))
    with pytest.raises(InputError, match="no metric `hr@7` to compare; known: hr@5"):
        compare(evaluate(markov.model, data), evaluate(markov.model, data), metrics=["hr@7"])
    with pytest.raises(InputError, match="`loss` is no metric; expected one of hr, ndcg, mrr"):
        compare_bundles(markov, markov, metrics=["loss"])
    for bad in ("hr@1001", "hr@\u00b2", "hr@\u0661", "hr@" + "9" * 5000):
        with pytest.raises(InputError, match=r"is no metric; expected one of hr, .* from 1 to 1,000"):
            compare_bundles(markov, markov, metrics=[bad])
    sampled = [evaluate(markov.model, data, protocol="pop-100", seed=seed) for seed in (0, 1)]
    with pytest.raises(InputError, match="with seed of the negatives 0, B with 1; a paired comparison"):
        compare(*sampled)
    one = evaluate(markov.model, data)
    for changed in (replace(one, data_digest="other"), replace(one, asked_digest="other")):
        with pytest.raises(InputError, match="with other; a paired comparison needs"):
            compare(one, changed)
    assert evaluate(markov.model, data, split="valid").asked_digest != one.asked_digest
    other = counting_bundle(
        tmp_path / "other", prepared(tmp_path / "data", ring(N_ITEMS, 50, seed=1), N_ITEMS), name="markov"
    )
    with pytest.raises(InputError, match="compare only on the same prepared data, or where"):
        compare_bundles(markov, other)
    facts: dict[str, Any] = {"model": markov.model, "data": data, "metrics": {}, "best_epoch": None}
    save_bundle(tmp_path / "final", config=markov.config, trained_on="all", **facts)
    with pytest.raises(InputError, match="fitted on all events"):
        compare_bundles(markov, Bundle.load(tmp_path / "final"))


def test_few_users_have_no_verdict(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 29), N_ITEMS)
    a, b = (evaluate(noisy(rate, 1), data) for rate in (0.0, 1.0))
    found = compare(a, b)
    assert found.verdict("hr@10").startswith("no difference can be shown between B and A in hr@10: +")
    assert found.verdict("hr@10").endswith("[-]")
    shown, result = "\n".join(found.lines()), json.dumps(found.to_json(), allow_nan=False)
    assert " *" not in shown.replace("  *: the 95% interval", "")
    assert shown.count("not corrected for looking at many") == 1
    assert json.loads(result)["metrics"]["hr@10"]["low"] is None
    json.dumps(a.to_json(), allow_nan=False)


def test_compare_prints_and_writes(world: tuple[Path, PreparedData], tmp_path: Path) -> None:
    folder, _ = world
    done = recsys(
        "compare", folder / "encoder", folder / "markov", "--metric", "hr@5", "--json", tmp_path / "out.json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["verdicts"]["hr@5"] in done.stdout
    assert "by item popularity:" in done.stdout
    found = result["metrics"]["hr@5"]
    assert found["difference"] == pytest.approx(found["b"] - found["a"])
    assert found["low"] <= found["difference"] <= found["high"]
    assert recsys("compare", folder / "encoder", tmp_path).returncode == 2


def fitted(folder: Path, data: PreparedData, stored: float, **model: Any) -> Path:  # noqa: ANN401
    config = experiment(**model)
    one = fit_counting(config.model, data.training(), data.training_times(), len(data.vocabulary))
    metrics = {"test_ndcg@10": stored}
    facts: dict[str, Any] = {"data": data, "metrics": metrics, "best_epoch": None}
    return save_bundle(folder, config=config, model=one, trained_on="training", **facts)


def test_promote_moves_for_a_difference_that_can_be_shown(tracking_uri: str, tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 200), N_ITEMS)
    to = {"model_name": "ring", "tracking_uri": tracking_uri, "if_better": "ndcg@10"}
    # The stored figures say the opposite of what the users say.
    popularity = fitted(tmp_path / "popularity", data, 0.9, name="popularity")
    assert promote(str(popularity), **to).moved
    chance = promote(str(fitted(tmp_path / "recent", data, 0.95, name="recent_popularity", days=1e4)), **to)
    assert not chance.moved
    assert "kept champion version 1 of ring: no difference can be shown between recent" in chance.message
    better = promote(str(fitted(tmp_path / "markov", data, 0.1, name="markov")), **to)
    assert better.moved
    assert "is better than popularity" in better.message
    assert better.message.endswith("on the same 200 users")
    shutil.rmtree(tmp_path / "data")
    stored = promote(str(popularity), **to)
    assert stored.moved
    assert "these are the stored figures, no interval was possible (" in stored.message
