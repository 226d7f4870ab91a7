"""One epoch over a generated log of a large catalogue: seconds and peak memory.

    python -m tests.benchmarks.large_catalogue [--items 1000000] [--events 5000000] [--dim 64]

SASRec with sampled softmax, sequences of 20 events, items drawn by Zipf's law.

A step reads, computes and changes the rows of the items that it uses (its events, its targets, its
negatives) and no others, so that its time does not depend on the catalogue; what does is drawing the first
weights, once, and writing a checkpoint, once an epoch. Memory that grows with the catalogue, in bytes an item
of D float32 values: weights 4 D, the optimizer's two moments 8 D, 12 for the chances of negatives, and, while
the best weights are read back, 4 D more of the file's cache. What does not grow: some 0.5 GB of libraries and
the step. So 1,000,000 items at D = 64 take 0.5 + 0.78 GB, and 0.26 GB for a moment at the end; 10,000,000
items 0.5 + 7.8 GB, and 2.6 GB, and their checkpoint 7.7 GB on disk.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from recsys.config import SASRecConfig, TrainingConfig
from recsys.sequences import Ragged
from recsys.training import fit_encoder

LENGTH = 20


def main() -> None:
    """Train, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=64)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    ranks = rng.zipf(1.1, 2 * asked.events)
    values = ranks[ranks <= asked.items][: asked.events]
    sequences = Ragged(
        np.resize(values, asked.events).astype(np.int32),
        np.arange(0, asked.events + 1, LENGTH, dtype=np.int64),
    )
    before = _peak_gb()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit_encoder(
            SASRecConfig(dim=asked.dim, max_length=LENGTH),
            TrainingConfig(epochs=1, batch_size=1024, loss="sampled", device="cpu"),
            training=sequences,
            n_items=asked.items,
            validation=None,
            checkpoints=Path(folder),
        )
    seconds = time.perf_counter() - started
    print(f"{asked.items:,} items, {asked.events:,} events, D={asked.dim}: {seconds:.0f} s an epoch")
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"the whole process: {used.ru_utime:.0f} s of processor time, {used.ru_stime:.0f} s of the system's"
    )
    print(f"peak {_peak_gb():.2f} GB, of which {before:.2f} GB before training")


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
