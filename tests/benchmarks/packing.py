"""Packed rows against batches of similar length: columns and processor time of a training epoch.

    python -m tests.benchmarks.packing --bench-dir FOLDER [--cases beauty/bert4rec,...] [--rounds 5]

FOLDER is that of `training_speed`, whose sizes these are. The batches of similar length hold the same number
of sequences, one a row, as wide as the longest of them; the steps are otherwise the same code. An epoch is
everything but Lightning: examples, loss, gradients, optimizer. The two alternate in one process; seconds are
those of all threads together, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from recsys import steps as steps_module
from recsys.batching import ROW_STEP, Packed, number_of_batches
from recsys.config import TrainingConfig
from recsys.models import build_encoder
from recsys.optimizer import RowAdamW
from recsys.steps import Step, Steps
from recsys.training import EncoderTraining
from tests.benchmarks.training_speed import SIZES, matched


def main() -> None:
    """Print columns and median seconds of both, for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bench-dir", type=Path, required=True, help="folder with data/NAME.npz")
    cases = ",".join(f"{data}/{model}" for data in SIZES for model in ("bert4rec", "sasrec"))
    parser.add_argument("--cases", default=cases, help="DATA/MODEL,...")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    for case in asked.cases.split(","):
        data, model = case.split("/")
        config, training, n_items = matched(asked.bench_dir, data, model)
        settings = TrainingConfig(batch_size=SIZES[data][1], device="cpu", precision="fp32")
        torch.manual_seed(0)
        encoder = build_encoder(config, n_items).train()
        packed = Steps(training, n_items, config, settings)
        similar = Steps(training, n_items, config, settings)
        similar.windows = similar.windows.take(np.argsort(similar.windows.lengths, kind="stable"))
        module = EncoderTraining(encoder, packed, None, settings)
        optimizer = RowAdamW(encoder.parameters(), lr=1e-3, fused=True)
        for each in (packed, similar):
            each.epoch, each.share = (lambda: 0), (lambda: (0, 1))
        seconds: tuple[list[float], list[float]] = [], []
        for _ in range(asked.rounds):
            started = time.process_time()
            columns = _epoch(module, optimizer, iter(packed))
            seconds[0].append(time.process_time() - started)
            with (
                mock.patch.object(Packed, "rows", one_a_row),
                mock.patch.object(steps_module, "shuffled_batches", neighbours),
            ):
                started = time.process_time()
                wider = _epoch(module, optimizer, iter(similar))
                seconds[1].append(time.process_time() - started)
        events = len(packed.windows.values) - len(packed.windows) * packed.objective.unread
        medians = [statistics.median(each) for each in seconds]
        print(f"{case}: {events:,} events an epoch")
        print(f"  packed rows     {columns:,} columns  {medians[0]:.2f} s")
        print(f"  similar length  {wider:,} columns  {medians[1]:.2f} s", flush=True)


def one_a_row(lengths: NDArray[np.int64]) -> Packed:
    """A row for each sequence, all as wide as the longest."""
    width = int(lengths.max())
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(np.arange(len(lengths)) * width, lengths) + within
    return Packed(places, (-(-len(lengths) // ROW_STEP) * ROW_STEP, width), lengths)


def neighbours(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Consecutive numbers of 0..count-1 in even parts of at most `size`, the parts in random order."""
    parts = np.array_split(np.arange(count), number_of_batches(count, size))
    for part in rng.permutation(len(parts)):
        yield parts[part]


def _epoch(module: EncoderTraining, optimizer: RowAdamW, steps: Iterator[Step]) -> int:
    """Train on all steps; the columns that they held."""
    columns = 0
    for step in steps:
        columns += step.items_RL.numel()
        module.loss(step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return columns


if __name__ == "__main__":
    main()
