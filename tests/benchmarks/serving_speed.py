"""Latency and requests a second of the endpoint, clients in the same machine.

    python -m tests.benchmarks.serving_speed BUNDLE [--seconds 10] [--clients 1,8,64]
    python -m tests.benchmarks.serving_speed --items 1000000 --vectors clustered [--recall 0.95]

The first asks a bundle for the next 10 items after histories of its own popular items, with micro-batching
and without. The second makes a SASRec of 64 dimensions over so many items, whose vectors are iid random or
lie around 1,000 centres, builds its index, and asks it through Annoy and by exact search, with the recall@10
of Annoy against exact search on the vectors of the same histories.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import cast

import numpy as np
import torch

from recsys.bundle import Bundle, save_bundle
from recsys.encoding import encode_histories
from recsys.index import build_index
from recsys.models import build_encoder
from recsys.models.transformer import Transformer
from recsys.recommender import Recommender
from recsys.search import AnnoyIndex
from recsys.sequences import Ragged
from tests.benchmarks.serving_load import ask_for, server
from tests.worlds import experiment, prepared

HISTORIES = 500
CENTRES = 1000


def main() -> None:
    """Print a line for each way and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--vectors", choices=("random", "clustered"), default="clustered")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", default="1,8,64")
    asked = parser.parse_args()
    clients = [int(part) for part in asked.clients.split(",")]
    if asked.bundle:
        histories = popular_histories(Recommender.load(asked.bundle))
        measure(
            str(asked.bundle), histories, clients, asked.seconds, {"batched": (), "alone": ("--batch", "1")}
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        made = large_bundle(Path(folder), asked.items, asked.vectors)
        histories = popular_histories(Recommender.load(made.folder, backend="exact"))
        info = build_index(made, Ragged.of(histories), recall=asked.recall, k=10)
        print(f"{asked.items:,} items, {asked.vectors}: {info.trees} trees, search_k {info.search_k}")
        recommender = Recommender.load(made.folder, backend="annoy")
        print(f"recall@10 on the histories that are asked: {measured_recall(recommender, histories):.4f}")
        del recommender
        for backend in ("annoy", "exact"):
            ways = {
                backend: ("--backend", backend),
                f"{backend}, alone": ("--backend", backend, "--batch", "1"),
            }
            measure(str(made.folder), histories, clients, asked.seconds, ways)


def measure(
    bundle: str,
    histories: list[list[int]],
    clients: list[int],
    seconds: float,
    ways: dict[str, tuple[str, ...]],
) -> None:
    """Print p50, p99 and requests a second."""
    ids = Bundle.load(bundle).vocabulary
    bodies: list[dict[str, object]] = [{"history": ids.decode(row), "k": 10} for row in histories]
    for name, options in ways.items():
        with server(bundle, *options) as (address, _):
            ask_for(1.0, 1, address, bodies)  # warm
            for number in clients:
                times, took, failed = ask_for(seconds, number, address, bodies)
                p50, p99 = np.percentile(times, [50, 99]) * 1e3
                print(
                    f"{name:14} {number:3} clients: p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  "
                    f"{len(times) / took:7.0f} requests/s  {failed} failed",
                    flush=True,
                )


def popular_histories(recommender: Recommender) -> list[list[int]]:
    """Item indices: histories of 5 to 50 items, drawn by popularity."""
    rng = np.random.default_rng(0)
    weights = recommender.catalogue.counts + 1.0
    lengths = rng.integers(5, 51, size=HISTORIES)
    drawn = rng.choice(len(weights), size=int(lengths.sum()), p=weights / weights.sum()) + 1
    return [row.tolist() for row in np.split(drawn, np.cumsum(lengths)[:-1])]


def measured_recall(recommender: Recommender, histories: list[list[int]]) -> float:
    """Share of the true 10 best that Annoy finds."""
    index = cast(AnnoyIndex, recommender.index)
    queries = encode_histories(cast(Transformer, recommender.bundle.model), Ragged.of(histories))
    least = index.exact.search(queries, 10)[1][:, -1:]
    return float((index.search(queries, 10)[1] >= least).mean())


def large_bundle(folder: Path, n_items: int, vectors: str) -> Bundle:
    """A SASRec with fresh layers over item vectors of a known kind."""
    config = experiment(name="sasrec", dim=64, max_length=50)
    torch.manual_seed(0)
    model = build_encoder(config.model, n_items)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((n_items, 64), dtype=np.float32)
    if vectors == "clustered":
        table = (
            0.3 * table + rng.standard_normal((CENTRES, 64), dtype=np.float32)[np.arange(n_items) % CENTRES]
        )
    with torch.no_grad():
        model.item_embedding.weight[1 : n_items + 1] = torch.from_numpy(table)
    rows = Ragged.of([rng.integers(1, n_items + 1, size=20) for _ in range(100)])
    data = prepared(folder / "data", rows, n_items, strings=False)
    save_bundle(
        folder / "bundle",
        config=config,
        model=model.eval(),
        data=data,
        metrics={},
        trained_on="training",
        best_epoch=None,
    )
    return Bundle.load(folder / "bundle")


if __name__ == "__main__":
    main()
