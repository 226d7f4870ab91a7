"""The page of a report: one HTML file without scripts, and without a request to any other host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml

from recsys.environment import Environment, TrainingRecord, environment
from recsys.models import ENCODERS
from recsys.report import charts, words
from recsys.report.content import SORTED_BY, Report
from recsys.report.examples import SHOWN_ITEMS

TEMPLATE = "page.html"
SIGN = str.maketrans("-", "\N{MINUS SIGN}")


def render(report: Report) -> str:
    """The whole page.

    Everything that comes from data, such as a title, is escaped by the template engine.
    """
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "figure": figure,
        "signed": signed,
        "plain": plain,
        "count": lambda value: f"{value:,}",
        "by_name": by_name,
    }
    page.filters |= filters
    return page.get_template(TEMPLATE).render(
        report=report,
        **_head(report),
        **_measured(report),
        **_training(report),
        **_data(report),
        **_made(report),
        explanations=words.explanations(report.evaluation),
    )


def figure(value: float) -> str:
    """A metric between 0 and 1; a dash where too few users leave a bound out."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.4f}"


def signed(value: float) -> str:
    """A difference of metrics, with a proper minus sign; what rounds to 0 has no sign."""
    if math.isnan(value):
        return "\N{EN DASH}"
    rounded = round(value, 4)
    return f"{rounded:+.4f}".translate(SIGN) if rounded else "0.0000"


def plain(value: float | None) -> str:
    """A number of any size in four figures; a dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{value:.4g}".translate(SIGN)


def by_name(metrics: Mapping[str, Any]) -> list[tuple[str, dict[int, Any]]]:
    """`hr@5`, `hr@10` ... as (`hr`, {5: ..., 10: ...}), in the order of their first appearance."""
    table: dict[str, dict[int, Any]] = {}
    for key, value in metrics.items():
        name, _, k = key.partition("@")
        table.setdefault(name, {})[int(k)] = value
    return list(table.items())


def _head(report: Report) -> dict[str, Any]:
    bundle = report.bundle
    name = bundle.config.model.name
    made = datetime.fromisoformat(bundle.manifest["created_at"]).strftime("made %Y-%m-%d %H:%M %Z")
    subtitle = [f"model version {bundle.model_version}", made, f"{len(bundle.vocabulary):,} items"]
    present = {
        "baselines": ("Baselines", bool(report.baselines)),
        "metrics": ("Metrics", bool(report.evaluation or bundle.manifest["metrics"])),
        "beyond": ("Beyond accuracy", report.evaluation is not None),
        "slices": ("Groups", report.evaluation is not None),
        "training": ("Training", bool(report.history)),
        "examples": ("Ten users", bool(report.examples)),
        "data": ("Data", True),
        "index": ("Index", True),
        "made": ("How it was made", True),
    }
    return {
        "title": f"{bundle.config.name} · {name}" + (" (final)" if report.final else ""),
        "subtitle": " · ".join(subtitle),
        "model": name,
        "headline": words.headline(report),
        "tiles": _tiles(report),
        "sections": [(anchor, title) for anchor, (title, there) in present.items() if there],
    }


def _tiles(report: Report) -> list[dict[str, str]]:
    if report.evaluation is None:
        return []
    metrics = report.evaluation["rows"]["all"]["metrics"]
    tiles = [
        {
            "name": key.upper(),
            "value": figure(metrics[key]["mean"]),
            "detail": f"{figure(metrics[key]['low'])} to {figure(metrics[key]['high'])}",
        }
        for key in ("hr@10", "ndcg@10")
    ]
    if report.baselines:
        difference = report.baselines[0].differences[SORTED_BY]
        detail = f"{signed(difference.low)} to {signed(difference.high)}, over the best baseline"
        tiles.append({"name": "Lead in NDCG@10", "value": signed(difference.mean), "detail": detail})
    coverage = report.evaluation["beyond"].get("coverage@10")
    if coverage is not None:
        items = f"of {len(report.bundle.vocabulary):,} items recommended to anybody"
        tiles.append({"name": "Coverage@10", "value": words.percent(coverage), "detail": items})
    return tiles


def _measured(report: Report) -> dict[str, Any]:
    """Tables of the evaluation, of the baselines beside it and of its slices."""
    evaluation = report.evaluation
    stored = _spaced(report.bundle.manifest["metrics"])
    if evaluation is None:
        return {"evaluation": None, "stored": stored, "stored_caption": words.stored(report)}
    hits = sum(user.hit for user in report.examples)
    return {
        "evaluation": evaluation,
        "stored": stored,
        "protocol": words.protocol(evaluation),
        "cold": words.cold_targets(report),
        "rows": [
            (words.ROWS.get(name, name), part)
            for name, part in evaluation["rows"].items()
            if name == "all" or evaluation["cold_targets"]
        ],
        "standings": _standings(report),
        "compared": words.best_of(report.baselines),
        "slices": [
            (name, _groups(groups)) for name, groups in evaluation["slices"].items() if len(groups) > 1
        ],
        "ungrouped": words.ungrouped(evaluation["slices"]),
        "examples_note": (
            f"Drawn at random: {hits} whose next item is among the first {SHOWN_ITEMS}, and "
            f"{len(report.examples) - hits} whose is not, whatever the shares among all users are. "
            "The item that came next is marked."
        ),
    }


def _standings(report: Report) -> list[dict[str, Any]]:
    """Rows of the table of baselines: the model first, then the baselines, best first."""
    evaluation = report.evaluation or {}
    whole = [evaluation["rows"]["all"]["metrics"]]
    whole += [
        {key: interval.to_json() for key, interval in each.evaluation.intervals.items()}
        for each in report.baselines
    ]
    limit = max(charts.reach(metrics[SORTED_BY]) for metrics in whole)
    own = {"name": report.bundle.config.model.name, "own": True, "metrics": whole[0]}
    rows: list[dict[str, Any]] = [own]
    for each, metrics in zip(report.baselines, whole[1:], strict=True):
        verdict, tone = words.verdict(each.differences[SORTED_BY])
        rows.append(
            {
                "name": each.name,
                "own": False,
                "metrics": metrics,
                "differences": each.differences,
                "verdict": verdict,
                "tone": tone,
            }
        )
    return [row | {"bar": charts.bar(row["metrics"][SORTED_BY], limit)} for row in rows]


def _groups(groups: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of one table of slices, with bars of one scale."""
    limit = max(charts.reach(group["metrics"]["hr@10"]) for group in groups.values())
    return [
        {
            "name": name,
            **group,
            "bar": charts.bar(group["metrics"]["hr@10"], limit),
        }
        for name, group in groups.items()
    ]


