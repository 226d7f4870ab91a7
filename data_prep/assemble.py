"""From cleaned events and their marks to the two tables of a prepared data set.

Relational engines cannot build these lists portably, so this step is Polars and Arrow. It takes a bucket of
whole sequences; on one machine that is all of them.

Shapes: `S` sequences, `E` events in all, `V` items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.items import match_items
from data_prep.splits import LENGTH
from recsys import schema
from recsys.errors import InputError
from recsys.vocabulary import Vocabulary

MOST_TYPES = 127
"""Types of events that int8 can count."""
MARKS = (schema.TRAIN_END, schema.VALID_START, schema.TEST_START)


@dataclass(frozen=True)
class Tables:
    """The content of sequences.parquet (S rows, by id) and items.parquet (V rows, by index).

    `event_types` are the names that its column of event types counts from 0; none where the log has no types.
    """

    sequences: pa.Table
    items: pa.Table
    event_types: tuple[str, ...] = ()

    @property
    def lists(self) -> pa.LargeListArray:
        """(S,) lists of item indices."""
        return self.sequences[schema.ITEMS].combine_chunks()

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(S+1,) where each sequence begins among all events."""
        return np.asarray(self.lists.offsets, dtype=np.int64)

    @property
    def values(self) -> NDArray[np.int32]:
        """(E,) item indices of all events, sequence after sequence."""
        return np.asarray(self.lists.values, dtype=np.int32)

    @property
    def times(self) -> NDArray[np.int64] | None:
        """(E,) microseconds since 1970 UTC of all events, or None where the log has no time."""
        if schema.TIMES not in self.sequences.column_names:
            return None
        return np.asarray(self.sequences[schema.TIMES].combine_chunks().values, dtype=np.int64)

    def of_types(self, names: tuple[str, ...] | None) -> NDArray[np.bool_]:
        """(E,) whether an event is of one of these types; None means all."""
        if names is None:
            return np.ones(len(self.values), dtype=bool)
        codes = [code for code, name in enumerate(self.event_types) if name in names]
        return np.isin(np.asarray(self.sequences[schema.EVENTS].combine_chunks().values), codes)

    def mark(self, column: str) -> NDArray[np.int64]:
        """(S,) one of the marks of the split."""
        return np.asarray(self.sequences[column], dtype=np.int64)


def assemble(
    events: pl.DataFrame, marks: pl.DataFrame, counts: pl.DataFrame, items: pl.DataFrame | None, timed: bool
) -> tuple[Tables, list[str]]:
    """Build both tables.

    Args:
        events: sequence, item, time, position, and the type where the log has one; whole sequences.
        marks: sequence, length and the marks, one row for each sequence.
        counts: item and count (training events), one row for each item of the log.
        items: the item table, or None.
        timed: whether the log has times.

    Returns:
        The tables, and notices about the item table.

    Raises:
        InputError: there is no training event, the item table knows none of the items, or there are too many
            types of events.
    """
    if not counts[schema.ITEM_COUNT].sum():
        raise InputError(
            "no event is left for training; the split's cut lies before the first event: move it"
        )
    item_table, notices = _item_table(counts, items)
    vocabulary = Vocabulary(item_table[schema.ITEM_ID])
    types = _event_types(events)
    return Tables(sequence_table(events, marks, vocabulary, timed, types), item_table, types), notices


def _event_types(events: pl.DataFrame) -> tuple[str, ...]:
    """The types of a log's events, sorted; none where it has no such column."""
    if schema.EVENT not in events.columns:
        return ()
    names = events[schema.EVENT].unique().sort().to_list()
    if len(names) > MOST_TYPES:
        raise InputError(
            f"the log has {len(names):,} types of events, such as `{names[0]}`; expected at most "
            f"{MOST_TYPES}: check data.columns.event"
        )
    return tuple(names)


def sequence_table(
    events: pl.DataFrame,
    marks: pl.DataFrame,
    vocabulary: Vocabulary,
    timed: bool,
    event_types: tuple[str, ...] = (),
) -> pa.Table:
    """Lists of one bucket of whole sequences, sorted by sequence id."""
    marks = marks.sort(schema.SEQUENCE)
    ids = _arrow(marks[schema.SEQUENCE])
    offsets = np.zeros(len(marks) + 1, dtype=np.int64)  # of all events: more than 2^31 in a large log
    np.cumsum(marks[LENGTH].to_numpy(), out=offsets[1:])
    rows = pc.index_in(_arrow(events[schema.SEQUENCE]), value_set=ids).to_numpy()
    places = (
        offsets[rows] + events[schema.POSITION].to_numpy()
    )  # an event's place tells where it goes: no sort

    def lists(values: NDArray[Any]) -> pa.LargeListArray:
        ordered = np.empty_like(values)
        ordered[places] = values
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ordered))

    columns = {
        schema.SEQUENCE_ID: ids,
        schema.ITEMS: lists(vocabulary.encode_array(_arrow(events[schema.ITEM]))),
    }
    if timed:
        columns[schema.TIMES] = lists(events[schema.TIME].to_numpy())
    if event_types:
        codes = events[schema.EVENT].cast(pl.Enum(event_types)).to_physical()
        columns[schema.EVENTS] = lists(codes.to_numpy().astype(np.int8))
    columns |= {mark: _arrow(marks[mark].cast(pl.Int32)) for mark in MARKS}
    return pa.table(columns)


def _item_table(counts: pl.DataFrame, items: pl.DataFrame | None) -> tuple[pa.Table, list[str]]:
    """Items by falling training count, then by id, so that the order is the same on every run."""
    ranked = counts.sort(schema.ITEM_COUNT, schema.ITEM, descending=[True, False])
    ids = ranked[schema.ITEM].alias(schema.ITEM_ID)
    index = pl.int_range(1, len(ids) + 1, dtype=pl.Int32, eager=True).alias(schema.ITEM_INDEX)
    columns = [index, ids, ranked[schema.ITEM_COUNT].cast(pl.Int64)]
    notices: list[str] = []
    if items is not None:
        matched, notices = match_items(items, ids)
        columns += matched.drop(schema.ITEM_ID).get_columns()
    return pa.table({column.name: _arrow(column) for column in columns}), notices


def _arrow(column: pl.Series) -> pa.Array:
    return column.to_arrow(compat_level=pl.CompatLevel.oldest())
