"""From the `data` section to one canonical event frame: find files, map columns, settle types.

The canonical frame has the columns sequence, item (each int64 or strings), time (int64 microseconds, all null
where the log has no time), rating (float64, only where it is asked for), event (the type of the event, a
string, only where the configuration names its column) and row (int64, the log's own order: files sorted by
name, then the order in each).
"""

from __future__ import annotations

import difflib
import functools
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data_prep.ids import mixed_type, odd_one_out, text_ids, typed_ids
from data_prep.layouts import LAYOUTS
from data_prep.readers import TEXT_FORMATS, read_columns
from data_prep.times import parse_times
from recsys import schema
from recsys.config import Columns, DataConfig
from recsys.errors import InputError

FORMAT_COLUMNS = {
    "atomic": Columns(sequence="user_id", item="item_id", time="timestamp", rating="rating"),
    **{name: layout.columns for name, layout in LAYOUTS.items()},
}
"""The columns of formats that name their own; a configured name goes first, and must then exist."""

_PLAIN_COLUMNS = Columns(sequence="sequence", item="item")
_ROLES = (schema.SEQUENCE, schema.ITEM, schema.TIME, schema.RATING, schema.EVENT, schema.SESSION)


@dataclass(frozen=True)
class Log:
    """A log, read.

    Attributes:
        events: the canonical frame, in the log's order.
        files: what it was read from, in order; none for a frame.
        notices: what a person should know of it.
    """

    events: pl.DataFrame
    files: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Raw columns of one file, under the canonical names; `where` names the file."""

    where: str
    frame: pl.DataFrame

    def locate(self, row: int) -> str:
        """Name of a row, for errors; rows count from 1, without a header."""
        return f"{self.where} row {row + 1}"


def read_log(data: DataConfig, with_rating: bool) -> Log:
    """Read the files of the `data` section.

    Args:
        data: where the log is and which column is what.
        with_rating: whether a rating column is needed.

    Raises:
        InputError: a file or column is missing, a file is unreadable, or a value is of the wrong type.
    """
    files = event_files(data)
    parts = [read_part(file, data, with_rating) for file in files]
    log = canonical_log(parts, data, is_text=data.format in TEXT_FORMATS)
    return Log(log.events, tuple(files), log.notices)


def read_part(file: Path, data: DataConfig, with_rating: bool) -> Part:
    """The raw columns of one file of the log; arguments and errors as for `read_log`."""
    choose = functools.partial(choose_columns, data, with_rating, where=str(file))
    return Part(str(file), read_columns(file, data.format, choose))


def event_files(data: DataConfig, or_none: bool = False) -> list[Path]:
    """The files of the log: as listed in `data.events`, and those of one pattern sorted by name.

    Args:
        data: the `data` section.
        or_none: whether no file is an answer too, where the folder is there.

    Raises:
        InputError: there is none.
    """
    if not data.path:
        raise InputError("data.path is empty; expected a file, a glob or a folder: set data.path=...")
    path = Path(data.path)
    if not path.is_dir():
        if data.events and path.is_file():
            raise InputError(f"data.path {path} is a file, but data.events names a file inside it")
        if data.events:
            raise InputError(f"there is no folder {path}; set data.path to the folder of {data.events}")
        return find_files(str(path), "data.path", or_none and path.parent.is_dir())
    if data.events:
        inside = Path(glob.escape(str(path)))
        patterns = [data.events] if isinstance(data.events, str) else data.events
        found = [file for each in patterns for file in find_files(str(inside / each), "data.events", or_none)]
        return list(dict.fromkeys(found))  # two patterns may match the same file
    found = own_files(path, data.format)
    if found or or_none:
        return found
    names = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
    raise InputError(f"{path} is a folder: set data.events to the log's file in it; it has: {names}")


def own_files(folder: Path, kind: str) -> list[Path]:
    """The log in a folder, by the names that a format gives it; none where they do not settle it."""
    if kind == "parquet":
        return sorted(folder.rglob("*.parquet"))
    if kind == "atomic":
        found = sorted(folder.glob("*.inter"))
        return found if len(found) == 1 else []
    patterns = LAYOUTS[kind].files if kind in LAYOUTS else ()
    return next(filter(None, (sorted(folder.glob(pattern)) for pattern in patterns)), [])


def find_files(pattern: str, key: str, or_none: bool = False) -> list[Path]:
    """The file of that name, or the files that a glob matches, sorted by name.

    Raises:
        InputError: no file is there, and `or_none` is False; `key` names the setting.
    """
    if Path(pattern).is_file():
        return [Path(pattern)]
    found = sorted(Path(match) for match in glob.glob(pattern, recursive=True))  # noqa: PTH207 -- absolute patterns too
    files = [file for file in found if file.is_file()]
    if files or (or_none and not found):
        return files
    if found:
        raise InputError(f"{found[0]} is a folder; expected a file: set {key} to a file in it")
    if glob.has_magic(pattern):
        raise InputError(f"{key} `{pattern}` matches no file; check the pattern and the folder")
    raise InputError(f"there is no file {pattern}; set {key} to where the data is")


def item_column(data: DataConfig) -> str:
    """Name of the log's item column."""
    return data.columns.item or FORMAT_COLUMNS.get(data.format, _PLAIN_COLUMNS).item or schema.ITEM


