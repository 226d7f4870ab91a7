"""Write the README's generated parts: `python -m tests.benchmarks.readme`.

Tables come from results.jsonl and the configuration reference from `recsys.config`. Each part stands between
`<!-- NAME -->` and `<!-- end -->`; the suite checks that the README holds what this would write.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recsys.config import ExperimentConfig, sections_of
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


def reference() -> str:
    """Every key of a configuration, its type, its default and what it does."""
    sections: list[tuple[str, type[BaseModel]]] = [("top level", ExperimentConfig)]
    for name, field in ExperimentConfig.model_fields.items():
        members = sections_of(field.annotation)
        for tag, member in members.items():
            sections.append((f"`{name}`" if len(members) == 1 else f"`{name}`: {tag}", member))
            sections += [
                (f"`{name}.{key}`", below)
                for key, inner in member.model_fields.items()
                for below in sections_of(inner.annotation).values()
            ]
    lines = []
    for title, section in sections:
        rows = [
            f"| `{key}` | {_shown(field)} | {field.description}{_choices(field)} |"
            for key, field in section.model_fields.items()
            if field.description
        ]
        summary = (section.__doc__ or "").strip().splitlines()[0]
        lines += ["", f"**{title}**: {summary}", ""]
        lines += ["| key | default | |", "|---|---|---|", *rows] if rows else ["No settings."]
    return "\n".join(lines[1:])


def _choices(field: FieldInfo) -> str:
    """The values that a field may have, where they are few."""
    if get_origin(field.annotation) is not Literal or len(get_args(field.annotation)) < 2:
        return ""
    return " (" + ", ".join(f"`{value}`" for value in get_args(field.annotation)) + ")"


def _shown(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory:
        return "see there"
    return "none" if field.default is None else f"`{field.default}`"


PARTS: dict[str, Callable[[], str]] = {
    "table ml-100k": lambda: leave_one_out("ml-100k"),
    "reference": reference,
}


def rendered(text: str) -> str:
    """The README with every generated part made anew."""
    for name, make in PARTS.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise SystemExit(f"README.md has no place for `{name}`")
        text = before + mark + make() + "\n" + end + after
    return text


def _mean(rows: list[dict[str, Any]], metric: str) -> float:
    return mean(float(row["metrics"][metric]) for row in rows)


def _spread(rows: list[dict[str, Any]], metric: str) -> str:
    values = [row["metrics"][metric] for row in rows]
    middle = f"{mean(values):.4f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    README.write_text(rendered(README.read_text(encoding="utf-8")), encoding="utf-8")
