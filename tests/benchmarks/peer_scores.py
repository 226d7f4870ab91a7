"""Train a public library's model and write its score of every item for every user, for our own evaluation.

Runs in that library's environment, not in ours: `peers.py` starts it as

    BENCH_DIR/replay/bin/python peer_scores.py matched SCRIPT OUT.npy ml-100k bert4rec 340 --seed 0

SCRIPT is the library's benchmark script (`run_rectools.py`, `run_replay.py` or `run_recbole.py`), the rest
its arguments. The script is run as it stands (`matched`), or with the library's own sizes (`documented`): it
trains, measures and prints its own rows; what it leaves behind (model, histories, loaders) is then asked for
its scores of the test histories.

Shapes: `U` users, `V` items, both in the order of the script's data; `B` users of a block.
"""

from __future__ import annotations

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


DOCUMENTED = {
    ("run_replay", "bert4rec"): [
        ("embedding_dim=64", "embedding_dim=256"),
        ("block_count=2, head_count=2, hidden_size=64", "block_count=2, head_count=4, hidden_size=256"),
        ("dropout_rate=0.2", "dropout_rate=0.1"),
    ],
    ("run_replay", "sasrec"): [
        ("embedding_dim=64", "embedding_dim=192"),
        ("num_heads=2", "num_heads=4"),
        ("dropout=0.2", "dropout=0.3"),
    ],
    ("run_rectools", "bert4rec"): [("n_heads=2, n_factors=64", "n_heads=4, n_factors=256")],
    ("run_rectools", "sasrec"): [("n_heads=2, n_factors=64", "n_heads=4, n_factors=256")],
    ("run_recbole", "bert4rec"): [("dropout_prob=0.2", "dropout_prob=0.5")],
    ("run_recbole", "sasrec"): [("dropout_prob=0.2", "dropout_prob=0.5")],
}
"""(Script, model) -> what to write instead, for the library's own defaults of width, heads and dropout.

They are the defaults of the signatures that the libraries document (RePlay 0.22.0, RecTools 0.19.0, RecBole
1.2.1). Length, batch size and learning rate stay, for they belong to the data.
"""


def resized(source: str, changes: list[tuple[str, str]]) -> str:
    """The script with other sizes.

    Raises:
        SystemExit: it does not say what is to be changed.
    """
    for old, new in changes:
        if old not in source:
            raise SystemExit(f"the script does not say `{old}`, which is to become `{new}`")
        source = source.replace(old, new)
    return source


def main() -> None:
    """Run the script, then write the (U, V) float32 matrix, block by block."""
    sizes, script, out = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3])
    sys.argv = [str(script), *sys.argv[4:]]
    sys.path[0] = str(script.parent)
    source = script.read_text()
    if sizes == "documented":
        source = resized(source, DOCUMENTED[script.stem, sys.argv[2]])
    space: Space = {"__name__": "__main__", "__file__": str(script)}
    exec(compile(source, str(script), "exec"), space)
    scores_UV = np.lib.format.open_memmap(
        out, mode="w+", dtype=np.float32, shape=(space["U"], space["n_items"])
    )
    for users_B, scores_BV in LIBRARIES[script.stem](space):
        scores_UV[users_B] = scores_BV
    scores_UV.flush()


if __name__ == "__main__":
    main()
