"""Attributes of items as texts, whatever their type.

Shapes: `V` items.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

import pyarrow as pa

from recsys import schema
from recsys.errors import InputError

TITLE = "title"


def own_columns(items: pa.Table) -> list[str]:
    """The columns of an item table that are the items' own: title, attributes and text."""
    return [name for name in items.column_names if name not in schema.RESERVED_ITEM_COLUMNS]


def text_columns(items: pa.Table, chosen: Sequence[str] | None = None, limit: int | None = None) -> list[str]:
    """Columns that make an item's text, in order.

    Args:
        items: an item table.
        chosen: the columns to take; those that the table lacks are left out, so that a model reads another
            catalogue. Default: the title, then every other column that can be text.
        limit: at most so many.

    Raises:
        InputError: none is left, or a chosen one cannot be text.
    """
    own = own_columns(items)
    wanted = sorted(own, key=lambda name: name != TITLE) if chosen is None else list(chosen)
    found = [name for name in wanted if name in own]
    unfit = [name for name in found if not can_be_text(items[name].type)]
    if chosen is not None and unfit:
        raise InputError(
            f"item attribute `{unfit[0]}` is of type {items[unfit[0]].type}, which is no text; expected "
            "text, numbers, truth values, dates, or lists of these: leave it out of `attributes`"
        )
    found = [name for name in found if name not in unfit][:limit]
    if not found:
        asked = "" if chosen is None else f" of {', '.join(chosen)}"
        raise InputError(
            f"the item table has no text{asked}, only {', '.join(own) or 'ids'}; a model that reads items "
            "needs their titles or attributes: prepare the data with data.items"
        )
    return found


def check_present(items: pa.Table, chosen: Sequence[str] | None) -> None:
    """Refuse attributes that the table which a model is fitted to lacks, as a name that is written wrong.

    Raises:
        InputError: it lacks a chosen one.
    """
    own = own_columns(items)
    for name in (name for name in chosen or () if name not in own):
        raise InputError(
            f"model.attributes names `{name}`, which the item table lacks; it has "
            f"{', '.join(own) or 'ids alone'}"
        )


def texts_of(column: pa.ChunkedArray) -> list[str | None]:
    """(V,) values as texts with single spaces; None where there is none (null, NaN, blank, empty list)."""
    return [_text(value) for value in column.to_pylist()]


def _text(value: object) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list):
        return ", ".join(part for each in value if (part := _text(each))) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # years and counts beside a null come as decimals
    if isinstance(value, datetime.date):
        return value.isoformat()
    return " ".join(str(value).split()) or None


def can_be_text(kind: pa.DataType) -> bool:
    """Whether values of a type are texts, or are written as such: numbers, truth values, dates, lists."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return can_be_text(kind.value_type)
    tests = ("string", "large_string", "integer", "floating", "decimal", "boolean", "date", "timestamp")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)
