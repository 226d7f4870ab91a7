"""Steady load while two models take turns: failed requests, wrong answers, growth of memory.

    python -m tests.benchmarks.serving_swap BUNDLE_A BUNDLE_B [--minutes 10] [--every 30] [--clients 4]

With `--pause SECONDS` each client waits between its requests. Both bundles are of one vocabulary. Every
answer is compared with what the model that it names answers (`Recommender.recommend`, ids and scores). Memory
is the server's own, before each swap and at the end.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from recsys.recommender import Recommender
from tests.benchmarks.serving_load import ask_for, server
from tests.benchmarks.serving_speed import popular_histories

K = 10
ASKED = 100


def main() -> None:
    """Print what went wrong, and the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs=2)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=30)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0, help="seconds of each client between two requests")
    parser.add_argument("--engine", default="eager")
    asked = parser.parse_args()
    models = [Recommender.load(folder, engine=asked.engine) for folder in asked.bundle]
    histories = [models[0].vocabulary.decode(row) for row in popular_histories(models[0])[:ASKED]]
    right = set()
    for model in models:
        for history in histories:
            items = model.recommend(history, K).items
            right.add((model.model_version, *((item.id, np.float32(item.score)) for item in items)))
    bodies: list[dict[str, object]] = [{"history": history, "k": K} for history in histories]
    versions: dict[str, int] = {}

    def check(answer: dict) -> bool:  # type: ignore[type-arg]
        version = answer["model_version"]
        versions[version] = versions.get(version, 0) + 1
        return (version, *((item["id"], np.float32(item["score"])) for item in answer["items"])) in right

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "bundle"
        put(asked.bundle[0], place)
        options = ("--watch-seconds", "1", "--engine", asked.engine)
        with server(str(place), *options) as (address, process):
            memory: list[float] = []
            stop = threading.Event()
            turns = threading.Thread(
                target=swap, args=(asked.bundle, place, asked.every, process.pid, memory, stop)
            )
            turns.start()
            times, took, failed = ask_for(
                asked.minutes * 60, asked.clients, address, bodies, check, asked.pause
            )
            stop.set()
            turns.join()
            memory.append(resident(process.pid))
    print(f"{len(times):,} requests in {took:.0f} s by {asked.clients} clients, {len(memory) - 1} swaps")
    print(f"{failed} failed or wrong; answers by version: {versions}")
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {max(times):.1f} s")
    print("resident MB before each swap: " + " ".join(f"{each:.0f}" for each in memory))
    if len(memory) > 3:
        print(f"growth from the third swap to the end: {memory[-1] / memory[2] - 1:+.1%}")


def swap(
    bundles: list[Path], place: Path, every: float, pid: int, memory: list[float], stop: threading.Event
) -> None:
    """Put the other bundle in place every so many seconds."""
    turn = 0
    while not stop.wait(every):
        turn += 1
        memory.append(resident(pid))
        put(bundles[turn % 2], place)


def put(bundle: Path, place: Path) -> None:
    """Let a bundle take a place as a training does: the former one steps aside."""
    draft, former = place.with_name("draft"), place.with_name(f"former-{time.monotonic_ns()}")
    shutil.copytree(bundle, draft)
    if place.exists():
        place.rename(former)
    draft.rename(place)
    shutil.rmtree(former, ignore_errors=True)


def resident(pid: int) -> float:
    """Megabytes of a process that are in memory and its own."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    anonymous = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(anonymous.split()[1]) / 1024


if __name__ == "__main__":
    main()
