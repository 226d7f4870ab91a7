"""Logs that are no local files: tables of a database, and Parquet in an object store.

They are read once into a frame of the needed columns, and prepared like any frame: the digest of the input is
that of the rows. A password never belongs into the configuration, which is written down with every run:
PostgreSQL takes it from `PGPASSWORD` or `~/.pgpass`, object stores from the variables of their vendors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from data_prep.items import FROM_LOG, choose_item_columns, need_no_items
from data_prep.logs import choose_columns
from recsys import schema
from recsys.config import DataConfig, ExperimentConfig
from recsys.errors import InputError

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection

_STORE = re.compile(r"(s3a?|gs|gcs|az|abfss?|hf|https?)://")
_TABLE = re.compile(r"[\w.\"]+")


def is_remote(data: DataConfig) -> bool:
    """Whether the log is in a database or an object store."""
    return data.format == "sql" or bool(_STORE.match(data.path))


def read_remote(config: ExperimentConfig) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Events and item table (or None) as `prepare_frame` takes them: with the columns that the log has.

    Raises:
        InputError: the source cannot be reached or read, lacks a column, or needs a driver that is missing.
    """
    data, with_rating = config.data, config.clean.min_rating is not None
    if data.items == FROM_LOG:
        raise InputError(
            f"data.items=log takes item columns from files alone, and data.path is {data.path}; name a table "
            "of items in data.items"
        )
    if not data.items:
        need_no_items(data)
    if data.format == "sql":
        return _read_database(data, with_rating)
    if data.format != "parquet":
        raise InputError(
            f"data.path {data.path} is in an object store, and data.format is {data.format}; only Parquet is "
            "read from there: set data.format=parquet, or copy the log to this machine"
        )
    events = _scan(data, data.path, data.events)
    chosen = choose_columns(data, with_rating, _names(events, data.path), data.path)
    log = _collect(events.select(list(dict.fromkeys(chosen.values()))), data.path)
    if not data.items:
        return log, None
    items = _scan(data, data.path if "://" not in data.items else data.items, data.items)
    wanted = choose_item_columns(data, _names(items, data.items), data.items)
    return log, _collect(items.select(list(dict.fromkeys(wanted.values()))), data.items)


def _scan(data: DataConfig, base: str, inside: str | Sequence[str] | None) -> pl.LazyFrame:
    names = [inside] if isinstance(inside, str) else list(inside or [])
    places = [name if "://" in name else f"{base.rstrip('/')}/{name}" for name in names] or [base]
    return pl.scan_parquet(places, storage_options=data.storage or None, hive_partitioning=True)


def _names(frame: pl.LazyFrame, where: str) -> list[str]:
    try:
        return frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError, ImportError) as error:
        raise _unreadable(where, error) from error


def _collect(frame: pl.LazyFrame, where: str) -> pl.DataFrame:
    try:
        return frame.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:300]
    return InputError(
        f"{where} cannot be read: {reason}; check the address, data.storage and the credentials in the "
        "environment"
    )


def _read_database(data: DataConfig, with_rating: bool) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    if not isinstance(data.events, str):
        raise InputError("data.format=sql needs data.events: one table, or one query that begins with SELECT")
    with _connect(data.path) as connection:
        log = _query(connection, data.events, data.path)
        items = _query(connection, data.items, data.path) if data.items else None
    chosen = choose_columns(data, with_rating, log.columns, data.events)
    log = log.select(list(dict.fromkeys(chosen.values())))
    if _TABLE.fullmatch(data.events) and schema.TIME not in chosen:
        raise InputError(
            f"the rows of table {data.events} have no order; set data.columns.time, or make data.events a "
            "query with ORDER BY"
        )
    if _TABLE.fullmatch(data.events):  # of equal times, the same one comes first every time
        log = log.sort(chosen[schema.TIME], *log.columns)
    return log, items


def _connect(address: str) -> Connection:
    kind, file = address.partition(":")[0], address.removeprefix("sqlite:///")
    if kind == "sqlite" and not Path(file).is_file():  # connecting would make an empty one
        raise InputError(f"data.path is `{address}`, but there is no file {file}; name one that is")
    try:
        if kind in ("postgresql", "postgres"):
            from adbc_driver_postgresql import dbapi as postgresql

            connection: Connection = postgresql.connect(address)
            return connection
        if kind == "sqlite":
            from adbc_driver_sqlite import dbapi as sqlite

            return sqlite.connect(file)
    except ImportError as error:
        raise InputError(
            f"reading {address} needs a database driver ({error.name}): pip install 'recsys[sql]'"
        ) from error
    except Exception as error:
        raise InputError(
            f"{address} cannot be reached: {' '.join(str(error).split())}; check the address, the server and "
            "PGPASSWORD"
        ) from error
    raise InputError(
        f"data.path is `{address}`; expected postgresql://... or sqlite:///FILE with data.format=sql"
    )


def _query(connection: Connection, wanted: str, where: str) -> pl.DataFrame:
    """Rows of a table or of a query; decimals, which have no type of their own here, as floats."""
    query = f"SELECT * FROM {wanted}" if _TABLE.fullmatch(wanted) else wanted
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            frame = pl.from_arrow(cursor.fetch_arrow_table())
    except Exception as error:
        raise InputError(
            f"`{query}` at {where} failed: {' '.join(str(error).split())}; correct data.events or data.items"
        ) from error
    assert isinstance(frame, pl.DataFrame)
    return frame
