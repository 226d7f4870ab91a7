"""Users a second of `recsys export`, writing included, beside the public libraries' batch recommendation.

    python -m tests.benchmarks.export_speed --data amazon-beauty-5core=PREPARED --data yelp=PREPARED \\
        --bench SCRIPTS --bench-dir FOLDER [--rounds 2] [--peers recbole,rectools,replay]

Everybody's top 10 and top 100 on a SASRec of one size (2 layers, 2 heads, width 64, length 50), by one
thread, in a process that has model and data loaded, to one Parquet file. Ours is `serving.export.export` with
exact search and seen items removed; its file also survives a kill, so parts are stored before it appears. The
libraries are trained for a moment by their own scripts (see `peer_export.py`); RecBole's lists leave seen
items in. Seconds are those of the processor, so that others on the machine do not count. All alternate, round
by round; the better of two passes counts, and the median of the rounds. Adds rows to export.jsonl, of which
`python -m tests.benchmarks.readme` makes the README's table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from recsys.bundle import save_bundle
from recsys.config import build_config
from recsys.dataset import PreparedData
from recsys.environment import environment
from recsys.errors import InputError
from recsys.models import build_encoder
from recsys.recommender import Recommender
from serving.export import Wanted, export
from tests.benchmarks.peers import LIBRARIES, run_script

RESULTS = Path(__file__).with_name("export.jsonl")
NAMES = {"amazon-beauty-5core": "beauty"}
"""Our name of a data set -> the scripts', where they differ."""
ARGUMENTS = {
    "recbole": ["1", "--max-batches", "8", "--no-infer"],
    "rectools": ["1", "--limit-batches", "2", "--no-infer"],
    "replay": ["1", "--epochs", "1", "--no-infer"],
}
"""Library -> how its script is told to train for a moment and to measure nothing itself."""
LENGTHS = (10, 100)
PASSES = 2
OURS = "ours"


def main() -> None:
    """Print and store users a second of each, and how many times the fastest library's ours are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="NAME=PREPARED; may be repeated")
    parser.add_argument("--bench", type=Path, required=True, help="folder of the libraries' scripts")
    parser.add_argument("--bench-dir", type=Path, required=True, help="their environments and data")
    parser.add_argument("--peers", default="recbole,rectools,replay")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that rows are added to")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        for each in asked.data:
            name, _, prepared = each.partition("=")
            row = measured(name, Path(prepared), asked.peers.split(","), asked, Path(work))
            with asked.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            print(table([row]), flush=True)


def measured(name: str, prepared: Path, peers: Sequence[str], asked: Any, work: Path) -> dict[str, Any]:  # noqa: ANN401
    """The row of one data set: users a second of each library and of ours, by k, one value a round."""
    data = PreparedData.load(prepared)
    recommender = untrained(data, work / name)
    lay_out(data, asked.bench_dir, NAMES.get(name, name))
    rates: dict[str, dict[str, list[float]]] = {}
    for _ in range(asked.rounds):
        for library in peers:
            for k, rate in peer_rates(library, NAMES.get(name, name), asked.bench, asked.bench_dir, work):
                rates.setdefault(library, {}).setdefault(k, []).append(rate)
        for k, rate in own_rates(recommender, data, work):
            rates.setdefault(OURS, {}).setdefault(k, []).append(rate)
    run = environment().model_dump(mode="json", exclude={"command"})
    date = datetime.now(UTC).date().isoformat()
    return {"data": name, "users": len(data.sequences), "rates": rates, "date": date, **run}


def untrained(data: PreparedData, folder: Path) -> Recommender:
    """A SASRec of the libraries' size with fresh weights, from a bundle."""
    model = {"name": "sasrec", "dim": 64, "layers": 2, "heads": 2, "max_length": 50}
    config = build_config({"name": "speed", "data": {"format": "sample"}, "model": model}, where="here")
    torch.manual_seed(0)
    encoder = build_encoder(config.model, len(data.vocabulary)).eval()
    save_bundle(
        folder, config=config, model=encoder, data=data, metrics={}, trained_on="all", best_epoch=None
    )
    return Recommender.load(folder)


def lay_out(data: PreparedData, bench_dir: Path, name: str) -> None:
    """Write the data set as the libraries' scripts read it, unless it stands there."""
    folder = bench_dir / "data"
    events = folder / "recbole" / name / f"{name}.inter"
    if events.exists() and (folder / f"{name}.npz").exists():
        return
    sequences = data.sequences
    items = sequences.values.astype(np.int64) - 1
    np.savez(folder / f"{name}.npz", off=sequences.offsets, items=items, n_items=len(data.vocabulary))
    places = np.arange(len(items)) - sequences.offsets[sequences.rows]
    events.parent.mkdir(parents=True, exist_ok=True)
    head = "user_id:token\titem_id:token\ttimestamp:float"
    columns = np.column_stack([sequences.rows, items, places])
    np.savetxt(events, columns, fmt="%d", delimiter="\t", header=head, comments="")


def peer_rates(library: str, data: str, bench: Path, bench_dir: Path, work: Path) -> list[tuple[str, float]]:
    """(k, users a second) of a library."""
    python = bench_dir.absolute() / library / "bin/python"
    program = Path(__file__).with_name("peer_export.py")
    command = [
        str(python),
        str(program),
        str(bench.absolute() / f"run_{library}.py"),
        str(work / "peer.parquet"),
    ]
    said = run_script([*command, data, "sasrec", *ARGUMENTS[library]], bench_dir, bench_dir / "errors.txt")
    timed = [json.loads(line.partition(" ")[2]) for line in said.splitlines() if line.startswith("TIMED ")]
    if len(timed) != len(LENGTHS):
        raise InputError(
            f"{library} timed {len(timed)} of {len(LENGTHS)} exports; see {bench_dir}/errors.txt"
        )
    return [(str(each["k"]), each["users"] / each["seconds"]) for each in timed]


def own_rates(recommender: Recommender, data: PreparedData, work: Path) -> list[tuple[str, float]]:
    """(k, users a second) of ours."""
    rates = []
    for k in LENGTHS:
        seconds = []
        for _ in range(PASSES):
            started = time.process_time()
            export(recommender, data, work / "ours.parquet", Wanted(k=k))
            seconds.append(time.process_time() - started)
        rates.append((str(k), len(data.sequences) / min(seconds)))
    return rates


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a data set and k; the newest run of each data set counts."""
    newest = {row["data"]: row for row in rows}
    peers = [name for name in LIBRARIES if any(name in row["rates"] for row in newest.values())]
    heads = ["data", "k", *(LIBRARIES[name] for name in peers), "ours"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in newest.values():
        for k in map(str, LENGTHS):
            rates = {name: median(by_k[k]) for name, by_k in row["rates"].items()}
            fastest = max(rate for name, rate in rates.items() if name != OURS)
            ours = f"{rates[OURS]:,.0f}, **{rates[OURS] / fastest:.1f} times the fastest**"
            theirs = [f"{rates[name]:,.0f}" if name in rates else "" for name in peers]
            cells = [f"{row['data']}, {row['users']:,} users", k, *theirs, ours]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