def choose_columns(data: DataConfig, with_rating: bool, found: Sequence[str], where: str) -> dict[str, str]:
    """Canonical name -> column of the log.

    A configured column must be there. Of the names that a format brings itself, time and rating are taken
    where they are there.

    Raises:
        InputError: a column is missing.
    """
    own = FORMAT_COLUMNS.get(data.format, _PLAIN_COLUMNS)
    chosen = {}
    for role in _ROLES:
        configured = getattr(data.columns, role)
        column = configured or getattr(own, role)
        optional = configured is None and role in (schema.TIME, schema.RATING, schema.EVENT)
        unused = role == schema.RATING and not with_rating
        if column is None or unused or (optional and column not in found):
            continue
        require_column(column, found, where, f"data.columns.{role}")
        chosen[role] = column
    for column in data.columns.context:
        require_column(column, found, where, "data.columns.context")
        if column in schema.RESERVED_CONTEXT_COLUMNS or column.startswith(schema.HELPER):
            raise InputError(
                f"context column `{column}` of {where} has a name that the prepared data set needs itself; "
                "rename the column, or list data.columns.context without it"
            )
        chosen[column] = column
    return chosen


def require_column(column: str, found: Sequence[str], where: str, key: str) -> None:
    """Raise an InputError that names the columns found, and a close one, when `column` is not there."""
    if column in found:
        return
    close = difflib.get_close_matches(column, found, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    raise InputError(f"{where} has no column `{column}` ({key}); {hint}It has: {', '.join(found)}")


def canonical_log(parts: Sequence[Part], data: DataConfig, is_text: bool, is_whole: bool = True) -> Log:
    """Settle ids, times and ratings of the raw columns of all files.

    Args:
        parts: one for each file, in order.
        data: units and formats of times.
        is_text: whether the columns are untyped text, so that the whole column decides.
        is_whole: whether no other part will come, so that a column of times must hold one.

    Raises:
        InputError: there is no event, or a value is of the wrong type.
    """
    columns = set(parts[0].frame.columns)
    for part in parts:
        if set(part.frame.columns) != columns:
            differing = ", ".join(sorted(columns ^ set(part.frame.columns)))
            raise InputError(f"{parts[0].where} and {part.where} do not both have {differing}")
    if not any(len(part.frame) for part in parts):
        raise InputError(f"{parts[0].where} has no events; expected one row an event")
    settled: dict[str, pl.Series] = {}
    notices: list[str] = []
    for role in (schema.SEQUENCE, schema.ITEM):
        settled[role] = _text_ids(parts, role, notices) if is_text else _typed_ids(parts, role)
    rows = len(settled[schema.SEQUENCE])
    settled[schema.TIME] = _times(parts, data) if schema.TIME in columns else _nulls(rows)
    if is_whole and schema.TIME in columns and not settled[schema.TIME].count():
        raise InputError(f"{parts[0].where} has no time in any row; unset data.columns.time")
    if schema.RATING in columns:
        settled[schema.RATING] = pl.concat([_ratings(part) for part in parts])
    if schema.EVENT in columns:
        settled[schema.EVENT] = pl.concat([_event_types(part) for part in parts])
    for name in sorted(columns - set(_ROLES[:-1])):  # the session and the context, as they are
        settled[name] = _as_it_is(parts, name)
    settled[schema.ROW] = pl.int_range(rows, dtype=pl.Int64, eager=True)
    return Log(pl.DataFrame(settled), notices=tuple(notices))


def _nulls(rows: int) -> pl.Series:
    return pl.repeat(None, rows, dtype=pl.Int64, eager=True)


def _text_ids(parts: Sequence[Part], role: str, notices: list[str]) -> pl.Series:
    ids = text_ids(pl.concat([part.frame[role] for part in parts]))
    odd = odd_one_out(ids) if ids.dtype == pl.String else None
    if odd is not None:
        row = odd
        for part in parts:
            if row < len(part.frame):
                notices.append(
                    f"{role} ids are strings, though nearly all are whole numbers: "
                    f"{part.locate(row)} has `{ids[odd]}`"
                )
                break
            row -= len(part.frame)
    return ids


def _typed_ids(parts: Sequence[Part], role: str) -> pl.Series:
    columns = [typed_ids(part.frame[role], f"{role} ids of {part.where}") for part in parts]
    return _of_one_type(columns, parts, f"{role} ids", pl.Int64())


def _as_it_is(parts: Sequence[Part], name: str) -> pl.Series:
    coded = pl.Categorical, pl.Enum  # whose codes differ from file to file
    values = [part.frame[name] for part in parts]
    columns = [each.cast(pl.String) if isinstance(each.dtype, coded) else each for each in values]
    return _of_one_type(columns, parts, f"values of `{name}`", columns[0].dtype)


def _of_one_type(
    columns: Sequence[pl.Series], parts: Sequence[Part], what: str, absent: pl.DataType
) -> pl.Series:
    """One column of all parts; the type is that of those with a value in it, or else `absent`."""
    kinds = {values.dtype: part.where for values, part in zip(columns, parts, strict=True) if values.count()}
    if len(kinds) > 1:
        detail = " and ".join(f"{kind} in {where}" for kind, where in kinds.items())
        raise mixed_type(what, f" ({detail})")
    kind = next(iter(kinds), absent)
    return pl.concat([values.cast(kind) for values in columns])


def _times(parts: Sequence[Part], data: DataConfig) -> pl.Series:
    unit, text_format = data.time_unit, data.time_format
    return pl.concat([parse_times(part.frame[schema.TIME], unit, text_format, part.locate) for part in parts])


def _event_types(part: Part) -> pl.Series:
    names = part.frame[schema.EVENT].cast(pl.String)
    missing = (names.is_null() | (names == "")).arg_true()
    if len(missing):
        raise InputError(f"{part.locate(missing[0])} has no event type; give it one, or drop the row")
    return names


def _ratings(part: Part) -> pl.Series:
    values = part.frame[schema.RATING]
    numbers = values.cast(pl.Float64, strict=False)
    bad = (numbers.is_null() & values.is_not_null()).arg_true()
    if len(bad):
        raise InputError(f"{part.locate(bad[0])}: rating `{values[bad[0]]}` is not a number; correct the row")
    return numbers
