from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys import bootstrap
from recsys.bootstrap import RESAMPLES, Bootstrap


def test_intervals_are_those_of_resampled_users() -> None:
    """Against resampling users one by one, the plain way."""
    rng = np.random.default_rng(0)
    values = {"hit": (rng.random(400) < 0.3).astype(float), "gain": rng.random(400).round(1)}
    found = Bootstrap(values).intervals()
    for name, column in values.items():
        plain = column[rng.integers(400, size=(4000, 400))].mean(axis=1)
        low, high = np.quantile(plain, [0.025, 0.975])
        width = high - low
        assert found[name].mean == pytest.approx(column.mean(), abs=1e-12)
        assert found[name].low == pytest.approx(low, abs=0.08 * width)
        assert found[name].high == pytest.approx(high, abs=0.08 * width)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = [
        interval.low <= 0.2 <= interval.high
        for seed in range(300)
        for interval in Bootstrap({"hit": (rng.random(500) < 0.2).astype(float)}, seed).intervals().values()
    ]
    assert 0.91 < np.mean(held) < 0.98


def test_many_distinct_values_take_the_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"x": np.random.default_rng(2).random(3000)}
    drawn = Bootstrap(values).intervals()["x"]
    monkeypatch.setattr(bootstrap, "MOST_DISTINCT", 100)
    limit = Bootstrap(values).intervals()["x"]
    assert limit.mean == drawn.mean
    assert (limit.low, limit.high) == pytest.approx((drawn.low, drawn.high), abs=1e-3)
    assert limit.high - limit.low == pytest.approx(2 * 1.96 * values["x"].std() / np.sqrt(3000), rel=1e-3)


def test_parts_are_measured_alone_and_the_seed_decides() -> None:
    values = {"x": np.r_[np.zeros(50), np.ones(50)], "y": np.arange(100) / 100}
    whole = Bootstrap(values, seed=3)
    part = np.arange(100) >= 50
    assert whole.intervals(part)["x"] == bootstrap.Interval(1.0, 1.0, 1.0)
    alone = Bootstrap({name: column[part] for name, column in values.items()}, seed=3)
    assert whole.intervals(part) == alone.intervals()
    assert whole.intervals() == Bootstrap(values, seed=3).intervals()
    assert whole.intervals()["y"] != Bootstrap(values, seed=4).intervals()["y"]


def test_resamples_are_drawn_in_bounded_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"x": np.random.default_rng(5).random(300)}
    whole = Bootstrap(values).intervals()
    monkeypatch.setattr(bootstrap, "CELLS_PER_DRAW", 7 * 300)
    drawn: list[int] = []

    class Watched:
        """A generator that notes how many resamples it is asked for at once."""

        def __init__(self, seed: int) -> None:
            self._rng = generator(seed)

        def multinomial(self, total: int, shares: NDArray[np.float64], size: int) -> NDArray[np.int64]:
            drawn.append(size)
            return self._rng.multinomial(total, shares, size=size)

    generator = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", Watched)
    assert RESAMPLES % 7
    blocks = Bootstrap(values).intervals()["x"]
    assert (blocks.low, blocks.high) == pytest.approx((whole["x"].low, whole["x"].high), abs=1e-12)
    assert (max(drawn), sum(drawn)) == (7, RESAMPLES)


def test_few_users_have_a_mean_without_an_interval() -> None:
    part = np.arange(40) < 29
    values = Bootstrap({"x": np.tile([0.0, 1.0], 20)})
    found = values.intervals(part)["x"]
    assert found.to_json(absent=None) == {"mean": 14 / 29, "low": None, "high": None}
    assert (str(found), found.text("+")) == ("0.4828 [-]", "+0.4828 [-]")
    assert values.intervals(np.arange(40) < 30)["x"].low < 0.5
