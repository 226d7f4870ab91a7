"""Parts of an export as Arrow tables.

Shapes: `n` rows of a part, `k` answers, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.dataset import PreparedData
from recsys.encoding import item_vectors
from recsys.errors import InputError
from recsys.models.protocol import Encoder
from recsys.recommender import Recommender
from recsys.search import Found
from recsys.vocabulary import Vocabulary
from serving.export.wanted import OF_ITEMS, Wanted

ITEMS, SCORES, VECTOR = "items", "scores", "vector"
WIDTH = "width"  # of vectors: in the metadata of their column, for some of them may be missing
MODEL_VERSION, GENERATED_AT = "model_version", "generated_at"
Counts = dict[str, int]
"""Of a part: `rows`; `answers` in their lists; `short`, rows with fewer than k; `fallback`, rows without an
event, which got recent popularity, or no vector."""


def schema_of(wanted: Wanted, vocabulary: Vocabulary, ids: pa.Array, width: int) -> pa.Schema:
    """Columns of the export: the id, a list of items and of scores or a vector, model version and time."""
    floats = pa.list_(pa.float32())
    lists = [pa.field(ITEMS, pa.list_(vocabulary.ids.type)), pa.field(SCORES, floats)]
    vector = pa.field(VECTOR, floats, metadata={WIDTH: str(width)})
    return pa.schema(
        [
            pa.field(wanted.key, ids.type),
            *(lists if wanted.has_lists else [vector]),
            pa.field(MODEL_VERSION, pa.string()),
            pa.field(GENERATED_AT, pa.timestamp("us", tz="UTC")),
        ]
    )


def width_of(schema: pa.Schema) -> int:
    """Width D of an export of vectors."""
    return int(schema.field(VECTOR).metadata[WIDTH.encode()])


class Maker:
    """Makes the table of any rows of an export."""

    def __init__(self, wanted: Wanted, recommender: Recommender, data: PreparedData, ids: pa.Array) -> None:
        """Take what `export` has checked.

        Args:
            wanted: what to make; its filters name no ids any more.
            recommender: answers.
            data: the sequences.
            ids: of all rows.

        Raises:
            InputError: vectors are asked of a model that only counts.
        """
        self._wanted = wanted
        self._recommender = recommender
        self._data = data
        self._ids = ids
        self._table = np.empty((0, 0), np.float32) if wanted.has_lists else _item_vectors(recommender, wanted)
        self.schema = schema_of(wanted, recommender.vocabulary, ids, self._table.shape[1])

    def make(self, rows: NDArray[np.int64], moment: datetime) -> tuple[pa.Table, Counts]:
        """The table of rows (n,) of the data, generated at some moment, and what it holds."""
        columns, counts = self._lists(rows) if self._wanted.has_lists else self._vectors(rows)
        at = pa.scalar(moment, type=self.schema.field(GENERATED_AT).type)
        known = [pa.repeat(self._recommender.model_version, len(rows)), pa.repeat(at, len(rows))]
        arrays = [self._ids.take(pa.array(rows)), *columns, *known]
        return pa.Table.from_arrays(arrays, schema=self.schema), {"rows": len(rows), **counts}

    def _lists(self, rows: NDArray[np.int64]) -> tuple[list[pa.Array], Counts]:
        wanted, empty = self._wanted, 0
        if wanted.what in OF_ITEMS:
            found = self._recommender.similar_batch((rows + 1).astype(np.int32), wanted.k, wanted.filters)
        else:
            histories = self._data.sequences.take(rows)
            empty = int((histories.lengths == 0).sum())
            found = self._recommender.answer_batch(histories, wanted.k, wanted.filters)
        answers = np.count_nonzero(found[0], axis=1)
        counts = {"answers": int(answers.sum()), "short": int((answers < wanted.k).sum()), "fallback": empty}
        return ragged(found, self._recommender.vocabulary.take), counts

    def _vectors(self, rows: NDArray[np.int64]) -> tuple[list[pa.Array], Counts]:
        """Vectors whose inner product is the model's score; a sequence without an event has none."""
        if self._wanted.what in OF_ITEMS:
            vectors, there = self._table[rows], np.ones(len(rows), dtype=bool)
        else:
            histories = self._data.sequences.take(rows)
            there = histories.lengths > 0
            vectors = np.zeros((len(rows), self._table.shape[1]), np.float32)
            if there.any():
                vectors[there] = np.asarray(self._recommender.queries(histories.take(np.flatnonzero(there))))
        offsets = np.concatenate([[0], np.cumsum(there * vectors.shape[1])]).astype(np.int32)
        column = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(vectors[there].ravel()), mask=pa.array(~there)
        )
        return [column], {"answers": 0, "short": 0, "fallback": int((~there).sum())}


def _item_vectors(recommender: Recommender, wanted: Wanted) -> NDArray[np.float32]:
    """(V, D) item vectors."""
    model = recommender.bundle.model
    if not isinstance(model, Encoder):
        name = recommender.bundle.config.model.name
        raise InputError(f"{wanted.what} are asked of model {name}, which only counts and has none")
    return item_vectors(model)


def ragged(found: Found, original: Callable[[Any], pa.Array]) -> list[pa.Array]:
    """(n, k) answers as lists of original ids and of scores; the padding is gone."""
    indices, scores = found
    filled = indices > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32))
    return [
        pa.ListArray.from_arrays(offsets, original(indices[filled])),
        pa.ListArray.from_arrays(offsets, pa.array(scores[filled])),
    ]
