"""A world in which texts decide what comes next: songs of a band are heard in the order of their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys import schema
from recsys.dataset import PreparedData
from recsys.sequences import Ragged

BANDS = ("amber", "cobalt", "ivory", "jade", "scarlet", "umber")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
N_ITEMS = len(BANDS) * len(NUMBERS)
COLD = tuple(band * len(NUMBERS) + (3 * band + 2) % len(NUMBERS) + 1 for band in range(len(BANDS)))
"""One song of each band, which no training event has."""


def successor(index: int) -> int:
    """The item that comes after an item."""
    band, number = divmod(index - 1, len(NUMBERS))
    return band * len(NUMBERS) + (number + 1) % len(NUMBERS) + 1


def walks(count: int, seed: int = 0, avoid: tuple[int, ...] = COLD) -> Ragged:
    """Sequences of three to seven songs of a band in order; those in `avoid` can only be the last."""
    rng = np.random.default_rng(seed)
    rows: list[list[int]] = []
    while len(rows) < count:
        row = [int(rng.integers(1, N_ITEMS + 1))]
        for _ in range(int(rng.integers(2, 7))):
            row.append(successor(row[-1]))
        if not set(row[:-1]) & set(avoid):
            rows.append(row)
    return Ragged.of(rows)


def song_table(indices: list[int] | None = None) -> dict[str, pa.Array]:
    """Columns `title` and `year` of items, by default of all."""
    places = [divmod(index - 1, len(NUMBERS)) for index in indices or range(1, N_ITEMS + 1)]
    return {
        "title": pa.array([f"{BANDS[band]} {NUMBERS[number]}" for band, number in places]),
        "year": pa.array([1990 + band for band, _ in places]),
    }


def write_songs(
    folder: Path, sequences: Ragged, *, without_text: tuple[int, ...] = (), prefix: str = "s"
) -> PreparedData:
    """A prepared data set, leave-one-out."""
    folder.mkdir(parents=True)
    ends = np.maximum(sequences.lengths - 2, 0).astype(np.int32)
    counts = np.bincount(sequences.first(ends).values, minlength=N_ITEMS + 1)[1:]
    columns = song_table()
    titles = [
        None if at in without_text else title for at, title in enumerate(columns["title"].to_pylist(), 1)
    ]
    years = [None if at in without_text else year for at, year in enumerate(columns["year"].to_pylist(), 1)]
    items = {
        schema.ITEM_INDEX: pa.array(np.arange(1, N_ITEMS + 1, dtype=np.int32)),
        schema.ITEM_ID: pa.array([f"{prefix}{index}" for index in range(1, N_ITEMS + 1)]),
        schema.ITEM_COUNT: pa.array(counts),
        "title": pa.array(titles, pa.string()),
        "year": pa.array(years, pa.int64()),
    }
    pq.write_table(pa.table(items), folder / schema.ITEMS_FILE)
    lists = pa.ListArray.from_arrays(pa.array(sequences.offsets.astype(np.int32)), pa.array(sequences.values))
    rows = {
        schema.SEQUENCE_ID: pa.array([f"u{row}" for row in range(len(sequences))]),
        schema.ITEMS: lists,
        schema.TRAIN_END: pa.array(ends),
        schema.VALID_START: pa.array(ends),
        schema.TEST_START: pa.array((sequences.lengths - 1).astype(np.int32)),
    }
    pq.write_table(pa.table(rows), folder / schema.SEQUENCES_FILE)
    manifest = {
        "format_version": schema.FORMAT_VERSION,
        "content_digest": f"{prefix}{sequences.values.sum()}",
    }
    (folder / schema.MANIFEST_FILE).write_text(json.dumps(manifest))
    return PreparedData.load(folder)
