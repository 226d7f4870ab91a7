"""Tables as Parquet, JSON lines and CSV: written in parts, joined into one file.

Shapes: `n` rows of a table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from serving.export.tables import ITEMS, SCORES, VECTOR, width_of


class Format(Protocol):
    """How parts are stored until they are joined."""

    def write(self, table: pa.Table, file: Path) -> None:
        """Write a part."""
        ...

    def join(self, parts: Sequence[Path], schema: pa.Schema, file: Path) -> None:
        """Write the file of all parts, in their order; of none, an empty one."""
        ...


class Parquet:
    """Columns and their types as they are; parts wait as plain Arrow files, and are compressed once."""

    def write(self, table: pa.Table, file: Path) -> None:
        """See `Format.write`."""
        with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)

    def join(self, parts: Sequence[Path], schema: pa.Schema, file: Path) -> None:
        """See `Format.join`; scores and vectors never repeat, and are stored without a dictionary."""
        floats = (SCORES, VECTOR)
        repeating = [f"{name}.list.element" if name == ITEMS else name for name in schema.names]
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=[name for name in repeating if name not in floats],
        ) as writer:
            for part in parts:
                with pa.memory_map(str(part)) as stream:
                    writer.write_table(pa.ipc.open_file(stream).read_all())


class JsonLines:
    """One object a row."""

    def write(self, table: pa.Table, file: Path) -> None:
        """See `Format.write`."""
        _write_lines(row_texts(table), file)

    def join(self, parts: Sequence[Path], schema: pa.Schema, file: Path) -> None:
        """See `Format.join`."""
        _concatenate(b"", parts, file)


class Csv:
    """Lists: a line for each answer (id, rank, item, score). Vectors: a column for each dimension."""

    def write(self, table: pa.Table, file: Path) -> None:
        """See `Format.write`."""
        options = pa.csv.WriteOptions(include_header=False)
        pa.csv.write_csv(_flat(table), file, options)

    def join(self, parts: Sequence[Path], schema: pa.Schema, file: Path) -> None:
        """See `Format.join`."""
        key = schema.names[0]
        if ITEMS in schema.names:
            names = [key, "rank", "item" if key != "item" else "similar", "score"]
        else:
            width = width_of(schema)
            names = [key, *(f"v{place}" for place in range(1, width + 1))]
        _concatenate((",".join(names) + "\n").encode(), parts, file)


FORMATS: dict[str, Format] = {".parquet": Parquet(), ".jsonl": JsonLines(), ".csv": Csv()}


def row_texts(table: pa.Table, *, names: Sequence[str] | None = None) -> pa.Array:
    """(n,) a JSON object of each row, of some columns."""
    chosen = table.schema.names if names is None else names
    pieces: list[object] = []
    for place, name in enumerate(chosen):
        pieces += [f"{', ' if place else '{'}{json.dumps(name)}: ", json_texts(table[name])]
    return pc.binary_join_element_wise(*pieces, "}", "")


def json_texts(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """(n,) JSON of each value of a column of numbers, texts or times, or of lists of them."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_list(values.type):
        inner = _plain_texts(values.flatten())
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        joined = pc.binary_join(pa.ListArray.from_arrays(offsets, inner), ", ")
        texts = pc.binary_join_element_wise("[", joined, "]", "")
        return pc.if_else(values.is_valid(), texts, "null")
    return _plain_texts(values)


def _plain_texts(values: pa.Array) -> pa.Array:
    """(n,) JSON of plain values: each different text is encoded once."""
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return values.cast(pa.string())
    coded = values.dictionary_encode()
    known = [
        json.dumps(value if isinstance(value, str) else value.isoformat(), ensure_ascii=False)
        for value in coded.dictionary.to_pylist()
    ]
    return pa.array(known, pa.string()).take(coded.indices)


def _flat(table: pa.Table) -> pa.Table:
    """Plain columns alone: model version and time are in the manifest."""
    key = table[0].combine_chunks()
    if ITEMS not in table.column_names:
        vectors = table[VECTOR].combine_chunks()
        width = width_of(table.schema)
        return pa.table(
            [key, *(pc.list_element(vectors, place) for place in range(width))], [""] * (width + 1)
        )
    items = table[ITEMS].combine_chunks()
    rows = np.asarray(pc.list_parent_indices(items))
    ranks = np.arange(len(rows)) - np.asarray(items.offsets)[rows] + 1
    columns = [
        key.take(pa.array(rows)),
        pa.array(ranks),
        items.flatten(),
        table[SCORES].combine_chunks().flatten(),
    ]
    return pa.table(columns, [""] * len(columns))


def _write_lines(lines: pa.Array, file: Path) -> None:
    ended = pc.binary_join_element_wise(lines, "\n", "")
    content = ended.buffers()[2]
    with file.open("wb") as stream:
        if content is not None:
            stream.write(content)


def _concatenate(head: bytes, parts: Sequence[Path], file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(head)
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, stream, 2**20)
