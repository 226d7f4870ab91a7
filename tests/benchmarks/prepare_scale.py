"""Seconds and memory of `recsys prepare` against the number of events, on generated logs.

    python -m tests.benchmarks.prepare_scale --events 1000000 5000000 25000000

A log is a CSV file in the order of time: 25 events a user and 250 an item on average, items drawn by a
Zipf-like law, one row in a hundred written twice, one in ten thousand without an item. It is prepared with
5-core cleaning and each user's last events held out, in a process of its own whose largest resident memory
is taken. Prints a line for each size and adds a row to prepare_scale.jsonl, which
`python -m tests.benchmarks.readme` makes the README's table of.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.environment import environment

RESULTS = Path(__file__).with_name("prepare_scale.jsonl")
CHUNK = 500_000
"""Events that are made at a time: this process must stay smaller than the one it measures."""
PER_USER, PER_ITEM = 25, 250
START, YEAR = 1_700_000_000, 365 * 86_400  # seconds
CONFIG = """\
name: scale
data:
  format: csv
  columns: {sequence: user, item: item, time: time}
clean: {min_sequence_length: 5, min_item_count: 5}
"""


def write_log(file: Path, events: int) -> None:
    """A log of about this many events, always the same."""
    users, items = max(events // PER_USER, 1), max(events // PER_ITEM, 2)
    with file.open("wb") as stream:
        for chunk, first in enumerate(range(0, events, CHUNK)):
            count = min(CHUNK, events - first)
            rng = np.random.default_rng([0, chunk])
            moments = first + np.sort(rng.random(count)) * count
            frame = pl.DataFrame(
                {
                    "user": rng.integers(users, size=count) + 1,
                    "item": np.minimum(items ** rng.random(count), items).astype(np.int64),
                    "time": START + (moments / events * YEAR).astype(np.int64),
                }
            )
            copies = np.repeat(np.arange(count), np.where(rng.random(count) < 0.01, 2, 1))[:count]
            unnamed = pl.when(pl.Series(rng.random(count) >= 1e-4)).then("item").alias("item")
            frame[copies].with_columns(unnamed).write_csv(stream, include_header=not chunk)


def measure(log: Path, work: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Prepare a log in a process of its own: its seconds, its memory and what it made."""
    config, prepared = work / "scale.yaml", work / "prepared"
    config.write_text(CONFIG)
    subprocess.run(["rm", "-rf", str(prepared)], check=True)
    command = [sys.executable, "-m", "recsys", "prepare", str(config)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, f"data.path={log}", f"prepared={prepared}", *settings])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"recsys prepare of {log} failed with status {os.waitstatus_to_exitcode(status)}")
    manifest = json.loads((prepared / "manifest.json").read_text(encoding="utf-8"))
    return {
        "counts": manifest["counts"],
        "content_digest": manifest["content_digest"],
        "log_mb": round(log.stat().st_size / 1e6, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The README's table: one line a number of events; the newest row of each counts."""
    newest = {row["events"]: row for row in rows}
    lines = ["| events | sequences, items, events kept | CSV | seconds | of processor | peak memory |"]
    lines.append("|---|---|---|---|---|---|")
    for events, row in sorted(newest.items()):
        counts = row["counts"]
        kept = f"{counts['sequences']:,}, {counts['items']:,}, {counts['events']:,}"
        cells = [f"{events:,}", kept, f"{row['log_mb']:,.0f} MB", f"{row['seconds']:.0f} s"]
        cells += [f"{row['cpu_seconds']:.0f} s", f"{row['peak_mib'] / 1024:.2f} GiB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.prepare_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--events", type=int, nargs="+", default=[1_000_000, 5_000_000, 25_000_000])
    add("--work", type=Path, default=Path("runs/prepare-scale"), help="folder of the logs, kept between runs")
    add("--results", type=Path, default=RESULTS, help="file to add the rows to")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preparation")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    options = parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    for events in options.events:
        log = options.work / f"events-{events}.csv"
        if not log.exists():
            write_log(log.with_suffix(".part"), events)
            log.with_suffix(".part").rename(log)
        row = {
            "date": datetime.now(UTC).date().isoformat(),
            "events": events,
            "settings": " ".join(options.set),
            "cores": len(os.sched_getaffinity(0)),
            **measure(log, options.work, options.set),
            "versions": environment().packages,
        }
        print(f"{events:,} events: {row['seconds']:.1f} s, {row['peak_mib']:,} MiB at most")
        with options.results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
