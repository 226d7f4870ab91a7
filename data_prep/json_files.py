"""Some fields of JSON lines, with types that are known beforehand; Python literals pass too.

The older Amazon and Steam files hold one Python dictionary a line (`{u'asin': '0001'}`), which is not JSON.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.json

from data_prep.text_files import first_line, text_source
from recsys.errors import InputError

_BLOCK = 1 << 24  # bytes; a line must fit into one block
_LINES = 50_000  # Python literals that are turned into columns at a time


def json_rows(file: Path, fields: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """The fields of one object a line; a field that no line has is left out.

    Args:
        file: JSON lines or Python literals.
        fields: name -> type; other fields are skipped, not parsed.

    Raises:
        InputError: a line is neither, or a field is of another type.
    """
    rows = _strict(file, fields) if _is_json(first_line(file)) else _loose(file, fields)
    return rows.select(column.name for column in rows if column.null_count() < len(rows)).lazy()


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return not re.match(r"\{\s*u?'", line)  # a broken JSON line is the JSON reader's to report
    return True


def _strict(file: Path, fields: Mapping[str, pl.DataType]) -> pl.DataFrame:
    source = text_source(file)
    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in fields.items()])
    try:
        table = pa.json.read_json(
            source if isinstance(source, Path) else io.BytesIO(source),
            read_options=pa.json.ReadOptions(block_size=_BLOCK),
            parse_options=pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # the reader itself lets bytes through that are no UTF-8
    except pa.ArrowInvalid as error:
        raise InputError(f"{file} is not JSON lines of this layout: {error}; check data.format") from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _arrow_type(kind: Any) -> pa.DataType:  # noqa: ANN401 -- an instance or a class of polars.DataType
    """Arrow's JSON reader knows no large strings and lists, which Polars would ask for."""
    if isinstance(kind, pl.List):
        return pa.list_(_arrow_type(kind.inner))
    return {pl.String(): pa.string(), pl.Float64(): pa.float64(), pl.Int64(): pa.int64()}[kind]


def _loose(file: Path, fields: Mapping[str, pl.DataType]) -> pl.DataFrame:
    parts = []
    rows: list[dict[str, Any]] = []
    for number, line in _lines(file):
        try:
            found = ast.literal_eval(line)
            if not isinstance(found, dict):
                raise TypeError("no dictionary")
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise InputError(
                f"{file} line {number} is neither JSON nor a Python dictionary; mend or drop the line"
            ) from error
        rows.append({name: found.get(name) for name in fields})
        if len(rows) == _LINES:
            parts.append(_typed(rows, fields, file, number))
            rows = []
    return pl.concat([*parts, _typed(rows, fields, file, number)])


def _typed(
    rows: list[dict[str, Any]], fields: Mapping[str, pl.DataType], file: Path, last: int
) -> pl.DataFrame:
    """Columns of some rows, of which `last` is the number of the last line."""
    columns = []
    for name, kind in fields.items():
        values = [row[name] for row in rows]
        if kind == pl.Float64():  # Python writes a whole number without its point
            values = [float(value) if type(value) is int else value for value in values]
        try:
            columns.append(pl.Series(name, values, dtype=kind))
        except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
            raise InputError(
                f"{file} lines {last - len(rows) + 1} to {last}: `{name}` is not always {kind}; mend the file"
            ) from error
    return pl.DataFrame(columns)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    source = text_source(file)
    stream = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
    with stream, io.TextIOWrapper(stream, encoding="utf-8", errors="strict") as text:
        try:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
