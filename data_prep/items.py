"""The item table: id, title and attributes, as the file has them."""

from __future__ import annotations

import functools
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from data_prep.ids import plain_integers, text_ids, typed_ids
from data_prep.layouts import LAYOUTS, Reader
from data_prep.logs import event_files, find_files, item_column, require_column
from data_prep.readers import ITEM_READERS, READERS, TEXT_FORMATS, read_columns
from recsys import schema
from recsys.config import DataConfig
from recsys.errors import InputError

TITLE = "title"
FROM_LOG = "log"
"""The name that `data.items` has where the log itself holds titles and attributes."""

_DECIMAL = r"^-?(?:0|[1-9]\d*)(?:\.\d+)?$"


def items_file(data: DataConfig) -> Path | None:
    """The file of the item table, or None where there is none or the log holds it.

    `data.items` is looked for beside the log first, then as a path of its own. A folder of atomic files or
    of a known layout need not name it: the one that is there is taken.

    Raises:
        InputError: the configured file is missing, or columns are configured and there is no table.
    """
    path = Path(data.path)
    folder = path if path.is_dir() else path.parent
    if data.items == FROM_LOG:
        return None
    if data.items:
        beside = folder / data.items
        named = beside if beside.exists() else Path(data.items)
        return find_files(glob.escape(str(named)), "data.items")[0]
    known: tuple[str, ...] = ("*.item",) if data.format == "atomic" else ()
    known = LAYOUTS[data.format].item_files if data.format in LAYOUTS else known
    for found in (sorted(path.glob(pattern)) for pattern in known):
        if path.is_dir() and len(found) == 1:
            return found[0]
    need_no_items(data)
    return None


def need_no_items(data: DataConfig) -> None:
    """Refuse a configuration that names columns of an item table, where there is none.

    Raises:
        InputError: it does.
    """
    if data.item_columns.title or data.item_columns.attributes:
        raise InputError(
            "data.item_columns names a title or attributes, but there is no item table: "
            "set data.items to its file, or in a database to its table"
        )


def read_items(data: DataConfig, file: Path | None) -> pl.DataFrame | None:
    """The item table with the columns id, title (if mapped) and the attributes; None where there is none.

    Args:
        data: the `data` section.
        file: what `items_file` gave. Where the log holds the table, the first row of each item counts.

    Raises:
        InputError: a column is missing or has a reserved name, or the file is unreadable.
    """
    if data.items == FROM_LOG:
        tables = [_first_rows(_table(data, each, data.format, READERS)) for each in event_files(data)]
        return settle_items(_first_rows(pl.concat(tables)), data.path, is_text=data.format in TEXT_FORMATS)
    if file is None:
        return None
    kind = data.items_format or data.format
    if kind not in ITEM_READERS:
        raise InputError(f"a log in format {kind} does not tell how to read {file}; set data.items_format")
    table = _table(data, file, kind, ITEM_READERS)
    return settle_items(table, str(file), is_text=kind in TEXT_FORMATS)


def _table(data: DataConfig, file: Path, kind: str, readers: Mapping[str, Reader]) -> pl.DataFrame:
    return read_columns(file, kind, functools.partial(choose_item_columns, data, where=str(file)), readers)


def _first_rows(table: pl.DataFrame) -> pl.DataFrame:
    return table.unique(schema.ITEM_ID, keep="first", maintain_order=True)


def choose_item_columns(data: DataConfig, found: Sequence[str], where: str) -> dict[str, str]:
    """Name in items.parquet -> column of the item table.

    Raises:
        InputError: a column is missing or has a reserved name.
    """
    names = data.item_columns
    id_column = names.id or item_column(data)
    require_column(id_column, found, where, "data.item_columns.id")
    chosen = {schema.ITEM_ID: id_column}
    if names.title:
        require_column(names.title, found, where, "data.item_columns.title")
        chosen[TITLE] = names.title
    mapped = set(chosen.values())
    attributes = () if data.items == FROM_LOG and names.attributes is None else names.attributes
    for name in [column for column in found if column not in mapped] if attributes is None else attributes:
        require_column(name, found, where, "data.item_columns.attributes")
        if name in chosen or name in schema.RESERVED_ITEM_COLUMNS:
            raise InputError(
                f"item attribute `{name}` of {where} has a name that the prepared data set needs itself; "
                "rename the column, or list data.item_columns.attributes without it"
            )
        chosen[name] = name
    return chosen


def settle_items(table: pl.DataFrame, where: str, is_text: bool) -> pl.DataFrame:
    """Settle the types of a raw item table: ids, a text title, attributes by their whole column.

    Raises:
        InputError: ids are of mixed type, or an attribute holds Python objects.
    """
    if is_text:
        settled = [_from_text(column) for column in table]
    else:
        objects = [column.name for column in table if column.dtype == pl.Object]
        if objects:
            raise InputError(f"item attribute `{objects[0]}` of {where} is of mixed type; make it text")
        settled = [
            typed_ids(column, f"item ids of {where}") if column.name == schema.ITEM_ID else _plain(column)
            for column in table
        ]
    return pl.DataFrame(settled)


def _plain(values: pl.Series) -> pl.Series:
    is_text = values.name == TITLE or values.dtype in (pl.Categorical, pl.Enum)
    return values.cast(pl.String) if is_text else values


def _from_text(values: pl.Series) -> pl.Series:
    """Integers or decimals where the whole column of an attribute is written so, else text."""
    if values.name == schema.ITEM_ID:
        return text_ids(values)
    if values.name == TITLE:
        return values
    numbers = plain_integers(values)
    if numbers.null_count() == values.null_count():
        return values if numbers.null_count() == len(values) else numbers
    if values.str.contains(_DECIMAL).all(ignore_nulls=True):
        return values.cast(pl.Float64)
    return values


def match_items(table: pl.DataFrame, ids: pl.Series) -> tuple[pl.DataFrame, list[str]]:
    """Rows of an item table for the items of the log, in the type of the log's ids.

    Args:
        table: id, title, attributes.
        ids: (V,) ids of the items in the log.

    Returns:
        (V, columns) frame aligned with `ids`, null where the table lacks an item; and notices.

    Raises:
        InputError: the table knows none of the items.
    """
    notices = []
    own = table_ids = table[schema.ITEM_ID]
    if own.dtype != ids.dtype:  # a column of digits beside a column of text: compare what is written
        own = own.cast(pl.String) if ids.dtype == pl.String else plain_integers(own)
    table = table.with_columns(own.alias(schema.ITEM_ID)).filter(pl.col(schema.ITEM_ID).is_not_null())
    once = _first_rows(table)
    if len(once) < len(table):
        notices.append(f"item table: {len(table) - len(once):,} rows repeat an id; its first row counts")
    missing = int(ids.is_in(once[schema.ITEM_ID].implode()).not_().sum())
    if missing == len(ids):
        raise InputError(
            f"the item table knows none of the {len(ids)} items in the log (the log has "
            f"`{ids[0]}`, the table {_first(table_ids)}); check data.item_columns.id"
        )
    if missing:
        notices.append(f"item table: {missing:,} of {len(ids):,} items in the log are not in it")
    wanted = pl.DataFrame({schema.ITEM_ID: ids})
    return wanted.join(once, on=schema.ITEM_ID, how="left", maintain_order="left"), notices


def _first(values: pl.Series) -> str:
    present = values.drop_nulls()
    return f"`{present[0]}`" if len(present) else "no such id"
