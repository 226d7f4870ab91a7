"""Progress for people: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def epoch_reporter(epochs: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A function to call after each epoch (from 1) with its metrics; it shows them on standard error."""
    if sys.stderr.isatty():
        with _bar("training", epochs) as advance:
            yield lambda epoch, metrics: advance(epoch, _words(metrics))
        return
    shown = -SECONDS_BETWEEN_LINES

    def line(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES or epoch == epochs:
            print(f"epoch {epoch}/{epochs}  {_words(metrics)}", file=sys.stderr, flush=True)
            shown = now

    yield line


@contextlib.contextmanager
def count_reporter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with (done, all), first with what is done already; it shows rate and time left."""
    with contextlib.ExitStack() as stack:
        advance: Callable[[int, str], None] | None = None
        before, started, shown = 0, 0.0, 0.0

        def report(done: int, total: int) -> None:
            nonlocal advance, before, started, shown
            now = time.monotonic()
            if not started:
                before, started, shown = done, now, now
                if sys.stderr.isatty():
                    advance = stack.enter_context(_bar(what, total))
            rate = (done - before) / max(now - started, 1e-9)
            if advance is not None:
                advance(done, f"{rate:,.0f}/s")
            elif now - shown >= SECONDS_BETWEEN_LINES:
                left = (total - done) / max(rate, 1e-9)
                print(
                    f"{what}: {done:,} of {total:,}, {rate:,.0f}/s, {left:,.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
                shown = now

        yield report


@contextlib.contextmanager
def byte_reporter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with how many bytes are there, and of how many (0: unknown)."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total or None)
        return
    shown = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES:
            of = f" of {total / 1e6:,.1f}" if total else ""
            print(f"{what}: {done / 1e6:,.1f}{of} MB", file=sys.stderr, flush=True)
            shown = now

    yield line


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, note="")
        yield lambda done, note: progress.update(task, completed=done, note=note)


def _words(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
