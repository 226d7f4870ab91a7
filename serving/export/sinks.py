"""Where an export goes: what every kind of place promises, and which one a text names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from recsys.errors import InputError
from serving.export.wanted import Part, Wanted

Manifest = dict[str, Any]
Record = dict[str, Any]
"""What is known of a stored part: its counts, and when its export began."""


class Sink(Protocol):
    """Takes parts in any order, remembers them when killed, and shows them to readers all at once."""

    name: str

    def begin(self, plan: str, schema: pa.Schema) -> dict[int, Record]:
        """Get ready, and say which parts of this plan a former attempt has stored: number -> record.

        Raises:
            InputError: nothing can be written there, or what stands there is no export.
        """
        ...

    def put(self, part: Part, table: pa.Table, record: Record) -> None:
        """Store a part and its record, both or neither."""
        ...

    def publish(self, parts: list[Part], manifest: Manifest) -> list[int]:
        """Show all parts, and the manifest, in place of what was there.

        Returns:
            Shards that are still awaited: until the last of them nothing is shown.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; what is unfinished stays for the next attempt."""
        ...


def sink_of(out: str, wanted: Wanted, table: str | None) -> Sink:
    """The sink that a path or an address names.

    Args:
        out: a file `.parquet`, `.jsonl` or `.csv`; a folder, with partitions; `sqlite:///FILE`,
            `postgresql://...` or `redis://...`.
        wanted: what goes there.
        table: name of the table or of the hash; default: what is exported.

    Raises:
        InputError: it names none, or the package that talks to it is not installed.
    """
    scheme, separator, _ = out.partition("://")
    if not separator:
        from serving.export.files import file_sink

        if table is not None:
            raise InputError(f"--table {table} is for databases, but {out} is a path; leave it")
        return file_sink(Path(out), wanted)
    if wanted.partitions is not None:
        raise InputError(f"--partitions is for folders, but {scheme}://... is a database; leave it")
    name = table if table is not None else wanted.what.replace("-", "_")
    if scheme in ("sqlite", "postgresql", "postgres"):
        from serving.export.sql import SqlSink

        return SqlSink(out, name, wanted)
    if scheme in ("redis", "rediss"):
        from serving.export.redis_hash import RedisSink

        return RedisSink(out, name, wanted)
    raise InputError(
        f"cannot export to {scheme}://...; known: a path, sqlite:///FILE, postgresql://HOST/DATABASE, "
        "redis://HOST:PORT/NUMBER"
    )
