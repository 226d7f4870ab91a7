"""Write the README's tables from results.jsonl: `python -m tests.benchmarks.tables [--check]`.

Each table stands between `<!-- table NAME -->` and `<!-- end -->`. With --check nothing is written, and the
exit code is 1 when a table in the README is not what the results say.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

from tests.benchmarks.leave_one_out import read_results

README = Path(__file__).parents[2] / "README.md"


def leave_one_out(data: str) -> str:
    """One line a model, the mean over its seeds; the newest settings of each model count."""
    newest: dict[str, list[dict[str, Any]]] = {}
    for row in (row for row in read_results() if row["data"] == data):
        rows = newest.setdefault(row["model"], [])
        if rows and rows[0]["settings"] != row["settings"]:
            rows.clear()
        rows.append(row)
    lines = ["| model | HR@10 | NDCG@10 | seeds | training |", "|---|---|---|---|---|"]
    for model, rows in sorted(newest.items(), key=lambda entry: _mean(entry[1], "test_ndcg@10")):
        hr, ndcg = _spread(rows, "test_hr@10"), _spread(rows, "test_ndcg@10")
        seeds = str(len(rows)) if rows[0]["best_epoch"] else "none"
        lines.append(
            f"| {model} | {hr} | {ndcg} | {seeds} | {mean(r['train_seconds'] for r in rows):.0f} s |"
        )
    return "\n".join(lines)


LEAVE_ONE_OUT = ("ml-100k",)


def rendered(text: str) -> str:
    """The README with every table made anew."""
    for name in LEAVE_ONE_OUT:
        before, mark, rest = text.partition(f"<!-- table {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise SystemExit(f"README.md has no place for table {name}")
        text = before + mark + leave_one_out(name) + "\n" + end + after
    return text


def _mean(rows: list[dict[str, Any]], metric: str) -> float:
    return mean(float(row["metrics"][metric]) for row in rows)


def _spread(rows: list[dict[str, Any]], metric: str) -> str:
    values = [row["metrics"][metric] for row in rows]
    middle = f"{mean(values):.4f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    before = README.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in sys.argv:
        sys.exit(before != after)
    README.write_text(after, encoding="utf-8")
