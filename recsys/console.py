"""What the command line prints and writes."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from recsys.files import check_writable, written_file

if TYPE_CHECKING:
    from recsys.answers import Recommendations
    from recsys.recommender import Recommender


def fail(message: str, code: int, debug: bool) -> None:
    """End the process with one line on standard error, after the traceback where that was asked for."""
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    sys.exit(code)


def usage(error: Any) -> str:  # noqa: ANN401 -- click's or typer's UsageError, by version
    """What is wrong with the arguments, in one line."""
    message = " ".join(error.format_message().split()).rstrip(".")
    remedy = f" (`{error.ctx.command_path} --help` shows what there is)" if error.ctx else ""
    return f"error: {message[:1].lower()}{message[1:]}{remedy}"


def say(line: str) -> None:
    """Print a line on standard output."""
    typer.echo(line)


def writable(file: Path | None) -> Path | None:
    """The file, if it can be written: to be found out before the work and not after it.

    Raises:
        InputError: it cannot.
    """
    if file:
        check_writable(file)
    return file


def readable_or_writable(file: Path | None) -> Path | None:
    """The file, if it is there to be read or can be written.

    Raises:
        InputError: neither.
    """
    return file if file and file.is_file() else writable(file)


def write_json(file: Path | None, content: dict[str, Any]) -> None:
    """Write a result, if a file was asked for."""
    if file:
        with written_file(file) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def show_answer(recommender: Recommender, history: list[int | str], answer: Recommendations) -> None:
    """History and answer as tables."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    titles = dict(zip(history, recommender.titles(history), strict=True))
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    shown = [
        f"{item_id} {titles[item_id] or ''}".strip() for item_id in history if item_id not in answer.unknown
    ]
    console.print("after: " + ", ".join(shown[-5:]) if shown else "after an empty history", markup=False)
    if answer.unknown:
        console.print(f"unknown, ignored: {', '.join(map(str, answer.unknown))}", markup=False)
    if answer.fallback:
        console.print(f"no known item in the history: this is {answer.fallback}", markup=False)
    table = Table("rank", "item", "title", "score", title=f"model version {answer.model_version}")
    for rank, item in enumerate(answer.items, start=1):
        # Text, not str: square brackets in a title are no markup.
        table.add_row(str(rank), Text(str(item.id)), Text(item.title or ""), f"{item.score:.4f}")
    console.print(table)
