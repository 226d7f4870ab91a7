"""Recommendations for every sequence of a prepared data set, as one Parquet file.

Columns: `sequence` (original id), `items` (list of original ids, best first), `scores` (list of float),
`model_version`, `generated_at` (timestamp, UTC, the same in every row).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from recsys.bundle import check_vocabulary
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.files import check_writable, written_file
from recsys.recommender import Recommender
from recsys.search import Found


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        sequences: rows of it.
        items: recommendations in all rows.
        fallback: sequences without an event, which recent popularity answered.
        seconds: how long it took.
        model_version: of the bundle.
        backend: what searched.
        trained_on_this: whether the data is, to the byte, what the bundle was trained on.
    """

    path: Path
    sequences: int
    items: int
    fallback: int
    seconds: float
    model_version: str
    backend: str
    trained_on_this: bool


def export(
    recommender: Recommender,
    data: PreparedData,
    out: Path | str,
    *,
    k: int = 100,
    rows: ArrayLike | None = None,
    block: int = 1024,
    exclude_seen: bool = True,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ExportReport:
    """Recommend after the whole history of every sequence; the file appears complete or not at all.

    The vocabularies must be equal, for indices would mean other items. The content may differ from what the
    bundle was trained on, since new events of known items are what one exports for; the report says so.

    Args:
        recommender: what answers, in the same way as online.
        data: the sequences.
        out: file to write; an older one is replaced.
        k: answers for each sequence.
        rows: sequences to export, in this order; default: all.
        block: sequences that are answered and written together.
        exclude_seen: leave out the items of the history.
        progress: is called with (done, all) after each block.

    Raises:
        InputError: the vocabularies differ, k or block is below 1, or the file cannot be written.
    """
    started = datetime.now(UTC)
    target = _checked(recommender, data, Path(out), k, block)
    chosen = np.arange(len(data.sequences)) if rows is None else np.asarray(rows, dtype=np.int64)
    schema, n_items = _schema(recommender, data), 0
    with written_file(target) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        for start in range(0, len(chosen), block):
            some = chosen[start : start + block]
            found = recommender.recommend_batch(data.sequences.take(some), k, exclude_seen=exclude_seen)
            writer.write_table(_table(recommender, data.ids.take(pa.array(some)), found, started, schema))
            n_items += int(np.count_nonzero(found[0]))
            progress(start + len(some), len(chosen))
    return ExportReport(
        path=target,
        sequences=len(chosen),
        items=n_items,
        fallback=int((data.sequences.lengths[chosen] == 0).sum()),
        seconds=(datetime.now(UTC) - started).total_seconds(),
        model_version=recommender.model_version,
        backend=recommender.backend,
        trained_on_this=data.digest == recommender.bundle.manifest["data"]["content_digest"],
    )


def _checked(recommender: Recommender, data: PreparedData, target: Path, k: int, block: int) -> Path:
    check_vocabulary(recommender.vocabulary, data, where=str(recommender.bundle.folder))
    if k < 1 or block < 1:
        raise InputError(f"k is {k} and block is {block}; expected at least 1 of each")
    check_writable(target)
    return target


def _schema(recommender: Recommender, data: PreparedData) -> pa.Schema:
    return pa.schema(
        {
            "sequence": data.ids.type,
            "items": pa.list_(recommender.vocabulary.ids.type),
            "scores": pa.list_(pa.float32()),
            "model_version": pa.string(),
            "generated_at": pa.timestamp("us", tz="UTC"),
        }
    )


def _table(
    recommender: Recommender, ids: pa.Array, found: Found, generated_at: datetime, schema: pa.Schema
) -> pa.Table:
    """One block of answers as a table; the padding of the answers is gone."""
    indices, scores = found
    filled = indices > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32))
    items = pa.ListArray.from_arrays(offsets, recommender.vocabulary.take(indices[filled]))
    columns = [
        ids,
        items,
        pa.ListArray.from_arrays(offsets, pa.array(scores[filled])),
        pa.repeat(recommender.model_version, len(ids)),
        pa.repeat(pa.scalar(generated_at, type=schema.field("generated_at").type), len(ids)),
    ]
    return pa.table(columns, schema=schema)
