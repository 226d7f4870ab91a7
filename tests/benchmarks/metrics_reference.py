"""Every metric against `ranx`, an implementation by others, on random rankings: equal to 1e-9 or an error.

    pip install ranx
    python -m tests.benchmarks.metrics_reference

draws rankings and targets, asks ranx, compares user by user, and writes all of it to metrics_reference.json.
The suite compares with that file, so that it needs no ranx, whose numba compiles for half a minute. The
rankings have no ties, which ranx breaks by the order of its input.

Shapes: `B` users, `V` items.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.dataset import Targets
from recsys.metrics import user_metrics
from recsys.ranking import rank_all
from recsys.sequences import Ragged

REFERENCE = Path(__file__).with_name("metrics_reference.json")
SEED, USERS, ITEMS, MOST_TARGETS = 7, 40, 60, 30
CUTOFFS = (1, 5, 10, 20)
NEXT_ITEM = {"hr": "hit_rate", "ndcg": "ndcg", "mrr": "mrr"}
ALL_ITEMS = {"recall": "recall", "precision": "precision", "map": "map"}

Lists = list[list[int]]


def drawn() -> tuple[Lists, Lists]:
    """(B, V) random rankings, best first, and the targets of each user, the next item first."""
    rng = np.random.default_rng(SEED)
    rankings = [(rng.permutation(ITEMS) + 1).tolist() for _ in range(USERS)]
    numbers = rng.integers(1, MOST_TARGETS + 1, size=USERS)
    numbers[::8] = 1  # as leave-one-out has them
    return rankings, [(rng.choice(ITEMS, n, replace=False) + 1).tolist() for n in numbers]


def ours(rankings: Lists, targets: Lists) -> dict[str, NDArray[np.float64]]:
    """By metric (`hr@10`), what our evaluation gives each user.

    AP is scaled to ranx's definition: it divides by the number of targets, ours by k where that is fewer.
    """
    scores_BV = -np.argsort(np.array(rankings), axis=1).astype(np.float32)  # the item at place p scores -p
    ranks = rank_all(
        lambda histories: scores_BV[: len(histories)].copy(),
        Targets(
            np.arange(len(targets)),
            Ragged.of([[1]] * len(targets)),
            np.array([row[0] for row in targets], np.int32),
        ),
        Ragged.of(targets),
        n_items=scores_BV.shape[1],
        k=max(CUTOFFS),
        exclude_seen=False,
    )
    found = user_metrics(ranks.above, ranks.level, ranks.offsets, CUTOFFS)
    numbers = np.array([len(row) for row in targets])
    return found | {f"map@{k}": found[f"map@{k}"] * np.minimum(numbers, k) / numbers for k in CUTOFFS}


def theirs(rankings: Lists, targets: Lists) -> dict[str, NDArray[np.float64]]:
    """The same by ranx."""
    ranx = importlib.import_module("ranx")
    names = [f"u{user:03}" for user in range(len(targets))]

    def judged(rows: Lists) -> Any:  # noqa: ANN401 -- an object of ranx
        return ranx.Qrels(
            {name: dict.fromkeys(map(str, row), 1) for name, row in zip(names, rows, strict=True)}
        )

    run = ranx.Run(
        {
            name: {str(item): float(-place) for place, item in enumerate(row)}
            for name, row in zip(names, rankings, strict=True)
        }
    )
    next_item, every = judged([row[:1] for row in targets]), judged(targets)
    found = {}
    for k in CUTOFFS:
        for name, metric in NEXT_ITEM.items():
            found[f"{name}@{k}"] = ranx.evaluate(next_item, run, f"{metric}@{k}", return_mean=False)
        for name, metric in ALL_ITEMS.items():
            found[f"{name}@{k}"] = ranx.evaluate(every, run, f"{metric}@{k}", return_mean=False)
    return found


def main() -> None:
    """Compare every metric at every cutoff, user by user, and write the reference."""
    rankings, targets = drawn()
    found, expected = ours(rankings, targets), theirs(rankings, targets)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-9, err_msg=name)
        largest = np.abs(values - expected[name]).max()
        print(f"{name:13} {values.mean():.6f}  largest difference {largest:.1e}")
    content = {
        "ranx": importlib.metadata.version("ranx"),
        "seed": SEED,
        "rankings": rankings,
        "targets": targets,
        "expected": {name: [float(value) for value in values] for name, values in expected.items()},
    }
    lines = json.dumps(content).replace("]], ", "]],\n").replace('], "', '],\n"')  # a metric a line
    REFERENCE.write_text(lines + "\n", encoding="utf-8")
    print(f"wrote {REFERENCE}")


if __name__ == "__main__":
    main()
