"""Recommendations for the histories of a Spark DataFrame: each partition loads the bundle, once, and answers.

Shapes: `n` rows of a batch, `k` answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.answering import check_question
from recsys.answers import Filters
from recsys.errors import InputError
from recsys.index import Backend
from recsys.recommender import Recommender
from recsys.sequences import Ragged
from recsys.vocabulary import Vocabulary
from serving.export.run import BLOCK, narrowed
from serving.export.tables import GENERATED_AT, ITEMS, MODEL_VERSION, SCORES, ragged

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

SEQUENCE = "sequence"


def export(
    bundle: Path | str,
    sequences: DataFrame,
    k: int = 100,
    filters: Filters | None = None,
    *,
    backend: Backend | None = None,
    block: int = BLOCK,
) -> DataFrame:
    """The lists that `recsys export` makes, for histories that Spark holds.

    Nothing is computed before the result is asked for. A partition loads the bundle once, so that a few large
    partitions are better than many small ones.

    Args:
        bundle: a folder that every worker finds at this path, with Recsys installed there.
        sequences: a column `sequence` of ids, and `items`, arrays of original item ids, oldest first. Unknown
            items are ignored; a history without a known one gets what is popular.
        k: length of each list.
        filters: what the lists may hold; default: what the history does not.
        backend: what searches, as for `Recommender.load`.
        block: histories that are answered together.

    Returns:
        Columns sequence, items, scores, model_version and generated_at.

    Raises:
        InputError: the bundle, a column, k or a filter is wrong.
    """
    filters = filters if filters is not None else Filters()
    check_question(k, filters)
    if block < 1:
        raise InputError(f"block is {block}; expected at least 1")
    recommender = Recommender.load(bundle, backend)
    schema = _schema(sequences, recommender.vocabulary)
    filters, version, moment = narrowed(filters, recommender), recommender.model_version, datetime.now(UTC)

    def answers(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        loaded = Recommender.load(bundle, backend)
        if loaded.model_version != version:
            raise InputError(f"{bundle} is model {loaded.model_version} on a worker; expected {version}")
        for batch in batches:
            for first in range(0, batch.num_rows, block):
                yield _answered(batch.slice(first, block), loaded, k, filters, moment)

    return sequences.select(SEQUENCE, ITEMS).mapInArrow(answers, schema)


def _answered(
    batch: pa.RecordBatch, recommender: Recommender, k: int, filters: Filters, moment: datetime
) -> pa.RecordBatch:
    found = recommender.answer_batch(_histories(batch[ITEMS], recommender.vocabulary), k, filters)
    items, scores = ragged(found, recommender.vocabulary.take)
    if not recommender.vocabulary.holds_integers:
        items = items.cast(pa.list_(pa.string()))  # Spark has no large strings
    at = pa.scalar(moment, type=pa.timestamp("us", tz="UTC"))
    return pa.RecordBatch.from_pydict(
        {
            SEQUENCE: batch[SEQUENCE],
            ITEMS: items,
            SCORES: scores,
            MODEL_VERSION: pa.repeat(recommender.model_version, len(items)),
            GENERATED_AT: pa.repeat(at, len(items)),
        }
    )


def _histories(lists: pa.ListArray, vocabulary: Vocabulary) -> Ragged:
    """Rows of indices, without the ids that the vocabulary does not know; null is an empty history."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    indices = vocabulary.encode_array(pc.list_flatten(lists))
    known = indices > 0
    rows = np.repeat(np.arange(len(lists)), lengths)[known]
    ends = np.cumsum(np.bincount(rows, minlength=len(lists)))
    return Ragged(indices[known], np.append(0, ends))


def _schema(sequences: DataFrame, vocabulary: Vocabulary) -> StructType:
    """Columns of the result.

    Raises:
        InputError: a column of the histories is missing, or its items are of another type than the bundle's.
    """
    from pyspark.sql.types import ArrayType, FloatType, StringType, StructField, StructType, TimestampType

    if missing := {SEQUENCE, ITEMS} - set(sequences.columns):
        raise InputError(
            f"the histories have columns {', '.join(sequences.columns)}; expected `{min(missing)}` too"
        )
    kind = sequences.schema[ITEMS].dataType
    expected = "array<bigint>" if vocabulary.holds_integers else "array<string>"
    if kind.simpleString() != expected:
        raise InputError(
            f"`{ITEMS}` is {kind.simpleString()}; expected {expected}, as in the bundle: cast it"
        )
    return StructType(
        [
            sequences.schema[SEQUENCE],
            StructField(ITEMS, kind),
            StructField(SCORES, ArrayType(FloatType())),
            StructField(MODEL_VERSION, StringType()),
            StructField(GENERATED_AT, TimestampType()),
        ]
    )
