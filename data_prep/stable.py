"""A data set that has grown: what had an index before keeps it, and what is new comes after.

Shapes: `V` items, `S` sequences, `E` events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.assemble import MARKS, Tables
from data_prep.splits import LENGTH
from recsys import schema


@dataclass(frozen=True)
class Former:
    """The original ids of a former version, in its order.

    Attributes:
        items: of items.parquet.
        sequences: of sequences.parquet.
    """

    items: pl.Series
    sequences: pl.Series

    def with_gone(self, marks: pl.DataFrame, counts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Add the sequences and items that have no event any more: empty, and with the count 0.

        That happens where a user has turned out to be a bot, or a late event changes what cleaning keeps.

        Args:
            marks: sequence, length and marks.
            counts: item and count.
        """
        sequences = _gone(self.sequences, marks[schema.SEQUENCE])
        items = _gone(self.items, counts[schema.ITEM])
        empty = {name: pl.lit(0, marks[name].dtype) for name in (LENGTH, *MARKS)}
        none = {schema.ITEM_COUNT: pl.lit(0, counts[schema.ITEM_COUNT].dtype)}
        return (
            pl.concat([marks, sequences.to_frame().with_columns(**empty).select(marks.columns)]),
            pl.concat([counts, items.to_frame().with_columns(**none).select(counts.columns)]),
        )

    def ordered(self, tables: Tables) -> Tables:
        """The same content in the former order, with new sequences and items after it, in their own."""
        places_V = _order(self.items, tables.items[schema.ITEM_ID])
        index_of = np.zeros(len(places_V) + 1, dtype=np.int32)  # of every index as it is, PAD first
        index_of[places_V + 1] = np.arange(1, len(places_V) + 1)
        renumbered = pa.LargeListArray.from_arrays(
            pa.array(tables.offsets), pa.array(index_of[tables.values])
        )
        items = _with_column(tables.items.take(places_V), schema.ITEM_INDEX, tables.items[schema.ITEM_INDEX])
        sequences = _with_column(tables.sequences, schema.ITEMS, renumbered)
        places_S = _order(self.sequences, tables.sequences[schema.SEQUENCE_ID])
        return replace(tables, items=items, sequences=sequences.take(places_S))


def _gone(former: pl.Series, present: pl.Series) -> pl.Series:
    kept = former.cast(present.dtype)
    return kept.filter(~kept.is_in(present.implode())).alias(present.name)


def _order(former: pl.Series, present: pa.ChunkedArray) -> NDArray[np.int64]:
    """Rows of `present` in the order of the former ids; those that are not among them last, as they stand."""
    ids = pl.Series("id", present)
    known = pl.DataFrame({"id": former.cast(ids.dtype)}).with_row_index("place")
    places = ids.to_frame().join(known, on="id", how="left", maintain_order="left")["place"]
    found: NDArray[np.int64] = np.argsort(
        places.cast(pl.Int64).fill_null(len(former)).to_numpy(), kind="stable"
    )
    return found


def _with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)
