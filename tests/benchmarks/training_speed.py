"""Seconds of a training epoch and memory, ours and the public libraries', alternating in one run.

    python -m tests.benchmarks.training_speed --bench SCRIPTS --bench-dir FOLDER [--rounds 3] [--out FILE]

FOLDER holds the public libraries' environments and their data, as the `setup.sh` among their SCRIPTS makes
them; all read the same sequences. Matched: 2 layers, 2 heads, width 64, dropout 0.2 (of attention weights
too), mask rate 0.2, the same sequences a step and targets an epoch, softmax over the whole catalogue.

What an epoch costs, counted per event (D = 64, L = 2, V items, N positions):

    linear layers      6 x 2 x 12 D^2 = 590 kFLOP forward and backward (SASRec's narrow feed-forward: 295)
    attention          6 x 2 x 2 N D  = 77 kFLOP at N = 50 (rows are packed: every place meets N keys)
    loss               6 V D          = 4.6 MFLOP a target at V = 12,101; a fifth of BERT4Rec's events are
                       targets, nearly all of SASRec's
    bytes of the loss  4 passes over 4 V = 194 kB a target through the caches (half in bfloat16); held at
                       once: a block of logits, which become probabilities in place, of 5 MiB

So the loss is half to two thirds of BERT4Rec's arithmetic on Amazon Beauty and over nine tenths of SASRec's.
RecBole trains on every prefix as a sequence of its own, 256 a step, and is extrapolated from 24 steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from recsys.config import BERT4RecConfig, SASRecConfig, TrainingConfig
from recsys.environment import environment
from recsys.sequences import Ragged
from recsys.training import fit_encoder
from tests.benchmarks.peers import run_script

SIZES = {"ml-100k": (200, 128), "beauty": (50, 256)}
"""Positions and sequences of a step, as the public libraries' scripts set them."""
PEERS = {
    ("beauty", "bert4rec"): ("replay", 1),
    ("beauty", "sasrec"): ("recbole", 24),
    ("ml-100k", "bert4rec"): ("replay", 2),
    ("ml-100k", "sasrec"): ("replay", 2),
}
"""The fastest public library on each, and the epochs (RecBole: steps) it is given in a round."""
RESULTS = Path(__file__).with_name("speed.jsonl")


def main() -> None:
    """Alternate the libraries and us, print a table of medians and ratios, append the rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bench", type=Path, default=Path(), help="folder of the libraries' scripts")
    parser.add_argument("--bench-dir", type=Path, required=True, help="their environments and data")
    parser.add_argument("--cases", default=",".join("/".join(case) for case in PEERS), help="DATA/MODEL,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measure one of ours in this process
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.bench_dir, *asked.one.split("/"))))
        return
    for case in asked.cases.split(","):
        data, model = case.split("/")
        library, _ = PEERS[data, model]
        seconds: dict[str, list[float]] = {library: [], "fp32": [], "bf16": []}
        memory: dict[str, float] = {}
        for _ in range(asked.rounds):
            row = peer_epoch(asked.bench, asked.bench_dir, data, model)
            seconds[library].append(row["epoch_s"])
            memory[library] = row["rss_mb"] - row["rss_import_mb"]
            for precision in ("fp32", "bf16"):
                ours = own_epochs(asked.bench_dir, f"{data}/{model}/{precision}")
                seconds[precision].append(statistics.median(ours["seconds"][1:]))
                memory[precision] = ours["rss_mb"] - ours["rss_import_mb"]
        median = {name: statistics.median(values) for name, values in seconds.items()}
        print(f"{case}: {library} {median[library]:.2f} s an epoch, {memory[library]:.0f} MB above imports")
        for precision in ("fp32", "bf16"):
            ratio = median[library] / median[precision]
            print(
                f"  ours {precision} {median[precision]:.2f} s, {ratio:.1f}x, {memory[precision]:.0f} MB",
                flush=True,
            )
        with asked.out.open("a") as file:
            row = {"data": data, "model": model, "library": library, "seconds": seconds, "rss_mb": memory}
            run = environment().model_dump(exclude={"command"})
            file.write(json.dumps({**row, "date": time.strftime("%Y-%m-%d"), **run}) + "\n")


def peer_epoch(bench: Path, bench_dir: Path, data: str, model: str) -> dict[str, Any]:
    """The `train` row of a library's script after a few epochs (its first epoch is not in its median)."""
    library, amount = PEERS[data, model]
    limit = ["--max-batches", str(amount)] if library == "recbole" else ["--epochs", str(amount + 1)]
    python, script = bench_dir.absolute() / library / "bin/python", bench.absolute() / f"run_{library}.py"
    command = [str(python), str(script), data, model, "100000", "--no-infer", *limit]
    said = run_script(command, bench_dir, bench_dir / "errors.txt")
    rows = [json.loads(line[4:]) for line in said.splitlines() if line.startswith("ROW {")]
    return next(row for row in rows if row["kind"] == "train")


def own_epochs(bench_dir: Path, case: str) -> dict[str, Any]:
    """What `measure` returns, from a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "tests.benchmarks.training_speed"]
    done = subprocess.run(
        [*command, "--bench-dir", str(bench_dir), "--one", case], check=True, capture_output=True, text=True
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(bench_dir: Path, data: str, model: str, precision: str, epochs: str = "3") -> dict[str, Any]:
    """Train a few epochs; seconds of each, everything that Lightning does between them included."""
    config, training, n_items = matched(bench_dir, data, model)
    imported = _rss_mb()
    marks = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        fit_encoder(
            config,
            TrainingConfig.model_validate(
                {"epochs": int(epochs), "batch_size": SIZES[data][1], "device": "cpu", "precision": precision}
            ),
            training=training,
            n_items=n_items,
            validation=None,
            checkpoints=Path(folder),
            on_epoch=lambda epoch, metrics: marks.append(time.perf_counter()),
        )
    seconds = [round(value, 3) for value in np.diff(marks).tolist()]
    return {"seconds": seconds, "rss_mb": _rss_mb(), "rss_import_mb": imported}


def matched(bench_dir: Path, data: str, model: str) -> tuple[BERT4RecConfig | SASRecConfig, Ragged, int]:
    """The model as the public libraries' scripts set it, the training sequences, and the number of items."""
    length, _ = SIZES[data]
    with np.load(bench_dir / "data" / f"{data}.npz") as file:
        sequences = Ragged(file["items"].astype(np.int32) + 1, file["off"].astype(np.int64))
        n_items = int(file["n_items"])
    sizes: dict[str, Any] = {"max_length": length, "dropout": 0.2, "attention_dropout": 0.2, "scoring": "dot"}
    config: BERT4RecConfig | SASRecConfig = SASRecConfig(**sizes, feed_forward="relu")
    if model == "bert4rec":
        cloze: dict[str, Any] = {"mask_prob": 0.2, "last_item_prob": 0.0, "next_item_prob": 0.0}
        config = BERT4RecConfig(**sizes, **cloze, read="mask", norm="post")
    return config, sequences.first(sequences.lengths - 2).last(length + (model == "sasrec")), n_items


def _rss_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
