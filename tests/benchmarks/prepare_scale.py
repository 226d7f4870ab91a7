"""Seconds and memory of `recsys prepare` against the number of events, on generated logs.

    python -m tests.benchmarks.prepare_scale --events 1000000 5000000 25000000

A log is a CSV file in the order of time: 25 events a user and 250 an item on average, items drawn by a
Zipf-like law, one row in a hundred written twice, one in ten thousand without an item. It is prepared with
5-core cleaning and each user's last events held out, in a process of its own whose largest resident memory
is taken; with --recbole and --replay their loaders do the same on the same events, in the sizes that
--peers-most allows. Prints a line for each size and adds a row to prepare_scale.jsonl, which
`python -m tests.benchmarks.readme` makes the README's table of, and --plot a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.figure import Figure

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


RECBOLE = """
import sys, types
import numpy as np
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_  # RecBole 1.2 asks NumPy 2 for them
sys.modules["ray"] = ray = types.ModuleType("ray")
sys.modules["ray.tune"] = ray.tune = types.ModuleType("ray.tune")  # imported and not used by a loader
folder, sys.argv = sys.argv[1], sys.argv[:1]
from recbole.config import Config
from recbole.data import create_dataset
settings = dict(
    data_path=folder, use_gpu=False, state="ERROR",
    load_col={"inter": ["user_id", "item_id", "timestamp"]},
    user_inter_num_interval="[5,inf)", item_inter_num_interval="[5,inf)",
    eval_args={"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
)
dataset = create_dataset(Config(model="BPR", dataset="scale", config_dict=settings))
parts = dataset.build()
print("RecBole:", dataset.user_num - 1, "sequences,", dataset.item_num - 1, "items,", *map(len, parts))
"""
"""Loads, cleans (copies of a row stay) and splits.

It asks for a general model's data set: a sequential one would hold a row for each prefix of a sequence.
"""


REPLAY = """
import sys, warnings
import polars as pl
warnings.simplefilter("ignore")
from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureSource, FeatureType
from replay.data.nn import SequenceTokenizer, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.preprocessing.filters import MinCountFilter
from replay.splitters import LastNSplitter
events = pl.read_csv(sys.argv[1]).drop_nulls()
for column in ("item", "user"):
    events = MinCountFilter(num_entries=5, groupby_column=column).transform(events)
columns = dict(divide_column="user", query_column="user", item_column="item", timestamp_column="time")
rest, test = LastNSplitter(N=1, strategy="interactions", **columns).split(events)
train, valid = LastNSplitter(N=1, strategy="interactions", **columns).split(rest)
schema = FeatureSchema([
    FeatureInfo("user", FeatureType.CATEGORICAL, FeatureHint.QUERY_ID),
    FeatureInfo("item", FeatureType.CATEGORICAL, FeatureHint.ITEM_ID),
    FeatureInfo("time", FeatureType.NUMERICAL, FeatureHint.TIMESTAMP),
])
sources = [TensorFeatureSource(FeatureSource.INTERACTIONS, "item")]
settings = dict(is_seq=True, feature_sources=sources, feature_hint=FeatureHint.ITEM_ID, embedding_dim=1)
item = TensorFeatureInfo("item", feature_type=FeatureType.CATEGORICAL, **settings)
tokenizer = SequenceTokenizer(TensorSchema(item)).fit(Dataset(schema, events))
sequences = tokenizer.transform(Dataset(schema, train))
items = tokenizer.item_id_encoder.mapping["item"]
print("RePlay:", len(sequences), "sequences,", len(items), "items,", *map(len, (train, valid, test)))
"""
"""Reads with Polars, filters once (it has no k-core; copies of a row stay), splits, and makes sequences."""


def run(command: list[str]) -> dict[str, float]:
    """Seconds and memory of a process.

    Raises:
        SystemExit: it failed.
    """
    started = time.perf_counter()
    _, status, usage = os.wait4(os.posix_spawn(command[0], command, os.environ), 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command[0]} ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def measure(log: Path, work: Path) -> dict[str, Any]:
    """Prepare a log: its seconds, its memory and what it made."""
    config, prepared = work / "scale.yaml", work / "prepared"
    config.write_text(CONFIG)
    shutil.rmtree(prepared, ignore_errors=True)
    command = [sys.executable, "-m", "recsys", "prepare", str(config)]
    spent = run([*command, f"data.path={log}", f"prepared={prepared}"])
    manifest = json.loads((prepared / "manifest.json").read_text(encoding="utf-8"))
    return {"counts": manifest["counts"], "content_digest": manifest["content_digest"], **spent}


def measure_recbole(log: Path, work: Path, python: Path) -> dict[str, Any]:
    """The same by RecBole's loader."""
    folder = work / "scale"
    folder.mkdir(exist_ok=True)
    with log.open() as source, (folder / "scale.inter").open("w") as atomic:  # line by line: see CHUNK
        next(source)
        atomic.write("user_id:token\titem_id:token\ttimestamp:float\n")
        atomic.writelines(line.replace(",", "\t") for line in source)
    return run([str(python), "-c", RECBOLE, str(work)])


def measure_replay(log: Path, work: Path, python: Path) -> dict[str, Any]:
    """The same by RePlay's."""
    return run([str(python), "-c", REPLAY, str(log)])


PEERS = {"recbole": ("RecBole", measure_recbole), "replay": ("RePlay", measure_replay)}


def newest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each number of events, the smallest first."""
    found = {row["events"]: row for row in rows}
    return [found[events] for events in sorted(found)]


def table(rows: list[dict[str, Any]]) -> str:
    """The README's table: one line a number of events."""
    heads = ["events", "sequences, items, events kept", "CSV", "seconds", "processor", "peak memory"]
    heads += [name for name, _ in PEERS.values()]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in newest(rows):
        counts = row["counts"]
        kept = f"{counts['sequences']:,}, {counts['items']:,}, {counts['events']:,}"
        cells = [f"{row['events']:,}", kept, f"{row['log_mb']:,.0f} MB", f"{row['seconds']:.0f} s"]
        cells += [f"{row['cpu_seconds']:.0f} s", f"{row['peak_mib'] / 1024:.2f} GiB"]
        for peer in PEERS:
            spent = row.get(peer)
            cells.append(f"{spent['cpu_seconds']:.0f} s, {spent['peak_mib'] / 1024:.2f} GiB" if spent else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Processor seconds and peak memory against events, on logarithmic axes; the file's end is its format."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for key, name in ((None, "recsys prepare"), *((key, name) for key, (name, _) in PEERS.items())):
        spent = [(row["events"], row if key is None else row.get(key)) for row in newest(rows)]
        for axis, value, scale in ((axes[0], "cpu_seconds", 1), (axes[1], "peak_mib", 1024)):
            points = [(events, each[value] / scale) for events, each in spent if each]
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", label=name)
    for axis, label in zip(axes, ("processor seconds", "peak memory, GiB"), strict=True):
        axis.set(xlabel="events", ylabel=label)
        axis.set_xticks(
            [row["events"] for row in newest(rows)], [f"{row['events']:,}" for row in newest(rows)]
        )
        axis.xaxis.minorticks_off()
        axis.yaxis.set(major_formatter="{x:g}", minor_formatter="{x:g}")
        axis.tick_params(axis="y", which="minor", labelsize=6)
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].legend()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "the same file each time"}):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.prepare_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--events", type=int, nargs="*", default=[1_000_000, 5_000_000, 25_000_000])
    add("--work", type=Path, default=Path("runs/prepare-scale"), help="folder of the logs, kept between runs")
    add("--results", type=Path, default=RESULTS, help="file to add the rows to")
    for peer, (name, _) in PEERS.items():
        add(f"--{peer}", type=Path, help=f"Python of an environment that has {name}")
    add("--peers-most", type=int, default=5_000_000, help="events of the largest log that they get")
    add("--plot", type=Path, help="picture to write of all rows, .svg or .png")
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
            "log_mb": round(log.stat().st_size / 1e6, 1),
            "cores": len(os.sched_getaffinity(0)),
            **measure(log, options.work),
            "versions": environment().packages,
        }
        for peer, (_, measured) in PEERS.items():
            python = getattr(options, peer)
            if python and events <= options.peers_most:
                row[peer] = measured(log, options.work, python)
        print(f"{events:,} events: {row['seconds']:.1f} s, {row['peak_mib']:,} MiB at most")
        with options.results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
    if options.plot:
        lines = options.results.read_text(encoding="utf-8").splitlines()
        plot([json.loads(line) for line in lines], options.plot)


if __name__ == "__main__":
    main()
