"""Write the README's generated parts: `python -m tests.benchmarks.readme`.

Tables come from the .jsonl files beside this one, the configuration reference from `recsys.config`.
Each part stands between `<!-- NAME -->` and `<!-- end -->`; the suite checks that the README
holds what this would write. A table is named `table DATA`, `table DATA PROTOCOL` or
`table DATA PROTOCOL removed|kept`; without them it is of full ranking, seen items removed. Rows of two rules
never stand in one table. `ablation DATA MODEL`, such as `ablation ml-100k BERT4Rec`, is what
`tests.benchmarks.ablation` measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recsys.config import ExperimentConfig, sections_of
from tests.benchmarks import playlist_tables
from tests.benchmarks.ablation import AS_CONFIGURED
from tests.benchmarks.export_speed import RESULTS as EXPORT
from tests.benchmarks.export_speed import table as export_table
from tests.benchmarks.peers import LIBRARIES, MODELS
from tests.benchmarks.prepare_scale import RESULTS as SCALE
from tests.benchmarks.prepare_scale import table as scale_table
from tests.benchmarks.results import OURS, RESULTS, Row, read
from tests.benchmarks.serving_results import RESULTS as SERVING
from tests.benchmarks.serving_results import table as serving_table
from tests.benchmarks.text import RESULTS as TEXTS
from tests.benchmarks.text import cost_table
from tests.benchmarks.text import table as text_table
from tests.benchmarks.warm_start import RESULTS as WARM
from tests.benchmarks.warm_start import table as warm_table

README = Path(__file__).parents[2] / "README.md"
PLAYLISTS = ("spotify", "sample-playlists")
SPEED = Path(__file__).with_name("speed.jsonl")


def quality(rows: list[Row], data: str, protocol: str = "full", seen_items: str = "removed") -> str:
    """One line a model, the mean over its seeds, the best last; the newest settings of each model count.

    An encoder's line says by how much it beats the best counting model, in bold where the paired interval
    does not show that it does.

    Args:
        rows: of the results file, oldest first.
        data: name of the data set.
        protocol: full, pop-100 or uniform-100.
        seen_items: removed or kept.
    """
    asked = (data, protocol, seen_items)
    newest: dict[str, list[Row]] = {}
    for row in rows:
        if (row["data"], row["protocol"], row["seen_items"]) == asked and "ablation" not in row:
            same = newest.setdefault(_title(row), [])
            if same and _version(same[0]) != _version(row):
                same.clear()
            same.append(row)
    if not newest:
        raise SystemExit(f"results.jsonl has no row of {data}, {protocol}, seen items {seen_items}")
    head = (
        "| model | HR@10 | NDCG@10 | 95% of NDCG@10 | above the best floor | protocol | seen items | seeds |"
    )
    lines = [f"{head} training |", "|---|---|---|---|---|---|---|---|---|"]
    for title, same in sorted(newest.items(), key=lambda entry: _mean(entry[1], "ndcg@10")):
        seeds = str(len(same)) if same[0].get("best_epoch") else "none"
        cells = [title, _spread(same, "hr@10"), _spread(same, "ndcg@10"), _interval(same, "ndcg@10")]
        cells += [_above(same), protocol, seen_items, seeds, f"{mean(row['seconds'] for row in same):.0f} s"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _title(row: Row) -> str:
    """Ours by its name, others with their library's; figures that we did not measure say so."""
    model = row["model"] if row["library"] == OURS else f"{row['library']} {row['model']}"
    if str(row["settings"]).startswith("documented"):
        model += ", the library's own size"
    return model if row["digest"] else f"{model} (measured apart)"


def _version(row: Row) -> tuple[str, str | None]:
    return row["settings"], row["digest"]


def _mean(rows: list[Row], metric: str) -> float:
    return mean(float(row["metrics"][metric]["mean"]) for row in rows)


def _spread(rows: list[Row], metric: str) -> str:
    values = [row["metrics"][metric]["mean"] for row in rows]
    middle = f"{mean(values):.4f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.4f} to {max(values):.4f})"


def _interval(rows: list[Row], metric: str) -> str:
    """The interval over users, its ends averaged over the seeds."""
    found = [row["metrics"][metric] for row in rows]
    if any("low" not in value for value in found):
        return ""
    return f"{mean(value['low'] for value in found):.4f} to {mean(value['high'] for value in found):.4f}"


def _above(rows: list[Row]) -> str:
    """The paired interval of NDCG@10 minus the best floor's, its ends averaged over the seeds."""
    found = [row["above_floor"]["ndcg@10"] for row in rows if "above_floor" in row]
    if not found:
        return ""
    low, high = (mean(each[end] for each in found) for end in ("low", "high"))
    return f"{low:+.4f} to {high:+.4f}" if low > 0 else f"**not shown: {low:+.4f} to {high:+.4f}**"


