"""A prepared folder on disk: written whole or not at all, and never over another data set."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.assemble import Tables
from data_prep.digest import tables_digest
from recsys import schema
from recsys.config import setting_differences, with_defaults
from recsys.errors import InputError
from recsys.files import alone

KIND = "prepared"
LOG = "log"
"""Key of the manifest, and name of the folder, with the log files of a data set that is appended to."""
_TABLES = (schema.SEQUENCES_FILE, schema.ITEMS_FILE)
_REPORTED = {"counts", "split", "content_digest", "removals", "leakage_check", "notices"}
_ROW_GROUP = 65_536  # sequences or items that a reader takes at a time


def existing_manifest(folder: Path, input_digest: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of the same data set, already prepared in this folder; None where there is nothing yet.

    Raises:
        InputError: the folder holds something else.
    """
    manifest = manifest_in(folder)
    if manifest is None:
        return None
    if manifest.get("input_digest") != input_digest:
        appended = "add new log files with --append, " if LOG in manifest else ""
        raise InputError(
            f"{folder} already holds another data set, `{manifest.get('name')}`, "
            f"made from other input: {appended}{_remedy(folder)}"
        )
    check_same_settings(folder, manifest, settings)
    return manifest


def manifest_in(folder: Path) -> dict[str, Any] | None:
    """The manifest of the data set that is prepared in this folder; None where there is nothing yet.

    Where a run was killed after it had moved the folder aside, the folder is moved back first.

    Raises:
        InputError: the folder holds something else.
    """
    if not folder.exists() and _moved_aside(folder):
        with alone(folder.parent):  # or it would be taken away from a run that is just exchanging the two
            _move_back(folder)
    return _stated(folder)


def _stated(folder: Path) -> dict[str, Any] | None:
    """The manifest that stands there now."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(
            f"{folder} is a file; expected a folder for the prepared data set: {_remedy(folder)}"
        )
    if not any(folder.iterdir()):
        return None
    try:
        manifest: dict[str, Any] = json.loads((folder / schema.MANIFEST_FILE).read_text(encoding="utf-8"))
        kind = manifest["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is not empty and holds no prepared data set: {_remedy(folder)}"
        ) from error
    if kind != KIND:
        raise InputError(f"{folder} holds a {kind}, not a prepared data set: {_remedy(folder)}")
    return manifest


def check_same_settings(folder: Path, manifest: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse a folder that was prepared with other settings.

    Raises:
        InputError: it was; each that differs is named.
    """
    stated = with_defaults(manifest.get("settings", {}))
    differing = setting_differences(_effective(stated), _effective(settings))
    if differing:
        raise InputError(
            f"{folder} already holds another data set, prepared from the same input with other "
            f"settings ({', '.join(differing)}): {_remedy(folder)}"
        )


def _remedy(folder: Path) -> str:
    return f"choose another folder with prepared=..., or delete {folder}"


def stated_input(folder: Path) -> tuple[str, date, list[str] | None] | None:
    """The digest of what a folder was prepared from, when, and the log files that were appended one by one.

    None where it does not say.
    """
    file = folder / schema.MANIFEST_FILE
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        day = datetime.fromtimestamp(file.stat().st_mtime, UTC).date()
        log = manifest.get(LOG)
        return str(manifest["input_digest"]), day, log and [str(each["digest"]) for each in log]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_intact(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the tables in the folder are those that its manifest describes, in this version's format."""
    if manifest.get("format_version") != schema.FORMAT_VERSION or not manifest.keys() >= _REPORTED:
        return False
    if schema.changed_file(folder, manifest):
        return False
    try:
        digest = tables_digest(pq.read_table(folder / name) for name in _TABLES)
    except (OSError, pa.ArrowException):
        return False
    return bool(manifest["content_digest"] == digest)


def write_folder(
    folder: Path,
    tables: Tables,
    manifest: dict[str, Any],
    stands: dict[str, Any] | None,
    write_more: Callable[[Path], None] = lambda fresh: None,
) -> dict[str, Any]:
    """Write to a folder beside it, flush to disk, then rename; an older version of it is replaced.

    The older version is deleted only when the new one stands in its place. A hidden folder `.NAME.PID.new`
    that a killed run left is ignored.

    Args:
        folder: where it shall stand.
        tables: its tables.
        manifest: its manifest.
        stands: the manifest that was there when the work began.
        write_more: writes what else belongs into the folder, which it gets under its hidden name.

    Returns:
        The manifest as written: with the SHA-256 of both tables in `files`.

    Raises:
        InputError: another run has written the folder since, or it cannot be written.
    """
    stale = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    with _fresh_beside(folder) as fresh:
        _write_table(tables.sequences, fresh / schema.SEQUENCES_FILE)
        _write_table(tables.items, fresh / schema.ITEMS_FILE)
        write_more(fresh)
        manifest = {**manifest, "files": {name: schema.file_hash(fresh / name) for name in _TABLES}}
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        (fresh / schema.MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
        for path in (*fresh.rglob("*"), fresh):
            _flush(path)
        with alone(folder.parent):
            _move_back(folder)
            if _stated(folder) != stands:
                raise InputError(f"another run has changed {folder} meanwhile; run the command again")
            _exchange(folder, fresh, stale)
    for superseded in _moved_aside(folder):
        shutil.rmtree(superseded, ignore_errors=True)
    return manifest


@contextmanager
def _fresh_beside(folder: Path) -> Iterator[Path]:
    """An empty hidden folder, gone in the end unless it was moved; what the disk refuses is said."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}), and what stood there stands: make "
            "room, or choose another folder with prepared=..."
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _exchange(folder: Path, fresh: Path, stale: Path) -> None:
    """Put the fresh folder in the place of the one that stands, if one does, which becomes the stale one."""
    if folder.exists():
        folder.rename(stale)
    try:
        fresh.rename(folder)
    except BaseException:
        if stale.exists():
            stale.rename(folder)
        raise
    _flush(folder.parent)


def _moved_aside(folder: Path) -> list[Path]:
    """Older versions of a folder beside it, the newest last; `.out.eu.7.old` is one of `out.eu`."""
    own = re.compile(re.escape(f".{folder.name}.") + r"\d+\.old")
    found = [path for path in folder.parent.glob(".*.old") if own.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def _move_back(folder: Path) -> None:
    """Put the older version beside a missing folder, if there is one, in its place again."""
    if not folder.exists() and (aside := _moved_aside(folder)):
        aside[-1].rename(folder)


def _write_table(table: pa.Table, file: Path) -> None:
    pq.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _effective(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that shape the content: the input's digest stands for where the input is."""
    data = {
        key: value
        for key, value in settings.get("data", {}).items()
        if key not in ("path", "events", "items")
    }
    return {**settings, "data": data}
