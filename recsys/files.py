"""Files that appear under their name complete or not at all."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recsys.errors import InputError


@contextmanager
def written_file(target: Path) -> Iterator[Path]:
    """A file beside `target` to write, which takes its name when all went well, and vanishes otherwise."""
    draft = draft_file(target.parent)
    try:
        yield draft
        put_in_place(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def check_writable(target: Path) -> None:
    """Find out before the work, and not after it, whether `written_file` could write there.

    What stands there is left as it is.

    Raises:
        InputError: it could not.
    """
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder; name a file in it")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: there is no folder {target.parent}; make it")
    if target.exists() and not target.is_file():
        raise InputError(f"cannot write {target}: it is no regular file; name another")
    try:
        draft_file(target.parent).unlink()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {target}: no file can be made in {target.parent} ({reason}); name another folder"
        ) from error


def draft_file(folder: Path) -> Path:
    """An empty hidden file in a folder, for the content of one that is not there yet."""
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
    os.close(descriptor)
    return Path(name)


def put_in_place(draft: Path, target: Path) -> None:
    """Give a finished draft its name, in one step, and bring both to the disk; an older file is replaced."""
    draft.chmod(0o644)  # mkstemp's 0600 would keep a server under another user out
    fsync(draft)
    draft.replace(target)
    fsync(target.parent)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time go on in a folder; a file system without locks lets all."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
