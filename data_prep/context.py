"""What is known of a whole sequence: the columns of the log that say so, such as a device or a country."""

from __future__ import annotations

import narwhals as nw
import polars as pl
import pyarrow as pa

from data_prep.frame_types import Frame
from recsys import schema

_OF_EVENTS = (
    *(schema.SEQUENCE, schema.ITEM, schema.TIME, schema.RATING),
    *(schema.EVENT, schema.ROW, schema.POSITION),
)


def with_context(sequences: pa.Table, placed: Frame) -> pa.Table:
    """Add the context columns, each with the value at the first event of its sequence.

    Args:
        sequences: sequences.parquet.
        placed: events with their position; the columns that no canonical frame has are the context.
    """
    names = [name for name in placed.collect_schema().names() if name not in _OF_EVENTS]
    if not names:
        return sequences
    first = placed.filter(nw.col(schema.POSITION) == 0).select(schema.SEQUENCE, *names)
    known = first.collect("polars").to_polars()
    ids = pl.DataFrame(
        {schema.SEQUENCE: sequences[schema.SEQUENCE_ID]},
        schema={schema.SEQUENCE: known[schema.SEQUENCE].dtype},
    )
    context = ids.join(known, on=schema.SEQUENCE, how="left", maintain_order="left")  # an empty one has none
    for name in names:
        values = context[name].to_arrow(compat_level=pl.CompatLevel.oldest())
        sequences = sequences.append_column(name, values)
    return sequences
