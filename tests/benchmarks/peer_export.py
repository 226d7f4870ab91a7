"""Time a public library's own batch recommendation for all users, written to Parquet.

Runs in that library's environment, not in ours: `export_speed.py` starts it as

    BENCH_DIR/recbole/bin/python peer_export.py SCRIPT OUT.parquet beauty sasrec 1 --max-batches 8 --no-infer

SCRIPT is the library's benchmark script (`run_rectools.py`, `run_replay.py` or `run_recbole.py`), the rest
its arguments: it reads the data and trains for a moment. What it leaves behind is then asked for the top 10
and the top 100 of all users, by one thread, each twice; the better time of the processor counts, writing
included.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 256
BATCHES = 8
Space = dict[str, Any]
"""The variables that a script leaves."""


def replay(space: Space, k: int, out: Path) -> None:
    """RePlay: prediction by its trainer, with its own filter of seen items."""
    space["predict"](space["frame"](space["test_h"]), k).to_parquet(out)


def rectools(space: Space, k: int, out: Path) -> None:
    """RecTools: `recommend` without viewed items."""
    space["rec"](np.arange(space["U"]), space["test_ds"], k).to_parquet(out)


def recbole(space: Space, k: int, out: Path) -> None:
    """RecBole: `full_sort_topk` in blocks; it leaves seen items in."""
    import pandas as pd

    top, uid = space["full_sort_topk"], space["uid"]
    found = [
        top(uid[start : start + BLOCK], space["model"], space["test_data"], k)
        for start in range(0, space["U"], BLOCK)
    ]
    scores, items = (np.concatenate([np.asarray(part[place]) for part in found]) for place in (0, 1))
    columns = {
        "user": np.repeat(np.arange(space["U"]), k),
        "item": space["itok"][items.ravel()],
        "score": scores.ravel(),
    }
    pd.DataFrame(columns).to_parquet(out)


LIBRARIES: dict[str, Callable[[Space, int, Path], None]] = {
    "run_replay": replay,
    "run_rectools": rectools,
    "run_recbole": recbole,
}
"""Script -> how the model that it leaves is asked for everybody's list."""


def trained_shortly() -> None:
    """Let Lightning, as RePlay takes it, end a training after a few batches."""
    import lightning  # type: ignore[import-not-found]  # of RePlay's environment

    whole = lightning.Trainer

    def short(**options: object) -> object:
        return whole(**{**options, "limit_train_batches": BATCHES})

    lightning.Trainer = short


def main() -> None:
    """Run the script, then print a line of JSON for each length of the lists."""
    script, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    sys.argv = [str(script), *sys.argv[3:]]
    sys.path[0] = str(script.parent)
    if script.stem == "run_replay":
        trained_shortly()
    space: Space = {"__name__": "__main__", "__file__": str(script)}
    exec(compile(script.read_text(), str(script), "exec"), space)
    import torch

    torch.set_num_threads(1)
    space["model"].eval() if hasattr(space["model"], "eval") else space["model"].lightning_model.eval()
    for k in (10, 100):
        seconds = []
        for _ in range(2):
            started = time.process_time()
            LIBRARIES[script.stem](space, k, out)
            seconds.append(time.process_time() - started)
        print("TIMED", json.dumps({"k": k, "users": space["U"], "seconds": min(seconds)}), flush=True)


if __name__ == "__main__":
    main()
