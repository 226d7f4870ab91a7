"""SHA-256 of inputs and of content, independent of file formats, versions and time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys import schema


def file_digest(file: Path) -> str:
    """Digest of a file's bytes, and of the folders `day=1` that it lies in, which are columns of its rows.

    Its own name and all other folders do not count.
    """
    digest = schema.file_hash(file)
    partition = "/".join(name for name in file.parent.parts if "=" in name)
    return hashlib.sha256(f"{digest} {partition}".encode()).hexdigest() if partition else digest


def files_digest(files: Iterable[Path]) -> str:
    """Digest of the digests of files, in order."""
    return joined_digest(file_digest(file) for file in files)


def joined_digest(digests: Iterable[str]) -> str:
    """Digest of digests, in order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def tables_digest(tables: Iterable[pa.Table]) -> str:
    """Digest of the logical content of tables: names, types, values and nulls, row after row.

    How Arrow lays the content out (chunks, offset widths, slices) does not count.
    """
    whole = hashlib.sha256()
    for table in tables:
        whole.update(f"table {table.num_columns} {table.num_rows};".encode())
        for name, column in zip(table.column_names, table.columns, strict=True):
            whole.update(f"column {name};".encode())
            _update(whole, column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return whole.hexdigest()


def _update(whole: Any, values: pa.Array) -> None:  # noqa: ANN401 -- hashlib names no public type
    kind = values.type
    whole.update(np.packbits(np.asarray(values.is_valid())).tobytes())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        present = values.cast(pa.large_string()).drop_null()
        _, offsets, text = present.buffers()
        places = slice(present.offset, present.offset + len(present) + 1)
        bounds = np.frombuffer(offsets or bytes(8), np.int64)[places]
        whole.update(b"text;" + np.diff(bounds).tobytes())
        whole.update(memoryview(text or b"")[bounds[0] : bounds[-1]])
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        present = values.drop_null()
        whole.update(b"list;" + np.asarray(pc.list_value_length(present), dtype=np.int64).tobytes())
        _update(whole, present.flatten())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        whole.update(f"{kind};".encode() + np.ascontiguousarray(values.drop_null()).tobytes())
    else:
        whole.update(f"{kind};{values.to_pylist()!r}".encode())
