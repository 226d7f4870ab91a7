"""The built-in sample from its log to recommendations: what a newcomer sees first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.evaluation import evaluate, score_function
from recsys.experiment import train
from recsys.models import fit_counting
from recsys.recommender import Recommender
from recsys.vocabulary import ItemId

SAMPLE_MODEL = {"name": "bert4rec", "max_length": 20, "mask_prob": 0.5, "dropout": 0.0, "read": "mask"}
SAMPLE_TRAINING = {"epochs": 25, "batch_size": 64, "validate_every": 5}


def configuration(out: Path) -> ExperimentConfig:
    """The experiment of configs/sample.yaml, with everything it makes inside one folder."""
    tree = {
        "name": "sample",
        "data": {"path": str(out / "sample"), "format": "sample"},
        "prepared": str(out / "prepared"),
        "output": str(out / "run"),
        "model": SAMPLE_MODEL,
        "training": SAMPLE_TRAINING,
        "tracking": {"uri": f"sqlite:///{out / 'mlflow.db'}"},
    }
    return build_config(tree, where="the quickstart")


def train_and_compare(
    config: ExperimentConfig, oracle_hr: float, *, say: Callable[[str], None] = print
) -> Recommender:
    """Train the model and print what it reaches beside the oracle and two models that only count.

    Args:
        config: the experiment; its data must be prepared.
        oracle_hr: the best HR@10 that any model can reach on the test targets.
        say: called with each line.
    """
    trained = train(config, say=say)
    data = PreparedData.load(config.prepared_path)
    rows = {"best possible (oracle)": oracle_hr, config.model.name: trained.metrics["test_hr@10"]}
    for name in ("markov", "popularity"):
        counting = build_config(
            {"name": config.name, "data": {"format": "sample"}, "model": name}, where=f"model {name}"
        ).model
        model = fit_counting(counting, data.training(), data.training_times(), len(data.vocabulary))
        rows[name] = evaluate(score_function(model), data).metrics["hr@10"]
    say(f"HR@10 on {len(data.targets('test').rows):,} test targets, full ranking, seen items removed:")
    for name, value in rows.items():
        say(f"  {name:22} {value:.4f}  {value / oracle_hr:4.0%} of the best possible")
    return Recommender.load(trained.bundle)


def example_history(config: ExperimentConfig) -> list[ItemId]:
    """The last five items of the first sequence that has as many."""
    data = PreparedData.load(config.prepared_path)
    row = int(np.argmax(data.sequences.lengths >= 5))
    return data.vocabulary.decode(data.sequences[row][-5:])
