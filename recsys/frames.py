"""Logs in the frames that users of other libraries have: pandas, Polars, Arrow; read and answered in kind.

Shapes: `S` sequences, `E` events.
"""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import InputError
from recsys.sequences import Ragged
from recsys.vocabulary import Vocabulary


def events_of(
    frame: Any,  # noqa: ANN401 -- any of narwhals' frames
    vocabulary: Vocabulary,
    *,
    sequence: str,
    item: str,
    time: str | None,
) -> tuple[pa.Array, Ragged]:
    """The sequences of a log.

    Args:
        frame: one event a row.
        vocabulary: of the items; events of other items are left out.
        sequence: column of sequence ids.
        item: column of original item ids.
        time: column to order events by, then by row; None: by row alone.

    Returns:
        (S,) sequence ids in the order of their first event, and S ragged rows of item indices.

    Raises:
        InputError: it is no such frame, a column is missing, has nulls or the name of another in the answer,
            or item ids are of the wrong type.
    """
    wanted = list(dict.fromkeys([sequence, item, *([] if time is None else [time])]))
    native = _frame(frame)
    missing = [name for name in wanted if name not in native.columns]
    if missing:
        raise InputError(
            f"the frame has no column `{missing[0]}`; it has {', '.join(native.columns)}: name the right one"
        )
    answered = [sequence, "rank", item, "score"]
    for name in answered:
        if answered.count(name) > 1:
            raise InputError(
                f"column `{name}` would stand twice in the answer, whose columns are {', '.join(answered)}; "
                "rename it in the frame, or name another one"
            )
    table = native.select(wanted).to_arrow()
    columns = {name: _plain(table[name]) for name in wanted}
    for name, column in columns.items():
        if column.null_count:
            raise InputError(f"column `{name}` has {column.null_count} nulls; drop those rows first")
    codes = pc.dictionary_encode(columns[sequence])
    rows = np.asarray(codes.indices, dtype=np.int64)
    moments = np.zeros(len(rows)) if time is None else np.asarray(pc.rank(columns[time], tiebreaker="min"))
    order = np.lexsort((np.arange(len(rows)), moments, rows))
    indices = vocabulary.encode_array(columns[item])[order]
    known = indices > 0
    counts = np.bincount(rows[order][known], minlength=len(codes.dictionary))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return codes.dictionary, Ragged(indices[known], offsets)


def like(frame: Any, table: pa.Table) -> Any:  # noqa: ANN401 -- any of narwhals' frames
    """An Arrow table as the kind of frame that `frame` is."""
    return nw.from_arrow(table, backend=_frame(frame).implementation).to_native()


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """The values of a column; of categories only those that stand in it."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.combine_chunks()


def _frame(frame: Any) -> nw.DataFrame[Any]:  # noqa: ANN401
    try:
        return nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise InputError(
            f"got a {type(frame).__name__}; expected a pandas or Polars DataFrame or an Arrow table "
            "(a lazy frame: collect it first)"
        ) from error
