"""Latency and requests a second of the endpoint, clients in the same machine.

    python -m tests.benchmarks.serving_speed BUNDLE [--seconds 10] [--clients 1,8,64]
    python -m tests.benchmarks.serving_speed --items 1000000 --vectors clustered [--recall 0.95]

The first asks a bundle for the next 10 items after histories of its own popular items, with micro-batching
and without, in each engine. The second makes a SASRec of 64 dimensions over so many items, whose vectors are
iid random or lie around 1,000 centres, builds its index, and asks it through Annoy and by exact search, with
the recall@10 of Annoy against exact search on the vectors of the same histories.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np
import torch

from recsys.bundle import Bundle, save_bundle
from recsys.encoding import encode_histories
from recsys.index import build_index, read_index_info
from recsys.models import build_encoder
from recsys.models.transformer import Transformer
from recsys.recommender import Recommender
from recsys.search import AnnoyIndex
from recsys.sequences import Ragged
from tests.benchmarks.peers import LIBRARIES, run_script
from tests.benchmarks.serving_load import ask_for, server
from tests.benchmarks.serving_results import Row, save
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
    parser.add_argument("--keep", type=Path, help="folder to make the large bundle in, or to find it")
    parser.add_argument(
        "--save", type=Path, help="file to add the rows to, such as serving.jsonl beside this"
    )
    parser.add_argument(
        "--bench", type=Path, help="folder of the public libraries' scripts; default: without"
    )
    parser.add_argument("--bench-dir", type=Path, default=Path("bench-out"), help="their environments")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--engines", default="eager,onnx")
    parser.add_argument("--clients", default="1,8,64")
    asked = parser.parse_args()
    clients = [int(part) for part in asked.clients.split(",")]
    if asked.bundle:
        histories = popular_histories(Recommender.load(asked.bundle))
        ways = {
            f"{engine}, {way}": ("--engine", engine, *options)
            for engine in asked.engines.split(",")
            for way, options in (("batched", ()), ("alone", ("--batch", "1")))
        }
        rows = measure(str(asked.bundle), histories, clients, asked.seconds, ways)
        if asked.bench:
            rows += [peer(library, asked.bench, asked.bench_dir) for library in ("rectools", "replay")]
        finish(rows, catalogue_of(asked.bundle), None, asked.save)
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = asked.keep or Path(folder)
        if (kept / "bundle").exists():
            made = Bundle.load(kept / "bundle")
        else:
            made = large_bundle(kept, asked.items, asked.vectors)
        histories = popular_histories(Recommender.load(made.folder, backend="exact"))
        info = read_index_info(made) or build_index(made, Ragged.of(histories), recall=asked.recall, k=10)
        print(f"{asked.items:,} items, {asked.vectors}: {info.trees} trees, search_k {info.search_k}")
        recommender = Recommender.load(made.folder, backend="annoy")
        recall = measured_recall(recommender, histories)
        print(f"recall@10 on the histories that are asked: {recall:.4f}", flush=True)
        del recommender
        for backend, reached in (("annoy", recall), ("exact", 1.0)):
            ways = {
                backend: ("--backend", backend),
                f"{backend}, alone": ("--backend", backend, "--batch", "1"),
            }
            rows = measure(str(made.folder), histories, clients, asked.seconds, ways)
            finish(rows, f"{asked.items:,} items, {asked.vectors}", reached, asked.save)


def measure(
    bundle: str,
    histories: list[list[int]],
    clients: list[int],
    seconds: float,
    ways: dict[str, tuple[str, ...]],
) -> list[Row]:
    """Print p50, p99 and requests a second, and give them back."""
    rows: list[Row] = []
    ids = Bundle.load(bundle).vocabulary
    bodies: list[dict[str, object]] = [{"history": ids.decode(row), "k": 10} for row in histories]
    for name, options in ways.items():
        with server(bundle, *options) as (address, process):
            ask_for(1.0, 1, address, bodies)  # warm
            for number in clients:
                before = processor_seconds(process.pid)
                times, took, failed = ask_for(seconds, number, address, bodies)
                spent = (processor_seconds(process.pid) - before) / len(times) * 1e3
                p50, p99 = np.percentile(times, [50, 99]) * 1e3
                print(
                    f"{name:14} {number:3} clients: p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  "
                    f"{len(times) / took:7.0f} requests/s  {failed} failed  {spent:.2f} ms CPU each",
                    flush=True,
                )
                row = {"way": name, "clients": number, "p50_ms": p50, "p99_ms": p99, "failed": failed}
                rows.append(row | {"per_second": len(times) / took, "cpu_ms": spent})
    return rows


def peer(library: str, bench: Path, bench_dir: Path) -> Row:
    """A public library's own call for one user of MovieLens 100K, again and again, in its own process.

    Its script trains for a moment first and then times 200 calls, with two threads and without HTTP.
    """
    python = bench_dir.absolute() / library / "bin/python"
    script = bench.absolute() / f"run_{library}.py"
    command = [str(python), str(script), "ml-100k", "bert4rec", "1"]
    lines = run_script(command, bench_dir, bench_dir / "errors.txt").splitlines()
    told = (json.loads(line[4:]) for line in lines if line.startswith("ROW {"))
    found = next(row for row in told if row["kind"] == "infer")
    p50, p99 = found["lat_ms_median"], found["lat_ms_p99"]
    way = f"{LIBRARIES[library]}, its own call, no HTTP"
    print(f"{way}: p50 {p50:.2f} ms  p99 {p99:.2f} ms  {1e3 / p50:.0f} calls/s", flush=True)
    return {"way": way, "clients": 1, "p50_ms": p50, "p99_ms": p99, "failed": 0, "per_second": 1e3 / p50}


def catalogue_of(folder: Path) -> str:
    """What the catalogue of a bundle is called."""
    bundle = Bundle.load(folder)
    return f"{bundle.manifest['data']['name']}, {len(bundle.vocabulary):,} items, {bundle.config.model.name}"


def finish(rows: list[Row], catalogue: str, recall: float | None, file: Path | None) -> None:
    """Add rows to a results file, if one is asked for."""
    common = {"catalogue": catalogue, "recall": recall, "date": date.today().isoformat()}
    if file is not None:
        save([common | row for row in rows], file)


def processor_seconds(pid: int) -> float:
    """What a process has used of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
