"""The metrics of each epoch, kept in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path

HISTORY_FILE = "history.jsonl"


def append_epoch(folder: Path, epoch: int, metrics: dict[str, float]) -> None:
    """Add a line for an epoch, from 1."""
    with (folder / HISTORY_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"epoch": epoch, **metrics}) + "\n")


def read_history(folder: Path) -> list[dict[str, float]]:
    """Metrics of each epoch of a run folder, the latest word on an epoch that was run twice."""
    file = folder / HISTORY_FILE
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row for _, row in sorted({int(row["epoch"]): row for row in rows}.items())]
