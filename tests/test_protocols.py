from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys import protocols
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.protocols import draw_negatives, sampled_negatives
from recsys.sequences import Ragged
from tests.test_cli import recsys
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring


def test_negatives_are_never_the_users_own_and_never_twice() -> None:
    weights = np.r_[np.full(100, 1.0), np.full(100, 9.0), 0.0]
    drawn = draw_negatives(weights, Ragged.of([[1, 2, 150]] * 500), np.random.default_rng(0))
    assert drawn.shape == (500, 100)
    assert not np.isin(drawn, [1, 2, 150, 201]).any()
    assert all(len(set(row)) == 100 for row in drawn.tolist())


@pytest.mark.parametrize("quick", [1, 130, 1000])
def test_the_law_is_that_of_draws_without_replacement(quick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy's own weighted choice, whatever share of it the quick draws decide."""
    monkeypatch.setattr(protocols, "QUICK_DRAWS", max(quick, 100))
    if quick == 1:  # nothing is decided by the quick draws but one item
        monkeypatch.setattr(protocols, "_first_occurrences", lambda v: np.arange(v.shape[1])[None] == 0)
    weights = np.r_[np.full(60, 1.0), np.full(60, 3.0), np.full(30, 10.0)]
    rng = np.random.default_rng(1)
    drawn = draw_negatives(weights, Ragged.of([[150]] * 4000), rng)
    reference = np.random.default_rng(2)
    shares = weights[:149] / weights[:149].sum()
    known = np.stack([reference.choice(149, 100, replace=False, p=shares) for _ in range(4000)]) + 1
    for low, high in ((0, 60), (60, 120), (120, 150)):
        ours, theirs = (((x > low) & (x <= high)).sum(axis=1).mean() for x in (drawn, known))
        assert ours == pytest.approx(theirs, abs=0.25)  # a count of 100; its standard error is below 0.06


def test_negatives_depend_on_data_and_seed_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(150, 40), 150)
    first = sampled_negatives(data, "test", "pop-100", 5)
    assert (first == sampled_negatives(data, "test", "pop-100", 5)).all()
    assert (first != sampled_negatives(data, "test", "pop-100", 6)).any()
    assert (first != sampled_negatives(data, "test", "uniform-100", 5)).any()


def test_too_few_items_for_the_protocol_are_an_error(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(40, 50), 40)
    with pytest.raises(InputError, match="100 negatives were asked for, but a user has only"):
        evaluate(lambda histories: np.zeros((len(histories), 40), np.float32), data, protocol="pop-100")


def test_two_models_are_ranked_on_the_negatives_of_one_file(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(150, 60), 150)
    counting_bundle(tmp_path / "markov", data, name="markov")
    encoder_bundle(tmp_path / "encoder", data)
    file = tmp_path / "negatives.parquet"
    written = b""
    for name in ("markov", "encoder"):
        done = recsys(
            "evaluate", tmp_path / name, "--protocol", "pop-100", "--negatives", file, "--seed", "3"
        )
        assert done.returncode == 0, done.stderr
        written = written or file.read_bytes()
    assert file.read_bytes() == written
    other = recsys("evaluate", tmp_path / "markov", "--protocol", "pop-100", "--negatives", file)
    assert (other.returncode, "are of seed 3, and 0 was asked for" in other.stderr) == (2, True)
