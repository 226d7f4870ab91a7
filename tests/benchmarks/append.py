"""What a night costs: `python -m tests.benchmarks.append 1000000 5000000` prints CPU seconds against events.

A night brings 1% more events. Beside it: preparing the whole log anew, and appending where nothing is new.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from data_prep.append import append
from data_prep.prepare import PrepareReport, prepare
from recsys.config import ExperimentConfig, build_config

WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    "csv": pl.DataFrame.write_csv,
    "jsonl": pl.DataFrame.write_ndjson,
}


def events(count: int, users: int, day: int) -> pl.DataFrame:
    """Events of one day; items are popular by a power law, ids are text."""
    generator = np.random.default_rng(day)
    items = (generator.pareto(1.0, count) * 50).astype(np.int64) % (users // 3)
    columns = {
        "sequence": "user-" + pl.Series(generator.integers(users, size=count)).cast(pl.String),
        "item": "item-" + pl.Series(items).cast(pl.String),
        "time": day * 86_400 + generator.integers(86_400, size=count),
    }
    return pl.DataFrame(columns)


def configured(folder: Path, kind: str, out: str) -> ExperimentConfig:
    data = {"path": str(folder), "events": f"*.{kind}", "format": kind, "columns": {"time": "time"}}
    clean = {"min_sequence_length": 5, "min_item_count": 5}
    tree = {"name": "nights", "prepared": str(folder / out), "data": data, "clean": clean}
    return build_config(tree, where="the benchmark")


def seconds(job: Callable[[ExperimentConfig], PrepareReport], config: ExperimentConfig) -> float:
    started = time.process_time()
    job(config)
    return time.process_time() - started


def row(count: int, kind: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        grown, whole = (configured(folder, kind, out) for out in ("grown", "whole"))
        WRITERS[kind](events(count, count // 40, 0), folder / f"day-0.{kind}")
        append(grown)
        WRITERS[kind](events(count // 100, count // 40, 1), folder / f"day-1.{kind}")
        times = seconds(append, grown), seconds(append, grown), seconds(prepare, whole)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    night, nothing, anew = (f"{time:.1f} s" for time in times)
    return f"| {count:,} | {kind} | {anew} | {night} | {nothing} | {peak:.1f} GiB |"


if __name__ == "__main__":
    print("| events | format | the whole log, CPU | a night of 1% | nothing new | peak memory so far |")
    print("|---|---|---|---|---|---|")
    for count in map(int, sys.argv[1:]):
        for kind in WRITERS:
            print(row(count, kind), flush=True)
