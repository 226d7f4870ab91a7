"""Logs and item tables that are pandas, Polars or Arrow tables already."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import polars as pl
import pyarrow as pa

from data_prep.ids import mixed_type
from data_prep.items import choose_item_columns, settle_items
from data_prep.logs import Log, Part, canonical_log, choose_columns
from recsys.config import DataConfig
from recsys.errors import InputError


def frame_log(frame: object, data: DataConfig, with_rating: bool) -> Log:
    """The canonical log of a frame; `data.columns` names its columns.

    Raises:
        InputError: it is no frame, a column is missing, or a value is of the wrong type.
    """
    where = "the frame of events"
    table = _eager(frame, where)
    chosen = choose_columns(data, with_rating, table.columns, where)
    return canonical_log([Part(where, _polars(table, chosen, where))], data, is_text=False)


def frame_items(frame: object, data: DataConfig) -> pl.DataFrame:
    """The item table of a frame; `data.item_columns` names its columns.

    Raises:
        InputError: it is no frame, or a column is missing or has a reserved name.
    """
    where = "the frame of items"
    table = _eager(frame, where)
    chosen = choose_item_columns(data, table.columns, where)
    return settle_items(_polars(table, chosen, where), where, is_text=False)


def _eager(frame: Any, where: str) -> nw.DataFrame[Any]:  # noqa: ANN401 -- whatever the caller has
    try:
        table = nw.from_native(frame)
    except TypeError as error:
        raise InputError(
            f"{where} is a {type(frame).__name__}; expected a pandas, Polars or Arrow table"
        ) from error
    return table.collect() if isinstance(table, nw.LazyFrame) else table


def _polars(table: nw.DataFrame[Any], chosen: dict[str, str], where: str) -> pl.DataFrame:
    """The chosen columns under their new names."""
    columns = []
    for name, column in chosen.items():
        try:
            columns.append(table.get_column(column).to_polars().alias(name))
        except (pa.ArrowException, TypeError) as error:  # pandas' object columns
            raise mixed_type(f"values of `{column}` in {where}", f" ({error})") from error
    return pl.DataFrame(columns)
