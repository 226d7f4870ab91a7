"""Files that appear under their name complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_file(target: Path) -> Iterator[Path]:
    """A file beside `target` to write, which takes its name when all went well, and vanishes otherwise."""
    draft = draft_file(target.parent)
    try:
        yield draft
        put_in_place(draft, target)
    finally:
        draft.unlink(missing_ok=True)


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


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