def ablation(rows: list[Row], data: str, model: str, seen_items: str = "removed") -> str:
    """The newest recipe, and one line a change of it, what costs most first; bold where it is no chance.

    Args:
        rows: of the results file, oldest first.
        data: name of the data set.
        model: of the recipe, such as BERT4Rec.
        seen_items: removed or kept, of full ranking.
    """
    asked = (data, "full", seen_items)
    rows = [row for row in rows if (row["data"], row["protocol"], row["seen_items"]) == asked]
    variants = [row for row in rows if "ablation" in row and row["model"].startswith(f"{model}, ")]
    if not variants:
        raise SystemExit(f"results.jsonl has no ablation of {model} on {data}, seen items {seen_items}")
    newest, digest = variants[-1]["ablation"]["recipe"], variants[-1]["digest"]
    changed: dict[str, list[Row]] = {}
    for row in variants:
        if (row["ablation"]["recipe"], row["digest"]) == (newest, digest):
            changed.setdefault(row["ablation"]["variant"], []).append(row)
    recipe = changed.pop(AS_CONFIGURED, [])
    lines = ["| recipe | HR@10 | NDCG@10 | difference in NDCG@10 | its 95% interval | seeds | training |"]
    lines += ["|---|---|---|---|---|---|---|", _ablated(f"{model} {AS_CONFIGURED}", recipe, "", "")]
    for name, same in sorted(changed.items(), key=lambda entry: _difference(entry[1])["mean"]):
        found = _difference(same)
        sure = found["low"] > 0 or found["high"] < 0
        mean_text = f"**{found['mean']:+.4f}**" if sure else f"{found['mean']:+.4f}"
        lines.append(_ablated(name, same, mean_text, f"{found['low']:+.4f} to {found['high']:+.4f}"))
    return "\n".join(lines)


def _ablated(title: str, rows: list[Row], difference: str, interval: str) -> str:
    cells = [title, _spread(rows, "hr@10"), _spread(rows, "ndcg@10"), difference, interval]
    cells += [str(len(rows)), f"{mean(row['seconds'] for row in rows):.0f} s"]
    return f"| {' | '.join(cells)} |"


def _difference(rows: list[Row]) -> dict[str, float]:
    """The paired difference in NDCG@10 and the ends of its interval over users, averaged over the seeds."""
    found = [row["difference"]["ndcg@10"] for row in rows]
    return {name: mean(each[name] for each in found) for name in ("mean", "low", "high")}


def speed(rows: list[Row]) -> str:
    """One line a data set, model and precision; the newest run of each counts.

    Args:
        rows: of `training_speed`, oldest first.
    """
    newest = {(row["data"], row["model"]): row for row in rows}
    lines = ["| data, model | fastest public library | ours, fp32 | ours, bf16 | memory above imports |"]
    lines.append("|---|---|---|---|---|")
    for (data, model), row in newest.items():
        library, seconds, memory = row["library"], row["seconds"], row["rss_mb"]
        theirs = median(seconds[library])
        cells = [f"{data}, {MODELS[model]}", f"{LIBRARIES[library]} {theirs:.1f} s"]
        for precision in ("fp32", "bf16"):
            ours = median(seconds[precision])
            cells.append(f"{ours:.2f} s, **{theirs / ours:.1f} times as fast**")
        cells.append(f"{memory[library]:.0f} MB; ours {memory['fp32']:.0f} and {memory['bf16']:.0f} MB")
        lines.append(f"| {' | '.join(cells)} |")
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


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


PARTS: dict[str, Callable[[], str]] = {
    "reference": reference,
    **{f"probes {data}": partial(playlist_tables.probes, data) for data in PLAYLISTS},
    **{f"continuations {data}": partial(playlist_tables.continuations, data) for data in PLAYLISTS},
    **{f"diverse {data}": partial(playlist_tables.diverse, data) for data in PLAYLISTS},
    "playlist orders": playlist_tables.orders,
    "playlists scale": playlist_tables.scale,
    "serving": lambda: serving_table(_lines(SERVING)),
    "speed": lambda: speed(_lines(SPEED)),
    "texts": lambda: text_table(_lines(TEXTS)),
    "cost of texts": lambda: cost_table(_lines(TEXTS)),
    "export": lambda: export_table(_lines(EXPORT)),
    "prepare scale": lambda: scale_table(_lines(SCALE)),
    "warm start": lambda: warm_table(_lines(WARM)),
}
TABLES: dict[re.Pattern[str], Callable[..., str]] = {
    re.compile(r"table (\S+)(?: (full|pop-100|uniform-100))?(?: (removed|kept))?"): quality,
    re.compile(r"ablation (\S+) (\S+)(?: (removed|kept))?"): ablation,
}
"""What a table is named like -> what makes it of the rows and the words of its name."""


def rendered(text: str, results: Path = RESULTS) -> str:
    """A text with every generated part made anew.

    Raises:
        SystemExit: a part has no end, or no row of the results file belongs to it.
    """
    rows = read(results)

    def made(found: re.Match[str]) -> str:
        name = found["name"]
        tables = ((make, pattern.fullmatch(name)) for pattern, make in TABLES.items())
        asked = next(((make, table.groups()) for make, table in tables if table), None)
        part = asked[0](rows, *filter(None, asked[1])) if asked else PARTS[name]()
        if found["end"] is None:
            raise SystemExit(f"the part `{name}` has no `<!-- end -->`")
        return f"<!-- {name} -->\n{part}\n<!-- end -->"

    name = rf"(?P<name>{'|'.join([*PARTS, *(pattern.pattern for pattern in TABLES)])})"
    return re.sub(
        rf"<!-- {name} -->\n(?:(?:(?!<!-- ).)*?(?P<end><!-- end -->))?", made, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    README.write_text(rendered(README.read_text(encoding="utf-8")), encoding="utf-8")
