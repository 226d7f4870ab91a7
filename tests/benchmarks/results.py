"""The results file: one JSON line a measurement, added to and never rewritten, safe to interrupt.

A line that a killed process left half-written, always the last one, is not read, and the next row takes its
place. Rows are told apart by `KEY`; a row whose key is there already is not added again, so a benchmark that
is started again measures only what is missing.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.errors import InputError

RESULTS = Path(__file__).parent / "results.jsonl"
FORMAT = 2
"""Written into every row as `format`."""
OURS = "recsys"
"""The `library` of our own models."""
KEY = ("data", "digest", "library", "model", "settings", "seed", "split", "protocol", "seen_items")
"""What makes two rows the same measurement.

`data` and `digest` (of the prepared content, shortened; null where others prepared it) say on what, `library`
and `model` what, `settings` (hash of the configuration, or what a library's script was asked for) and `seed`
how it was trained, `split`, `protocol` and `seen_items` (removed or kept) by which rule it was measured.
"""

Row = dict[str, Any]
Key = tuple[Any, ...]


def key_of(row: Row) -> Key:
    """The row's values of `KEY`."""
    return tuple(row[name] for name in KEY)


def new_row(**fields: Any) -> Row:  # noqa: ANN401 -- whatever JSON can hold
    """A row of today in this format.

    Args:
        fields: those of `KEY`, and `metrics` (`hr@10` and so on -> mean, low, high), `users`, `seconds` (of
            training), `versions`; whatever else is worth keeping.

    Raises:
        ValueError: a field of `KEY` is missing.
    """
    if missing := [name for name in (*KEY, "metrics", "seconds", "versions") if name not in fields]:
        raise ValueError(f"a row needs {', '.join(missing)}")
    return {"format": FORMAT, "date": datetime.now(UTC).date().isoformat(), **fields}


def read(file: Path) -> list[Row]:
    """All rows; none when there is no file.

    Raises:
        InputError: a line is not a row of this format.
    """
    if not file.exists():
        return []
    return _rows(_whole_lines(file.read_bytes()), file)


def add(file: Path, row: Row) -> bool:
    """Append a row, on disk when this returns; whether it was new.

    The file is locked meanwhile, so that two benchmarks may share it.

    Raises:
        InputError: the file is not of this format; it is left as it is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        content = stream.read()
        whole = _whole_lines(content)
        if key_of(row) in keys(_rows(whole, file)):
            return False
        stream.truncate(min(len(whole), len(content)))
        ending = whole[len(content) :]  # the newline that a complete last line lacked
        stream.write(ending + json.dumps(row, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return True


def keys(rows: Iterable[Row]) -> set[Key]:
    """The keys of rows."""
    return {key_of(row) for row in rows}


def _whole_lines(content: bytes) -> bytes:
    """The content without a half-written last line; a complete one that lacks only its newline gets it."""
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return content
    try:
        json.loads(content[end:])
    except ValueError:
        return content[:end]
    return content + b"\n"


def _rows(content: bytes, file: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number} is not JSON ({error}); restore the file") from error
        found = row.get("format") if isinstance(row, dict) else None
        if found != FORMAT:
            raise InputError(
                f"{file}, line {number} is of format {found}; expected format {FORMAT}: "
                "name another results file, or move this one away and measure again"
            )
        if missing := [name for name in (*KEY, "metrics", "seconds") if name not in row]:
            raise InputError(f"{file}, line {number} has no {', '.join(missing)}; restore the file")
        rows.append(row)
    return rows
