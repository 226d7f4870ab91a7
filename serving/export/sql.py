"""Exports to SQL tables, SQLite and PostgreSQL, through ADBC.

Parts go into a table of their own, each in one transaction with its line in `recsys_export_parts`. When
every part of every shard is there, one transaction puts them in the place of the rows of the table that is
read: its rights, views and indices stay, and readers see the former rows until then. `recsys_exports` holds
the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.config import shown_uri
from recsys.errors import InputError
from serving.export.formats import json_texts
from serving.export.sinks import Manifest, Record
from serving.export.wanted import Part, Wanted

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
WAIT = 60_000  # milliseconds for another writer of an SQLite file
BEGUN, FINISHED = -2, -1  # numbers of the lines that say that a shard has a table of its own, and is whole
LOCK = 0x7265637379737872  # any number; of PostgreSQL's advisory locks
_BOOKS = (
    "CREATE TABLE IF NOT EXISTS recsys_exports (name TEXT PRIMARY KEY, manifest TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS recsys_export_parts (name TEXT, plan TEXT, shard INTEGER, part INTEGER, "
    "record TEXT NOT NULL, PRIMARY KEY (name, plan, shard, part))",
)


class SqlSink:
    """One table of a database, a row for each id."""

    def __init__(self, address: str, table: str, wanted: Wanted) -> None:
        """Connect.

        Args:
            address: `sqlite:///FILE` (`sqlite:////FILE` from the root) or `postgresql://...`, as libpq takes
                it: a password may come from `$PGPASSWORD` or `~/.pgpass`.
            table: its name.
            wanted: what goes there.

        Raises:
            InputError: the name is none, the driver is not installed, or the database cannot be reached.
        """
        if not NAME.fullmatch(table):
            raise InputError(f"table `{table}`: expected letters, digits and `_`, at most 40, no digit first")
        self._address = shown_uri(address)
        self.name = f"{self._address} table {table}"
        self._table = table
        self._shard = wanted.shard
        self._plan = self._staging = ""
        self._names: list[str] = []
        self._columns = ""
        self._on_sqlite = address.startswith("sqlite")
        self._connection = self._connected(address)

    def begin(self, plan: str, schema: pa.Schema) -> dict[int, Record]:
        """See `Sink.begin`; shards may begin at the same time."""
        self._plan, self._staging = plan, f"{self._table}_{plan}"
        self._names = schema.names
        kinds = [f"{_quoted(field.name)} {self._kind(field.type)}" for field in schema]
        self._columns = ", ".join([f"{kinds[0]} PRIMARY KEY", *kinds[1:]])
        with self._transaction() as cursor:
            self._lock(cursor)
            for statement in _BOOKS:
                cursor.execute(statement)
            self._check_table(cursor)
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {_quoted(self._staging)} ({self._columns})")
            self._note(cursor, BEGUN, {})
            return {
                part: json.loads(record)
                for shard, part, record in self._lines(cursor)
                if shard == self._shard.number and part >= 0
            }

    def put(self, part: Part, table: pa.Table, record: Record) -> None:
        """See `Sink.put`."""
        with self._transaction() as cursor:
            # The server may have been about to commit the part when the attempt that sent it was killed: the
            # line then waits for that, and stands there already.
            if self._note(cursor, part.number, record):
                cursor.adbc_ingest(self._staging, self._stored(table), mode="append")

    def publish(self, parts: list[Part], manifest: Manifest) -> list[int]:
        """See `Sink.publish`; the last shard publishes for all."""
        with self._transaction() as cursor:
            self._lock(cursor)
            self._note(cursor, FINISHED, {})
            lines = self._lines(cursor)
            finished = {shard for shard, part, _ in lines if part == FINISHED}
            awaited = sorted(set(range(1, self._shard.count + 1)) - finished)
            if awaited:
                return awaited
            records = [json.loads(record) for _, part, record in lines if part >= 0]
            counts = {name: sum(record[name] for record in records) for name in manifest["counts"]}
            table, staging = _quoted(self._table), _quoted(self._staging)
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {table} ({self._columns})")
            cursor.execute(f"DELETE FROM {table}")
            cursor.execute(f"INSERT INTO {table} SELECT * FROM {staging}")
            cursor.execute("SELECT DISTINCT plan FROM recsys_export_parts WHERE name = " + _text(self._table))
            for (plan,) in cursor.fetchall():
                cursor.execute(f"DROP TABLE IF EXISTS {_quoted(f'{self._table}_{plan}')}")
            for books in ("recsys_export_parts", "recsys_exports"):
                cursor.execute(f"DELETE FROM {books} WHERE name = {_text(self._table)}")
            whole = manifest | {"shard": [1, 1], "shards": self._shard.count, "counts": counts}
            values = f"{_text(self._table)}, {_text(json.dumps(whole))}"
            cursor.execute(f"INSERT INTO recsys_exports VALUES ({values})")
        return []

    def close(self) -> None:
        """See `Sink.close`."""
        self._connection.close()

    def _connected(self, address: str) -> Any:  # noqa: ANN401 -- of ADBC
        file = Path(address.partition(":///")[2])
        if self._on_sqlite and not (file.name and file.parent.is_dir()):
            raise InputError(f"cannot write {address}: expected sqlite:///FILE in a folder that exists")
        try:
            if self._on_sqlite:
                import adbc_driver_sqlite.dbapi as driver

                connection = driver.connect(str(file))
                with connection.cursor() as cursor:
                    cursor.execute(f"PRAGMA busy_timeout = {WAIT}")
                return connection
            import adbc_driver_postgresql.dbapi as driver_of_postgresql

            return driver_of_postgresql.connect(address)
        except ImportError as error:
            raise InputError(
                f"{self._address} needs the driver {error.name}; install it with the extra `recsys[sql]`"
            ) from error
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> Exception:
        """An InputError for what the database refuses."""
        from adbc_driver_manager import Error

        if not isinstance(error, Error):
            return error
        reason = " ".join(str(error).split("Query was:")[0].split())
        return InputError(
            f"{self.name} refused ({reason}); what readers see is unharmed, and the same command goes on"
        )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        try:
            with self._connection.cursor() as cursor:
                yield cursor
            self._connection.commit()
        except Exception as error:
            self._connection.rollback()
            raise self._failure(error) from error

    def _lock(self, cursor: Any) -> None:  # noqa: ANN401
        """Let one shard after the other look at what is there; SQLite has one writer anyway."""
        if not self._on_sqlite:
            cursor.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            cursor.fetchall()

    def _lines(self, cursor: Any) -> list[tuple[int, int, str]]:  # noqa: ANN401
        cursor.execute(
            "SELECT shard, part, record FROM recsys_export_parts "
            f"WHERE name = {_text(self._table)} AND plan = {_text(self._plan)}"
        )
        return list(cursor.fetchall())

    def _note(self, cursor: Any, part: int, record: Record) -> bool:  # noqa: ANN401
        """Add the line of a part; whether there was none."""
        texts = (
            _text(self._table),
            _text(self._plan),
            str(self._shard.number),
            str(part),
            _text(json.dumps(record)),
        )
        line = f"INSERT INTO recsys_export_parts VALUES ({', '.join(texts)})"
        cursor.execute(f"{line} ON CONFLICT DO NOTHING RETURNING part")
        return bool(cursor.fetchall())

    def _check_table(self, cursor: Any) -> None:  # noqa: ANN401
        """Refuse a table that no export wrote, or that an export of other columns wrote."""
        catalogue = (
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = "
            if self._on_sqlite  # to which `Payroll` and `payroll` are one table
            else "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() "
            "AND table_name = "
        )
        cursor.execute(catalogue + _text(self._table.lower() if self._on_sqlite else self._table))
        if not cursor.fetchall():
            return
        cursor.execute(f"SELECT name FROM recsys_exports WHERE name = {_text(self._table)}")
        if not cursor.fetchall():
            raise InputError(
                f"{self.name} exists and no export wrote it; name another with --table, or drop it"
            )
        cursor.execute(f"SELECT * FROM {_quoted(self._table)} LIMIT 0")
        there = [column[0] for column in cursor.description]
        if there != self._names:
            raise InputError(
                f"{self.name} exists with columns {', '.join(there)}, but this export has "
                f"{', '.join(self._names)}; name another with --table, or drop it"
            )

    def _kind(self, kind: pa.DataType) -> str:
        if pa.types.is_integer(kind):
            return "BIGINT"
        if self._on_sqlite or pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return "TEXT"
        if pa.types.is_timestamp(kind):
            return "TIMESTAMPTZ"
        return "REAL[]" if pa.types.is_float32(kind.value_type) else f"{self._kind(kind.value_type)}[]"

    def _stored(self, table: pa.Table) -> pa.Table:
        """Lists are arrays in PostgreSQL and JSON in SQLite, which knows neither lists nor times."""
        columns = {}
        for name in table.column_names:
            column, kind = table[name], table.schema.field(name).type
            if pa.types.is_nested(kind) and not self._on_sqlite:
                column = column.cast(pa.list_(kind.value_type))
            elif pa.types.is_nested(kind):
                column = _json_or_null(column)
            elif pa.types.is_timestamp(kind) and self._on_sqlite:
                column = column.cast(pa.string())
            columns[name] = column
        return pa.table(columns)


def _json_or_null(column: pa.ChunkedArray) -> pa.Array:
    texts = json_texts(column)
    return pa.compute.if_else(column.combine_chunks().is_valid(), texts, None)


def _quoted(name: str) -> str:
    """A name as SQL has it, in its own case and even where it is a word of SQL."""
    return f'"{name}"'


def _text(text: str) -> str:
    """A text as SQL has it; every text here is a name that was checked, or JSON."""
    return "'" + text.replace("'", "''") + "'"
