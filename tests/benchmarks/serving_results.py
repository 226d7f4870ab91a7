"""What `serving_speed` measured, and the README's table of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("serving.jsonl")

Row = dict[str, Any]


def save(rows: list[Row], file: Path) -> None:
    """Add rows to a results file."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def table(rows: list[Row]) -> str:
    """One line a catalogue and way: p50, p99 and requests a second by number of clients; newest runs count.

    Args:
        rows: of the results file, oldest first.
    """
    newest = {(row["catalogue"], row["way"], row["clients"]): row for row in rows}
    clients = sorted({number for _, _, number in newest})
    heads = [f"{number} client{'s' * (number > 1)}" for number in clients]
    lines = [f"| catalogue | way | {' | '.join(heads)} | recall@10 |", "|---" * (len(clients) + 3) + "|"]
    for catalogue, way in dict.fromkeys((catalogue, way) for catalogue, way, _ in newest):
        found = [newest.get((catalogue, way, number)) for number in clients]
        cells = [
            f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f} ms, {row['per_second']:,.0f}/s" if row else ""
            for row in found
        ]
        recall = next(row["recall"] for row in found if row)
        cells.append("" if recall is None else f"{recall:.3f}")
        lines.append(f"| {catalogue} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)
