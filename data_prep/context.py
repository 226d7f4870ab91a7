"""What is known of a whole sequence: the columns of the log that say so, such as a device or a country."""

from __future__ import annotations

import narwhals as nw
import polars as pl
import pyarrow as pa

from data_prep.frame_types import Frame
from recsys import schema
from recsys.config import SessionConfig, SessionsByColumn

_OF_EVENTS = (
    *(schema.SEQUENCE, schema.ITEM, schema.TIME, schema.RATING),
    *(schema.EVENT, schema.ROW, schema.POSITION),
)


def carried(events: pl.DataFrame, sessions: SessionConfig) -> pl.DataFrame:
    """What the steps need of the canonical frame; the context waits for them, in its own types."""
    names = [name for name in events.columns if name in _OF_EVENTS]
    if isinstance(sessions, SessionsByColumn) and schema.SESSION in events.columns:
        return events.select(*names, pl.col(schema.SESSION).cast(pl.String))
    return events.select(names)


def with_context(sequences: pa.Table, placed: Frame, events: pl.DataFrame) -> pa.Table:
    """Add the context columns, each with the value at the first event of its sequence.

    Args:
        sequences: sequences.parquet.
        placed: events with their position, and the user's id where sessions were cut.
        events: the canonical frame that they were made of, which still has the context.
    """
    made = [name for name in placed.collect_schema().names() if name not in _OF_EVENTS]
    context = events.drop(*_OF_EVENTS, schema.SESSION, strict=False)
    if not made and not context.columns:
        return sequences
    first = placed.filter(nw.col(schema.POSITION) == 0).select(schema.SEQUENCE, schema.ROW, *made)
    known = first.collect("polars").to_polars()
    known = known.hstack(context[known[schema.ROW]])
    ids = pl.DataFrame(
        {schema.SEQUENCE: sequences[schema.SEQUENCE_ID]},
        schema={schema.SEQUENCE: known[schema.SEQUENCE].dtype},
    )
    # a sequence without events has no context
    of_each = ids.join(known, on=schema.SEQUENCE, how="left", maintain_order="left")
    for name in (*context.columns, *made):
        values = of_each[name].to_arrow(compat_level=pl.CompatLevel.oldest())
        sequences = sequences.append_column(name, values)
    return sequences
