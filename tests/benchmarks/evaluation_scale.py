"""Seconds and memory of a full-ranking evaluation on generated data.

    python -m tests.benchmarks.evaluation_scale --users 1000000 --items 100000 --threads 2

The encoder is tiny and random (a mean of item vectors), so that what is measured is the evaluation: one
product of (users, D + 1) with (D + 1, items), the heads of its rows, ranks, lists, slices and intervals.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from recsys.dataset import PreparedData
from recsys.evaluation import evaluate
from recsys.sequences import Ragged
from recsys.vocabulary import vocabulary_of


class MeanEncoder(torch.nn.Module):
    """The mean of random item vectors, and a bias for each item: D + 1 dimensions in all."""

    max_history = 20

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.vectors = torch.nn.Embedding(n_items + 1, dim, padding_idx=0)
        self.vectors.weight.data = torch.randn(n_items + 1, dim, generator=generator)
        self.vectors.weight.data[0] = 0
        self.bias = torch.randn(n_items, generator=generator)

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        lengths = (items_BL > 0).sum(dim=1, keepdim=True).clamp(min=1)
        mean = self.vectors(items_BL).sum(dim=1) / lengths
        return torch.cat([mean, torch.ones(len(mean), 1)], dim=1)

    def item_table(self) -> torch.Tensor:
        return torch.cat([self.vectors.weight[1:], self.bias[:, None]], dim=1)


def generated(users: int, items: int) -> PreparedData:
    """Sequences of 4 to 12 events, items drawn by a Zipf-like law; the last one is the test target."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 13, size=users)
    offsets = np.r_[0, np.cumsum(lengths)]
    drawn = np.minimum(items ** rng.random(offsets[-1]), items).astype(np.int32)
    ids = list(range(1, items + 1))
    table = pa.table({"index": pa.array(ids, pa.int32()), "id": ids, "count": ids})
    ends = (lengths - 1).astype(np.int32)
    return PreparedData(
        path=Path("generated"),
        manifest={"content_digest": "generated"},
        vocabulary=vocabulary_of(ids),
        items=table,
        ids=pa.array(np.arange(users)),
        sequences=Ragged(drawn, offsets),
        times=None,
        train_end=ends,
        valid_start=ends,
        test_start=ends,
    )


def main() -> None:
    """Measure once and print a line for each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = generated(arguments.users, arguments.items)
    model = MeanEncoder(arguments.items, arguments.dim).eval()
    before = peak_mib()
    result = evaluate(model, data)
    started = time.perf_counter()
    result.to_json()
    print(f"{arguments.users:,} users x {arguments.items:,} items, {arguments.threads} threads")
    print(f"ranking and measures  {result.seconds:8.1f} s")
    print(f"intervals and slices  {time.perf_counter() - started:8.1f} s")
    print(f"peak memory           {peak_mib():8.0f} MiB, of it {before:.0f} before the evaluation")
    print("\n".join(result.lines()))


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
