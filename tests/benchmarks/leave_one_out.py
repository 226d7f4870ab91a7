"""Quality of the engine's models on one data set, leave-one-out, full ranking, seen items removed.

    python -m tests.benchmarks.leave_one_out configs/ml-100k.yaml data.path=PATH

prepares the data, trains the configuration's encoder with three seeds and every counting model, and adds a
row to `results.jsonl` for each. A row that is there already (same data, settings and seed) is not run again,
so an interrupted benchmark goes on where it stopped. `readme.py` turns the rows into the README's tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep.prepare import prepare
from recsys.bundle import Bundle
from recsys.config import ExperimentConfig, load_config
from recsys.dataset import PreparedData
from recsys.experiment import train
from recsys.index import read_index_info
from recsys.tracking import environment

RESULTS = Path(__file__).parent / "results.jsonl"
COUNTING = {
    "popularity": ["model=popularity"],
    "recent popularity, 7 days": ["model=recent_popularity"],
    "Markov chain, first order": ["model=markov"],
    "item-kNN, last item": ["model=item_knn"],
    "item-kNN, whole history": ["model=item_knn", "model.history=all"],
}


def read_results() -> list[dict[str, Any]]:
    """All rows measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def settings_hash(config: ExperimentConfig) -> str:
    """Short hash of model and training settings, the seed apart; counting models have none of the latter."""
    parts = [config.model.model_dump_json()]
    if config.model.name == "bert4rec":
        parts.append(config.training.model_dump_json(exclude={"seed"}))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def measure(label: str, config: ExperimentConfig, data: PreparedData) -> dict[str, Any]:
    """Train once and describe the outcome as one row."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = {"output": folder, "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
        tree = {**config.model_dump(mode="json"), **overrides}
        trained = train(type(config).model_validate_json(json.dumps(tree)))
        index = read_index_info(Bundle.load(trained.bundle)) if trained.best_epoch else None
    found = environment()
    return {
        "data": config.name,
        "digest": data.digest[:12],
        "model": label,
        "settings": settings_hash(config),
        "seed": config.training.seed,
        "metrics": {name: round(value, 6) for name, value in trained.metrics.items()},
        "train_seconds": round(trained.seconds, 1),
        "best_epoch": trained.best_epoch,
        "index": index
        and {
            "recall": index.recall,
            "k": index.k,
            "annoy_ms": index.annoy_ms,
            "exact_ms": index.exact_ms,
            "items": index.count,
        },
        "versions": found["packages"],
        "date": datetime.now(UTC).date().isoformat(),
    }


def peer_rows(file: Path, data: str, model: str) -> list[dict[str, Any]]:
    """Rows of the public libraries' own benchmark (its results file), in the form of ours."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        {
            "data": data,
            "digest": None,
            "model": f"{row['peer']} {row['model']}",
            "settings": "matched",
            "seed": 42,
            "metrics": {"test_hr@10": row["HR@10"], "test_ndcg@10": row["NDCG@10"]},
            "train_seconds": row["train_s"],
            "best_epoch": row["best_at"][1],
            "peer": True,
        }
        for row in rows
        if row["kind"] == "quality" and row["dataset"] == data and row["model"] == model
    ]


def append_new(row: dict[str, Any]) -> None:
    """Add a row unless one of the same data, model, settings and seed is there."""
    if _key(row) not in {_key(known) for known in read_results()}:
        with RESULTS.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("data", "digest", "model", "settings", "seed"))


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="results file of the public libraries' benchmark")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    data = PreparedData.load(prepare(config).path)
    if arguments.peers:
        for row in peer_rows(arguments.peers, config.name, "bert4rec"):
            append_new(row)
    jobs = [(label, [*arguments.overrides, *extra]) for label, extra in COUNTING.items()]
    for seed in range(arguments.seeds):
        jobs.append(("BERT4Rec", [*arguments.overrides, f"training.seed={seed}"]))  # noqa: PERF401
    for label, overrides in jobs:
        one = load_config(arguments.config, overrides)
        key = (config.name, data.digest[:12], label, settings_hash(one), one.training.seed)
        if key in {_key(row) for row in read_results()}:
            continue
        row = measure(label, one, data)
        append_new(row)
        hr, ndcg = row["metrics"]["test_hr@10"], row["metrics"]["test_ndcg@10"]
        print(f"{label}, seed {row['seed']}: HR@10 {hr:.4f}, NDCG@10 {ndcg:.4f}, {row['train_seconds']} s")


if __name__ == "__main__":
    main()
