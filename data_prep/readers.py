"""One small function per format: a file in, a lazy frame with the file's own columns out.

A new source is one function here and its name in `READERS` (and in `DataConfig.format`).
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.json

from data_prep.ids import mixed_type
from data_prep.layouts import LAYOUTS
from data_prep.text_files import COMPRESSED, source_of, text_source
from recsys import schema
from recsys.errors import InputError

TEXT_FORMATS = ("csv", "tsv", "atomic", "sequences", "pairs", "movielens", "lastfm-1k", "lastfm-2k")
"""Formats without types: their readers give strings, and the whole column decides the type of ids."""

_SEPARATED = {"csv": (",", True), "tsv": ("\t", False), "atomic": ("\t", False)}
"""Formats of rows and fields -> separator, and whether fields may be quoted."""
_REST = "\0"
_JSON_BLOCK = 1 << 24  # bytes; a line must fit into one block


def read_csv(file: Path, separator: str = ",", quote: str | None = '"') -> pl.LazyFrame:
    """Comma separated values with a header, all as strings.

    Raises:
        InputError: the file is no text, or two columns have the same name.
    """
    scan = functools.partial(
        pl.scan_csv, text_source(file), separator=separator, quote_char=quote, infer_schema=False, glob=False
    )
    header = [name for name in scan(has_header=False, n_rows=1).collect().row(0) if name]
    repeated = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if repeated:
        raise InputError(
            f"{file} has several columns `{repeated[0]}`; expected a header of distinct names: "
            "rename one of them"
        )
    return scan()


def read_tsv(file: Path) -> pl.LazyFrame:
    """Tab separated values with a header, no quoting; all as strings."""
    return read_csv(file, separator="\t", quote=None)


def read_atomic(file: Path) -> pl.LazyFrame:
    """RecBole's atomic file: tab separated, no quoting, a header of `name:type`; all as strings."""
    frame = read_tsv(file)
    return frame.rename({name: name.partition(":")[0] for name in frame.collect_schema().names()})


def read_parquet(file: Path) -> pl.LazyFrame:
    """Parquet, with its types; folders named `country=DE` are columns too."""
    source = source_of(file)
    return pl.scan_parquet(source, glob=False, hive_partitioning=isinstance(source, Path))


def read_jsonl(file: Path) -> pl.LazyFrame:
    """One JSON object a line, with JSON's types; text stays text even where it looks like a date."""
    source = text_source(file)
    content = source.read_bytes() if isinstance(source, Path) else source

    def parse(text_fields: list[str]) -> pa.Table:
        texts = pa.schema([(name, pa.string()) for name in text_fields])
        options = pa.json.ParseOptions(explicit_schema=texts)
        blocks = pa.json.ReadOptions(block_size=_JSON_BLOCK)
        return pa.json.read_json(io.BytesIO(content), read_options=blocks, parse_options=options)

    try:
        table = parse([])
        dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
        table = parse(dates) if dates else table
        table.validate(full=True)  # the reader itself lets bytes through that are no UTF-8
    except pa.ArrowInvalid as error:
        change = re.search(r"Column\(/(.*)\) changed from (\w+) to (\w+)", str(error))
        if change:
            column, before, after = change.groups()
            raise mixed_type(f"values of `{column}` in {file}", f" ({before} and {after})") from error
        raise InputError(f"{file} is not JSON lines: {error}; expected one JSON object a line") from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def read_sequences(file: Path) -> pl.LazyFrame:
    """Lines of `user item item ...`, oldest item first; one row an event, all as strings."""
    return _tokens(file, "`user item item ...`", at_least=2, at_most=None)


def read_pairs(file: Path) -> pl.LazyFrame:
    """Lines of `user item`, each user's in order; all as strings."""
    return _tokens(file, "`user item`", at_least=2, at_most=2)


def _tokens(file: Path, expected: str, at_least: int, at_most: int | None) -> pl.LazyFrame:
    lines = pl.scan_lines(text_source(file), row_index_name="number", glob=False)
    words = lines.select(pl.col("number") + 1, words=pl.col("line").str.extract_all(r"\S+")).collect()
    words = words.filter(pl.col("words").list.len() > 0)
    fields = pl.col("words").list.len()
    wrong = words.filter((fields < at_least) | (fields > at_most if at_most else pl.lit(False)))
    if len(wrong):
        number, found = wrong.row(0)
        had = f"user `{found[0]}` and no item" if len(found) == 1 else f"{len(found)} fields"
        raise InputError(f"{file} line {number} has {had}; expected {expected}, separated by blanks")
    pairs = words.lazy().select(
        pl.col("words").list.first().alias(schema.SEQUENCE), pl.col("words").list.slice(1).alias(schema.ITEM)
    )
    return pairs.explode(schema.ITEM)


READERS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "atomic": read_atomic,
    "sequences": read_sequences,
    "pairs": read_pairs,
    **{name: layout.events for name, layout in LAYOUTS.items()},
}
"""Format -> reader of a log."""

ITEM_READERS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    **{name: READERS[name] for name in ("csv", "tsv", "parquet", "jsonl", "atomic")},
    **{name: layout.items for name, layout in LAYOUTS.items() if layout.items},
}
"""Format -> reader of an item table."""


def read_columns(
    file: Path,
    kind: str,
    choose: Callable[[list[str]], dict[str, str]],
    readers: Mapping[str, Callable[[Path], pl.LazyFrame]] = READERS,
) -> pl.DataFrame:
    """Read some columns of one file.

    Args:
        file: the file; gzip by its extension `.gz`.
        kind: one of `READERS`.
        choose: from the file's columns, new name -> column; may raise InputError.
        readers: `READERS`, or `ITEM_READERS` for an item table.

    Raises:
        InputError: the file is empty, cut short, or not of this format.
    """
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty (0 bytes); expected a log in format {kind}")
    try:
        frame = readers[kind](file)
        chosen = choose(frame.collect_schema().names())
        wanted = [pl.col(column).alias(name) for name, column in chosen.items()]
        rest = [name for name in frame.collect_schema().names() if name not in chosen.values()]
        if kind in _SEPARATED and rest:
            # A row of too many fields is an error to Polars only where every column is asked for.
            wanted.append(pl.any_horizontal(cs.by_name(rest).is_not_null()).alias(_REST))
        return frame.select(wanted).collect().drop(_REST, strict=False)
    except InputError:
        raise
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{file} is empty; expected a log in format {kind}") from error
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, UnicodeError) as error:
        reason = str(error).strip().partition("\n")[0]
        if reason.startswith("found more fields") and kind in _SEPARATED:
            raise _too_many_fields(file, kind) from error
        raise InputError(
            f"{file} cannot be read as {kind}: {reason}; check the file (text must be UTF-8) and the format"
        ) from error


def _too_many_fields(file: Path, kind: str) -> InputError:
    """What to say of a file with a row of more fields than the header; it is read again to find that row."""
    separator, quoted = _SEPARATED[kind]
    source = source_of(file)
    place = f"{file} has a row of more fields than its header"
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        compressed = stream.read(4).startswith(COMPRESSED)
        stream.seek(0)
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        rows = csv.reader(
            [] if compressed else lines,
            delimiter=separator,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        )
        with contextlib.suppress(StopIteration, csv.Error):  # no such row by this reader's rules
            header = len(next(rows))
            width = next(len(row) for row in rows if len(row) > header)
            place = f"{file} line {rows.line_num} has {width} fields, but the header {header}"
    hint = " (text that holds the separator must be quoted)" if quoted else ""
    return InputError(f"{place}; expected as many in every row: mend the file{hint}")
