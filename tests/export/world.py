"""An export that is killed again and again: helper of the tests, and a program that does the killing.

    python -m tests.export.world FOLDER OUT KILLS SEED

FOLDER holds `data` and `bundle`. Each round exports lists of 2, forks a process that exports lists of 3 in
parts of one sequence, kills it at a random moment, up to three times in a row, looks at what readers see,
exports again and looks again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recsys.dataset import PreparedData
from recsys.recommender import Recommender
from recsys.sequences import Ragged
from serving.export import Wanted, export
from tests.worlds import encoder_bundle, prepared, ring

N_ITEMS = 60
N_SEQUENCES = 26

Lists = dict[str, list[int]]


def world(folder: Path) -> tuple[PreparedData, Recommender]:
    """25 walks round a ring, one sequence without an event, and an encoder with exact search."""
    sequences = ring(N_ITEMS, N_SEQUENCES - 1)
    with_an_empty_one = Ragged(sequences.values, np.append(sequences.offsets, sequences.offsets[-1]))
    data = prepared(folder / "data", with_an_empty_one, N_ITEMS, strings=False)
    return data, Recommender.load(encoder_bundle(folder / "bundle", data).folder)


def read(out: str) -> list[tuple[str, list[int]]]:
    """What readers of a place see: (sequence, items) of each row; nothing where there is nothing."""
    if out.startswith("sqlite"):
        with sqlite3.connect(out.partition(":///")[2]) as connection:
            exists = "SELECT count(*) FROM sqlite_master WHERE name = 'recommendations'"
            there = connection.execute(exists).fetchone()[0]
            rows = (
                connection.execute("SELECT sequence, items FROM recommendations").fetchall() if there else []
            )
        connection.close()
        return [(sequence, json.loads(items)) for sequence, items in rows]
    if out.startswith("postgresql"):
        import adbc_driver_postgresql.dbapi as driver

        with driver.connect(out) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT sequence, items FROM recommendations")
            return [tuple(row) for row in cursor.fetchall()]
    if out.startswith("redis"):
        import redis

        with redis.Redis.from_url(out, decode_responses=True) as client:
            found: dict[str, str] = client.hgetall("recommendations")
            return [(sequence, json.loads(text)["items"]) for sequence, text in found.items()]
    if out.endswith(".jsonl"):
        rows_of_file: list[dict[str, Any]] = [json.loads(line) for line in Path(out).read_text().splitlines()]
        return [(row["sequence"], row["items"]) for row in rows_of_file]
    table = pq.read_table(out, columns=["sequence", "items"])
    return list(zip(table["sequence"].to_pylist(), table["items"].to_pylist(), strict=True))


def whole(out: str, answers: Lists, k: int) -> bool:
    """Whether readers see every sequence exactly once, with its k answers."""
    rows = read(out)
    return len(rows) == len(answers) and dict(rows) == {each: items[:k] for each, items in answers.items()}


def kill(recommender: Recommender, data: PreparedData, out: str, seconds: float) -> bool:
    """Export in a process of its own, which is killed after so long; whether it was killed in its work."""
    partitions = None if "." in Path(out).name or "://" in out else 3
    child = os.fork()
    if not child:
        export(recommender, data, out, Wanted(k=3, partitions=partitions), block=1)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main() -> None:
    """Print how many of the kills met the export in its work, and how many parts were not done twice."""
    folder, out, kills, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    data, recommender = PreparedData.load(folder / "data"), Recommender.load(folder / "bundle")
    found = recommender.recommend_batch(data.sequences, 3)[0]
    answers = dict(zip(data.ids.to_pylist(), map(recommender.vocabulary.decode, found), strict=True))
    partitions = None if "." in Path(out).name or "://" in out else 3
    former, new = (Wanted(k=k, partitions=partitions) for k in (2, 3))
    export(recommender, data, out, former)
    started = time.perf_counter()
    export(recommender, data, out, new, block=1)
    seconds, rng = time.perf_counter() - started, random.Random(seed)
    met = resumed = 0
    for _ in range(kills):
        export(recommender, data, out, former)
        assert whole(out, answers, 2)
        for _ in range(rng.randint(1, 3)):
            met += kill(recommender, data, out, rng.uniform(0, seconds))
            assert whole(out, answers, 2) or whole(out, answers, 3), "readers saw a part"
        resumed += export(recommender, data, out, new, block=1).resumed
        assert whole(out, answers, 3), "not every sequence exactly once"
    print(json.dumps({"kills": kills, "met": met, "resumed": resumed}))


if __name__ == "__main__":
    main()
