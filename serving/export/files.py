"""Exports to files: parts wait in a hidden folder beside the target, whose name the whole takes in one step.

.NAME.export/   lock         held while an export runs
                journal      what is stored: a line with the plan, then one for each part
                00000012     a part
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys import schema as formats_of_recsys
from recsys.errors import InputError
from recsys.files import check_writable, fsync, put_in_place
from serving.export.formats import FORMATS, Format
from serving.export.sinks import Manifest, Record
from serving.export.wanted import Part, Wanted

MANIFEST = "_manifest.json"
"""In a folder; beside a file it is `NAME.manifest.json`. Readers of Parquet folders pass over the `_`."""
KIND = "export"
_AT_CWD, _EXCHANGE = -100, 2  # of Linux's renameat2


def file_sink(out: Path, wanted: Wanted) -> FileSink:
    """The sink of a file or, with partitions, of a folder; a shard's name says which it is.

    Raises:
        InputError: the path names no known format, or cannot be written.
    """
    if wanted.shard.count > 1:
        shard = wanted.shard
        out = out.with_name(f"{out.stem}-{shard.number}-of-{shard.count}{out.suffix}")
    known = ", ".join(FORMATS)
    if wanted.partitions is None:
        if out.suffix not in FORMATS:
            raise InputError(
                f"{out} names no format; end it in one of {known}, or give --partitions for a folder"
            )
        check_writable(out)
        return FileSink(out, FORMATS[out.suffix])
    if wanted.partitions < 1:
        raise InputError(f"--partitions is {wanted.partitions}; expected at least 1")
    if out.suffix in FORMATS:
        raise InputError(
            f"--partitions is for a folder of Parquet files, but {out} names a file; leave its end"
        )
    if out.exists() and not _is_export(out):
        raise InputError(f"{out} exists and is not a folder that `recsys export` wrote; name another")
    check_writable(out.parent / f"{out.name}.parquet")
    return FileSink(out, FORMATS[".parquet"], wanted.partitions)


class FileSink:
    """One file, or a folder of one Parquet file for each partition."""

    def __init__(self, target: Path, kind: Format, partitions: int | None = None) -> None:
        """Take what `file_sink` has checked."""
        self.name = str(target)
        self._target = target
        self._format = kind
        self._partitions = partitions
        self._work = target.with_name(f".{target.name}.export")
        self._schema = pa.schema([])
        self._lock: int | None = None

    def begin(self, plan: str, schema: pa.Schema) -> dict[int, Record]:
        """See `Sink.begin`; what is unfinished of another plan is removed."""
        self._schema = schema
        self._work.mkdir(exist_ok=True)
        self._lock = os.open(self._work / "lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another export to {self.name} is running; wait for it, or name another"
            ) from error
        lines = _lines(self._journal)
        if lines and lines[0] == {"plan": plan}:
            records = {record.pop("part"): record for record in lines[1:]}
            stored = {number: record for number, record in records.items() if self._is_stored(number, record)}
            self._rewrite([lines[0], *({"part": number, **record} for number, record in stored.items())])
            return stored
        for entry in self._work.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._rewrite([{"plan": plan}])
        return {}

    def put(self, part: Part, table: pa.Table, record: Record) -> None:
        """See `Sink.put`: a part counts from its line in the journal on."""
        file = self._part(part.number)
        self._format.write(table, file)
        fsync(file)
        line = {"part": part.number, **record, "bytes": file.stat().st_size}
        with self._journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def publish(self, parts: list[Part], manifest: Manifest) -> list[int]:
        """See `Sink.publish`; nothing but this process's own shard is awaited."""
        if self._partitions is None:
            draft = self._work / "whole"
            self._format.join([self._part(part.number) for part in parts], self._schema, draft)
            manifest = manifest | {"files": {self._target.name: _facts(draft)}}
            told = self._work / "manifest"
            told.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            beside = self._target.with_name(f"{self._target.name}.manifest.json")
            beside.unlink(missing_ok=True)  # killed between the two, none is better than that of former lists
            put_in_place(draft, self._target)
            put_in_place(told, beside)
        else:
            self._publish_folder(parts, manifest, self._partitions)
        shutil.rmtree(self._work)
        fsync(self._target.parent)
        return []

    def close(self) -> None:
        """See `Sink.close`."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _publish_folder(self, parts: list[Part], manifest: Manifest, partitions: int) -> None:
        folder = self._work / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = {}
        for partition in range(partitions):
            file = folder / f"{partition:05}-of-{partitions:05}.parquet"
            ours = [self._part(part.number) for part in parts if part.partition == partition]
            self._format.join(ours, self._schema, file)
            fsync(file)
            files[file.name] = _facts(file)
        told = folder / MANIFEST
        told.write_text(json.dumps(manifest | {"files": files}, indent=2) + "\n", encoding="utf-8")
        fsync(told)
        fsync(folder)
        if self._target.exists():
            exchange(folder, self._target)
        else:
            folder.rename(self._target)

    @property
    def _journal(self) -> Path:
        return self._work / "journal"

    def _part(self, number: int) -> Path:
        return self._work / f"{number:08}"

    def _is_stored(self, number: int, record: Record) -> bool:
        file = self._part(number)
        return file.is_file() and file.stat().st_size == record["bytes"]

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        draft = self._work / "journal.draft"
        draft.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        put_in_place(draft, self._journal)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places: in one step on Linux, elsewhere in three.

    Raises:
        OSError: they cannot.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        aside = one.with_name(f"{one.name}.aside")
        other.rename(aside)
        one.rename(other)
        aside.rename(one)
    elif rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(other))


def _is_export(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _facts(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": formats_of_recsys.file_hash(file)}


def _lines(journal: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; the last one may be torn."""
    if not journal.is_file():
        return []
    found = []
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
