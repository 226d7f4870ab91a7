"""Every metric against `ranx`, an implementation by others, on random rankings: equal to 1e-9 or an error.

    pip install ranx
    python -m tests.benchmarks.metrics_reference

No part of the suite, because ranx brings numba, which compiles for half a minute; there, scikit-learn and the
mean over every order of ties stand for it.
"""

from __future__ import annotations

import importlib

import numpy as np

from recsys.dataset import Targets
from recsys.metrics import user_metrics
from recsys.ranking import rank_all
from recsys.sequences import Ragged

USERS, ITEMS = 200, 120
NEXT_ITEM = {"hr": "hit_rate", "ndcg": "ndcg", "mrr": "mrr"}
ALL_ITEMS = {"recall": "recall", "precision": "precision", "map": "map"}


def main() -> None:
    """Compare every metric at every cutoff, user by user."""
    ranx = importlib.import_module("ranx")
    rng = np.random.default_rng(7)
    scores = rng.permuted(np.tile(np.arange(ITEMS, dtype=np.float32), (USERS, 1)), axis=1)
    asked = [rng.choice(ITEMS, rng.integers(1, 31), replace=False) + 1 for _ in range(USERS)]
    first = np.array([row[0] for row in asked], np.int32)
    targets = Targets(np.arange(USERS), Ragged.of([[1]] * USERS), first)
    ranks = rank_all(
        lambda histories: scores[: len(histories)].copy(),
        targets,
        Ragged.of(asked),
        n_items=ITEMS,
        k=20,
        exclude_seen=False,
    )
    found = user_metrics(ranks.above, ranks.level, ranks.offsets, (1, 5, 10, 20))

    names = [f"u{user:03}" for user in range(USERS)]
    run = {
        name: {f"i{i + 1}": float(s) for i, s in enumerate(row)}
        for name, row in zip(names, scores, strict=True)
    }
    every = {name: {f"i{item}": 1 for item in row} for name, row in zip(names, asked, strict=True)}
    next_item = {name: {f"i{item}": 1} for name, item in zip(names, first, strict=True)}
    numbers = np.array([len(row) for row in asked])
    for name, values in found.items():
        ours, _, k = name.partition("@")
        metric = {**NEXT_ITEM, **ALL_ITEMS}[ours]
        relevant = next_item if ours in NEXT_ITEM else every
        theirs = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(run), f"{metric}@{k}", return_mean=False)
        if ours == "map":  # ranx divides by the number of targets, whatever k
            theirs = theirs * numbers / np.minimum(numbers, int(k))
        np.testing.assert_allclose(values, theirs, rtol=0, atol=1e-9, err_msg=name)
        print(f"{name:13} {values.mean():.6f}  largest difference {np.abs(values - theirs).max():.1e}")


if __name__ == "__main__":
    main()
