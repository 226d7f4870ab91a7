"""Settings that the data decides; what the user names stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.config import ExperimentConfig, build_config
from recsys.config.models import TransformerConfig
from recsys.recipe import decided, settled
from recsys.sequences import Ragged
from tests.worlds import experiment, prepared, ring


def sizes(config: ExperimentConfig) -> tuple[int, float, int, str]:
    assert isinstance(config.model, TransformerConfig)
    model, training = config.model, config.training
    return model.max_length, model.dropout, training.batch_size, training.loss


def test_a_small_dense_catalogue(tmp_path: Path) -> None:
    data = prepared(tmp_path / "dense", ring(20, 400), 20)
    given = experiment(name="sasrec")
    config = settled(given, data)
    length, dropout, batch, loss = sizes(config)
    assert (length, dropout, loss) == (50, 0.3, "full")
    assert batch * data.training().lengths.mean() == pytest.approx(2_500, rel=0.1)
    assert (
        decided(given, config)
        == f"dropout 0.3, max_length 50, batch_size {batch}, loss full, validate_every 5"
    )


def test_a_large_sparse_catalogue_of_long_sequences(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sequences = Ragged.of([rng.integers(1, 6_001, size=100 + row % 30) for row in range(210)])
    config = settled(experiment(name="bert4rec"), prepared(tmp_path / "sparse", sequences, 6_000))
    # training leaves out two events: the longest of 95 in 100 sequences has 125.6
    assert sizes(config) == (130, 0.5, round(2_500 / 112 / 8) * 8, "sampled")


def test_what_is_named_stays_and_counting_models_have_nothing_to_decide(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(20, 50), 20)
    tree = {
        "name": "world",
        "data": {"format": "sample"},
        "model": {"name": "bert4rec", "max_length": 9, "dropout": 0.0},
        "training": {"batch_size": 7, "loss": "gbce", "epochs": 7},
    }
    given = build_config(tree, where="the test")
    assert settled(given, data) == given
    assert decided(given, settled(given, data)) == "validate_every 1"  # of 7 epochs each
    markov = experiment(name="markov")
    assert settled(markov, data) == markov
