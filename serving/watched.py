"""What is read from files while the endpoint runs: read again when it changes, kept when the new is bad."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from recsys.errors import InputError

T = TypeVar("T")
Seen = tuple[object, ...]
"""What a source looked like: equal as long as nothing changed."""

_LOG = logging.getLogger("recsys.serving")


class Watched(Generic[T]):
    """A value and where it comes from.

    Replacing the value is one assignment: who took it before keeps the old one, which goes when the last of
    them is done.

    Attributes:
        name: for logs and metrics.
        value: what is in force.
        problem: why the newest is not in force, or None.
        changes: values that were put in force after the first.
        refusals: sources that could not be read or were refused.
    """

    def __init__(self, name: str, look: Callable[[], Seen], load: Callable[[], T]) -> None:
        """Load the first value.

        Args:
            name: for logs and metrics.
            look: tells, cheaply, what the source looks like now.
            load: reads and checks it.

        Raises:
            InputError: the first value cannot be had.
        """
        self.name = name
        self._look = look
        self._load = load
        self._seen = look()
        self.value = load()
        self.problem: str | None = None
        self.changes = 0
        self.refusals = 0
        self._refusal: str | None = None

    def refresh(self) -> bool:
        """Look at the source; if it changed, load it, and put it in force if that went well. Never raises.

        What was refused is not tried again before it changes.

        Returns:
            Whether a new value is in force.
        """
        try:
            seen = self._look()
        except Exception as error:
            self._refused(error)
            return False
        if seen == self._seen:
            self.problem = self._refusal  # a source that was out of reach is there again
            return False
        self._seen = seen
        try:
            value = self._load()
        except Exception as error:
            self._refusal = self._refused(error)
            return False
        self.value = value
        self.problem = self._refusal = None
        self.changes += 1
        _LOG.info("%s changed", self.name, extra={"event": "changed", "what": self.name})
        return True

    def _refused(self, error: Exception) -> str:
        problem = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        if problem != self.problem:  # said once, not at every look
            extra = {"event": "refused", "what": self.name, "problem": problem}
            _LOG.error("%s refused, the former one stays: %s", self.name, problem, extra=extra)
            self.refusals += 1
        self.problem = problem
        return problem


class Watcher:
    """A thread for each of some watched values that refreshes it every so often, from `start` to `stop`.

    Each has its own, so that a revoked key need not wait until a large model is loaded.
    """

    def __init__(self, watched: Sequence[Watched[Any]], seconds: float) -> None:
        """Say what to watch.

        Args:
            watched: values.
            seconds: between two looks.
        """
        self._watched = watched
        self._seconds = seconds
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch, perhaps again."""
        self._stopped = threading.Event()
        for each in self._watched:
            name = f"watcher of {each.name}"
            threading.Thread(target=self._run, args=[each, self._stopped], name=name, daemon=True).start()

    def stop(self) -> None:
        """Watch no longer; a load under way is not waited for."""
        self._stopped.set()

    def _run(self, watched: Watched[Any], stopped: threading.Event) -> None:
        while not stopped.wait(self._seconds):
            watched.refresh()


def stamp(path: Path) -> Seen:
    """What a file, or everything in a folder, looks like: name, size, time of change and inode.

    Raises:
        InputError: there is nothing.
    """
    try:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        states = [(str(file), file.stat()) for file in files]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); put it back") from error
    return tuple((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states)
