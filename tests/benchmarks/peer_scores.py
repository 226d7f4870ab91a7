"""Train a public library's model and write its score of every item for every user, for our own evaluation.

Runs in that library's environment, not in ours: `peers.py` starts it as

    BENCH_DIR/replay/bin/python peer_scores.py SCRIPT OUT.npy ml-100k bert4rec 340 --seed 0

SCRIPT is the library's benchmark script (`run_rectools.py`, `run_replay.py` or `run_recbole.py`), the rest
its arguments. The script is run as it stands: it trains, measures and prints its own rows; what it leaves
behind (model, histories, loaders) is then asked for its scores of the test histories.

Shapes: `U` users, `V` items, both in the order of the script's data; `B` users of a block.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
Space = dict[str, Any]
"""The variables that a script leaves."""
Blocks = Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]
"""(B,) users and their (B, V) scores; an item that the library cannot score is -inf."""


def replay(space: Space) -> Blocks:
    """RePlay: the logits that its own prediction ranks."""
    users_U = np.arange(space["U"])
    if "logits" in space:
        for start in range(0, len(users_U), BLOCK):
            users_B = users_U[start : start + BLOCK]
            yield users_B, space["logits"](users_B, space["test_h"]).numpy()
        return
    import torch

    prediction = space["PD"](space["sd"](space["frame"](space["test_h"])), space["MAXLEN"])
    for batch in space["DataLoader"](prediction, batch_size=BLOCK):
        with torch.no_grad():
            scores_BV = space["model"].predict(batch).numpy()
        yield batch["query_id"].flatten().numpy(), scores_BV


def rectools(space: Space) -> Blocks:
    """RecTools: `recommend` asked for the whole catalogue; it knows the items of the training part only."""
    columns = space["Columns"]
    for start in range(0, space["U"], BLOCK):
        users_B = np.arange(start, min(start + BLOCK, space["U"]))
        found = space["model"].recommend(
            users=users_B, dataset=space["test_ds"], k=space["n_items"], filter_viewed=False
        )
        scores_BV = np.full((len(users_B), space["n_items"]), -np.inf, dtype=np.float32)
        scores_BV[found[columns.User] - start, found[columns.Item]] = found[columns.Score]
        yield users_B, scores_BV


def recbole(space: Space) -> Blocks:
    """RecBole: `full_sort_scores`; its column 0 is padding and the others are in an order of its own."""
    for start in range(0, space["U"], BLOCK):
        users_B = np.arange(start, min(start + BLOCK, space["U"]))
        found = space["full_sort_scores"](space["uid"][users_B], space["model"], space["test_data"])
        scores_BV = np.full((len(users_B), space["n_items"]), -np.inf, dtype=np.float32)
        scores_BV[:, space["itok"][1:]] = found[:, 1:].detach().numpy()
        yield users_B, scores_BV


LIBRARIES: dict[str, Callable[[Space], Blocks]] = {
    "run_replay": replay,
    "run_rectools": rectools,
    "run_recbole": recbole,
}
"""Script -> how the model that it leaves is asked for scores."""


def main() -> None:
    """Run the script, then write the (U, V) float32 matrix, block by block."""
    script, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    sys.argv = [str(script), *sys.argv[3:]]
    sys.path[0] = str(script.parent)
    space = runpy.run_path(str(script), run_name="__main__")
    scores_UV = np.lib.format.open_memmap(
        out, mode="w+", dtype=np.float32, shape=(space["U"], space["n_items"])
    )
    for users_B, scores_BV in LIBRARIES[script.stem](space):
        scores_UV[users_B] = scores_BV
    scores_UV.flush()


if __name__ == "__main__":
    main()
