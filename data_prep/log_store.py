"""The events of every log file that was appended, kept beside the tables: read once, and never written again.

A file is known by its content (`file_digest`), and stands among the others where a preparation of the whole
log would put it: by its pattern in `data.events`, then by name. So the day on which it came does not matter.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data_prep.digest import file_digest, joined_digest, tables_digest
from data_prep.folder import LOG
from data_prep.logs import Part, event_files
from recsys.config import DataConfig
from recsys.errors import InputError


@dataclass(frozen=True)
class LogFile:
    """A log file whose events are kept.

    Attributes:
        name: its path below the folder of the log.
        pattern: place of the pattern in `data.events` that found it.
        digest: see `file_digest`.
        rows: its events; one without any is not kept.
        content: digest of what is kept of it.
    """

    name: str
    pattern: int
    digest: str
    rows: int = 0
    content: str = ""

    @property
    def order(self) -> tuple[int, tuple[str, ...]]:
        """What log files are sorted by."""
        return self.pattern, Path(self.name).parts

    def place(self, folder: Path) -> Path:
        """Where its events are, in the folder of a prepared data set."""
        return folder / LOG / f"{self.digest}.parquet"

    def read(self, folder: Path) -> Part:
        """Its events, in the canonical columns but `row`.

        Raises:
            InputError: they are not there any more, or were changed.
        """
        file = self.place(folder)
        try:
            frame = pl.read_parquet(file)
            changed = tables_digest([frame.to_arrow()]) != self.content
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{file} cannot be read ({error}): {_anew(folder)}") from error
        if changed:
            raise InputError(f"{file} is not what was kept of {self.name}: {_anew(folder)}")
        return Part(self.name, frame)

    def link(self, folder: Path, fresh: Path) -> None:
        """Let a new version of the folder have the same events, without a copy where the disk allows it."""
        try:
            os.link(self.place(folder), self.place(fresh))
        except OSError:
            shutil.copyfile(self.place(folder), self.place(fresh))


def new_files(
    data: DataConfig, known: Sequence[LogFile], folder: Path
) -> tuple[dict[Path, LogFile], list[str]]:
    """The log's files that are not known yet, each content once; and notices of those left out.

    Args:
        data: the `data` section.
        known: those that were appended to `folder` before; they need not be there any more.
        folder: of the prepared data set.

    Raises:
        InputError: there is no file at all, or a known one has other content now.
    """
    path = Path(data.path)
    base = next((each for each in (path, *path.parents) if each.is_dir()), path)
    patterns = [data.events] if data.events is None or isinstance(data.events, str) else data.events
    taken, names = {each.digest: each.name for each in known}, {each.name for each in known}
    found: dict[Path, LogFile] = {}
    notices: list[str] = []
    for place, pattern in enumerate(patterns):
        for file in event_files(data.model_copy(update={"events": pattern}), or_none=bool(known)):
            one = LogFile(file.relative_to(base).as_posix(), place, file_digest(file))
            if one.digest in taken:
                if taken[one.digest] != one.name:
                    notices.append(f"{one.name} is {taken[one.digest]} again, and was left out")
                continue
            if one.name in names:
                raise InputError(
                    f"{file} has other content than when it was appended to {folder}; give new events a file "
                    f"of their own; if the old ones were wrong, delete {folder} and prepare the whole log"
                )
            taken[one.digest] = one.name
            names.add(one.name)
            found[file] = one
    return found, notices


def log_digest(log: Sequence[LogFile], table: Path | None) -> str:
    """Digest of an input: that of the same files prepared at once, each content once."""
    digests = [each.digest for each in sorted(log, key=lambda each: each.order)]
    return joined_digest([*digests, *([file_digest(table)] if table else [])])


def check_appended(
    files: Sequence[Path], table: Path | None, appended: Sequence[str], stated: str, folder: Path
) -> None:
    """Refuse a data set that lacks a log file, or has another item table; files may have been moved away.

    Args:
        files: the log as it is now.
        table: the item table as it is now.
        appended: digests of the log files that the data set was made from, in order.
        stated: digest of its whole input.
        folder: where it is.

    Raises:
        InputError: the two differ.
    """
    remedy = f"run `recsys prepare` with --append to bring {folder} up to date"
    for file in files:
        if file_digest(file) not in appended:
            raise InputError(f"{file} was not appended to {folder} yet: {remedy}")
    if joined_digest([*appended, *([file_digest(table)] if table else [])]) != stated:
        raise InputError(f"{folder} was prepared with another item table than {table}: {remedy}")


def _anew(folder: Path) -> str:
    return f"delete {folder} and prepare the whole log with --append"