def _training(report: Report) -> dict[str, Any]:
    history = report.history
    drawn = {"loss": "training loss"} | {key: f"validation {key.upper()}" for key in ("ndcg@10", "hr@10")}
    curves = []
    for key, label in drawn.items():
        points = [(int(row["epoch"]), row[key]) for row in history if key in row]
        if points:
            falling = key == "loss"
            marked = points[-1] if falling else max(points, key=lambda point: point[1])
            word = "last" if falling else "best"
            plot = charts.curve(points, marked=marked, word=word, label=label, below=falling)
            curves.append({"label": label, "plot": plot})
    measured = report.measured or report.bundle
    best = measured.manifest["best_epoch"]
    note = f"{len(history)} epochs were run."
    if best is not None and report.measured is not None:
        note += f" The weights are those of epoch {best}, the one with the best validation NDCG@10."
    return {
        "curves": curves,
        "training_note": note,
        "history_keys": list(dict.fromkeys(key for row in history for key in row)),
    }


def _data(report: Report) -> dict[str, Any]:
    manifest = report.data.manifest
    split = manifest.get("split", {})
    rule = ", ".join(f"{key} {value}" for key, value in split.items() if key != "kind")
    how = str(split.get("kind", "not recorded")).replace("_", " ") + (f" ({rule})" if rule else "")
    counts = manifest.get("counts") or {
        "sequences": len(report.data.sequences),
        "items": len(report.data.vocabulary),
        "events": len(report.data.sequences.values),
    }
    return {
        "data_caption": f"Data set {manifest.get('name', report.bundle.config.name)}; split: {how}.",
        "counts": _spaced(counts),
        "leakage": manifest.get("leakage_check", []),
        "notices": manifest.get("notices", []),
    }


def _spaced(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with names for people: `test_targets` is `test targets`."""
    return {name.replace("_", " "): value for name, value in values.items()}


def _made(report: Report) -> dict[str, Any]:
    """How to make model and page again."""
    bundle = report.bundle
    page = environment()
    trainings = {"training": bundle.training}
    if report.measured is not None and report.measured is not bundle:
        trainings["run that chose the epochs"] = report.measured.training
    makers = {name: each.environment for name, each in trainings.items() if each} | {"this page": page}
    return {
        "trainings": [_told(name, each) for name, each in trainings.items()],
        "command": page.shell_line,
        "settings": yaml.safe_dump(bundle.config.to_record(), sort_keys=False, allow_unicode=True),
        "makers": list(makers),
        "versions": _side_by_side(list(makers.values())),
        "index_rows": dict(_index_rows(report)),
        "no_index": (
            "A model that only counts answers from its counts and needs no index."
            if bundle.manifest["model"] not in ENCODERS
            else "None was built: answers come from exact search. `recsys index` builds one."
        ),
    }


def _told(name: str, training: TrainingRecord | None) -> dict[str, str]:
    """One training: what to call it, its command, and a sentence about its time; empty where not recorded."""
    if training is None:
        return {"name": name, "command": "", "when": ""}
    started = training.started_at.strftime("%Y-%m-%d %H:%M:%S %Z")
    when = f"Started {started}; {training.seconds:,.1f} s of training and validation."
    return {"name": name, "command": training.environment.shell_line, "when": when}


def _side_by_side(makers: list[Environment]) -> dict[str, list[str]]:
    """Rows of the table of versions: name -> the version that each process ran, empty where it had none."""
    versions = [each.versions for each in makers]
    names = dict.fromkeys(name for each in versions for name in each)
    return {name: [each.get(name, "") for each in versions] for name in names}


def _index_rows(report: Report) -> Iterator[tuple[str, str]]:
    info = report.index
    if info is None:
        return
    yield "items", f"{info.count:,}"
    yield "dimensions", f"{info.dimension:,}"
    yield f"recall@{info.k} against exact search, on {info.queries:,} histories", f"{info.recall:.4f}"
    yield f"recall@{info.k} that was asked for", f"{info.asked_recall:g}"
    yield "median query, Annoy", f"{info.annoy_ms:.3f} ms"
    yield "median query, exact search", f"{info.exact_ms:.3f} ms"
    yield "faster where it was built", info.faster
    yield "searched with", info.backend
    yield "trees", f"{info.trees:,}"
    yield "nodes inspected (search_k)", f"{info.search_k:,}"
