"""Top 10 for all users, users a second: ours and the public libraries', alternating in one run.

    python -m tests.benchmarks.prediction_speed --bench SCRIPTS --bench-dir FOLDER [--rounds 3]

The libraries are trained for a moment by their own scripts, which then time their own batch prediction (the
best of three passes). Ours is what `recsys export` computes, exact search with seen items removed, on a
SASRec of the same size with fresh weights; RecBole's leaves seen items in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from recsys.config import SASRecConfig
from recsys.encoding import encode_histories, item_vectors
from recsys.models.build import build_sasrec
from recsys.search import ExactIndex
from recsys.sequences import Ragged
from tests.benchmarks.peers import run_script
from tests.benchmarks.training_speed import SIZES

PEERS = {
    "ml-100k": ("rectools", ["ml-100k", "sasrec", "1"]),
    "beauty": ("recbole", ["beauty", "sasrec", "450", "--max-batches", "8"]),
}
"""The fastest public library on each data set, and how its script is asked."""
PASSES = 3


def main() -> None:
    """Print users a second of each, medians over the rounds, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder of the libraries' scripts")
    parser.add_argument("--bench-dir", type=Path, required=True, help="their environments and data")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for data in PEERS:
        theirs, ours = [], []
        for _ in range(asked.rounds):
            theirs.append(peer_rate(asked.bench, asked.bench_dir, data))
            ours.append(own_rate(asked.bench_dir, data))
        rates = statistics.median(theirs), statistics.median(ours)
        print(
            f"{data}: {PEERS[data][0]} {rates[0]:,.0f} users/s, ours {rates[1]:,.0f}, "
            f"{rates[1] / rates[0]:.1f} times as many",
            flush=True,
        )


def peer_rate(bench: Path, bench_dir: Path, data: str) -> float:
    """Users a second by the library's script."""
    library, arguments = PEERS[data]
    command = [
        str(bench_dir.absolute() / library / "bin/python"),
        str(bench.absolute() / f"run_{library}.py"),
    ]
    said = run_script([*command, *arguments], bench_dir, bench_dir / "errors.txt")
    rows = [json.loads(line[4:]) for line in said.splitlines() if line.startswith("ROW {")]
    return float(next(row["users_per_s"] for row in rows if row["kind"] == "infer"))


def own_rate(bench_dir: Path, data: str) -> float:
    """Users a second, the best of some passes, from histories in memory to indices and scores."""
    with np.load(bench_dir / "data" / f"{data}.npz") as file:
        sequences = Ragged(file["items"].astype(np.int32) + 1, file["off"].astype(np.int64))
        n_items = int(file["n_items"])
    histories = sequences.first(sequences.lengths - 1)
    model = build_sasrec(SASRecConfig(max_length=SIZES[data][0]), n_items).eval()
    index = ExactIndex(item_vectors(model))
    seconds = []
    for _ in range(PASSES):
        started = time.perf_counter()
        index.search(encode_histories(model, histories), 10, exclude=histories)
        seconds.append(time.perf_counter() - started)
    return len(histories) / min(seconds)


if __name__ == "__main__":
    main()
