"""What a report says in words about its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recsys.bootstrap import Interval
from recsys.models import ANSWERS_SEEN, COUNTING
from recsys.report.content import SORTED_BY, Baseline, Report

EXPLANATIONS = {
    "hr": "share of users whose next item is among the first k",
    "ndcg": "1 / log2(1 + rank) of the next item, 0 beyond k: how far up it stands",
    "mrr": "1 / rank of the next item, 0 beyond k",
    "recall": "share of a user's held-out items among the first k",
    "precision": "share of the first k that are held-out items",
    "map": "precision at each held-out item found, averaged",
    "coverage": "share of the catalogue that is recommended to anybody",
    "gini": "how unevenly recommendations fall on items: 0 all alike, 1 one item takes all",
    "novelty": "mean surprise of a recommended item in bits, -log2 of its share of training events",
    "popularity_lift": "how much more popular recommended items are than those of the histories: 0 equally, "
    "1 twice as much",
    "diversity": "1 - mean cosine of two items of a list: 0 all the same",
    "repeat_rate": "share of recommended items that the user had before",
}

GROUPS = {
    "item popularity": "head items hold half of the training events, torso items the next 30%, tail items "
    "the rest",
    "history length": "events before the target",
    "target item": "warm occurs in training, cold does not",
    "user": "a warm user has training events, a cold one has none",
}

ROWS = {"all": "all targets", "trained targets": "only targets that occur in training"}


def headline(report: Report) -> list[str]:
    """The result in sentences, the first one for a reader of one sentence."""
    if report.evaluation is None:
        return _stored_headline(report)
    whole = report.evaluation["rows"]["all"]
    hit = whole["metrics"]["hr@10"]
    lines = [
        f"For {percent(hit['mean'])} of {whole['users']:,} users the next item is among the first 10 "
        f"recommendations (95% interval {percent(hit['low'])} to {percent(hit['high'])})."
    ]
    if report.baselines:
        best = report.baselines[0]
        other = "other " if report.bundle.config.model.name in COUNTING else ""
        share = percent(best.evaluation.metrics["hr@10"])
        lines.append(
            f"The best {other}model that only counts ({best.name}) finds it for {share} of them. "
            f"{_compared(best.differences[SORTED_BY])}"
        )
    return lines


def explanations(evaluation: Mapping[str, Any] | None) -> dict[str, str]:
    """Name of a metric, a property or a slicing -> one line about it."""
    lines = EXPLANATIONS | GROUPS
    if evaluation and evaluation["diversity_by"]:
        whose = (
            "their attributes" if evaluation["diversity_by"] == "attributes" else "the model's own vectors"
        )
        lines["diversity"] += f"; by {whose}"
    return lines


def protocol(evaluation: Mapping[str, Any]) -> str:
    """How the ranking was made, in words."""
    seen = (
        "items of the history taken out of the ranking (a repeated target is then a miss)"
        if evaluation["exclude_seen"]
        else "items of the history kept in the ranking"
    )
    ranking = (
        "full ranking" if evaluation["protocol"] == "full" else f"ranking against {evaluation['protocol']}"
    )
    return f"{evaluation['split'].capitalize()} targets, {ranking}, {seen}"


def cold_targets(report: Report) -> str:
    """What became of targets that training never saw, and of repeated ones."""
    evaluation = report.evaluation or {}
    cold, users = evaluation["cold_targets"], evaluation["users"]
    lines = [
        f"{cold:,} of {users:,} targets never occur in training; they stay in the first table"
        f"{'' if evaluation['scores_cold'] else ' as misses'}, and the second leaves them out."
        if cold
        else f"Each of the {users:,} targets occurs in training: the row without cold targets is the same."
    ]
    if report.repeats:
        fate = "which makes it a miss" if evaluation["exclude_seen"] else "and may be recommended again"
        lines.append(
            f"For {percent(report.repeats)} of users the target is an item of their history, {fate}."
        )
    return " ".join(lines)


def stored(report: Report) -> str:
    """How the figures came about that a bundle carries, where nothing can be measured anew."""
    seen = "kept" if report.bundle.config.model.name in ANSWERS_SEEN else "removed"
    return (
        f"As the run that chose the epochs measured them, full ranking, seen items {seen}; without intervals."
    )


def ungrouped(slices: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence about slicings that have all users in one group; empty where there are none."""
    alike = [f"by {name} all are {next(iter(parts))}" for name, parts in slices.items() if len(parts) == 1]
    return f"No table where there is but one group: {', '.join(alike)}." if alike else ""


def verdict(difference: Interval) -> tuple[str, str]:
    """A paired difference in words, and its tone: `good`, `bad` or `soft`."""
    if difference.low > 0:
        return "the model is better", "good"
    if difference.high < 0:
        return "the baseline is better", "bad"
    return "no difference can be shown", "soft"


def best_of(baselines: list[Baseline]) -> list[Baseline]:
    """The best baseline and plain popularity: the scale for properties that have no good or bad end."""
    return baselines[:1] + [each for each in baselines[1:] if each.name == "popularity"]


def percent(value: float) -> str:
    """A share as a percentage of three figures or so; a dash where there is none."""
    if math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:.1%}" if value >= 0.001 or value == 0 else f"{value:.3%}"


def _compared(difference: Interval) -> str:
    """A sentence; an interval on one side of 0 is given without signs, as the word says them."""
    mean, low, high = difference.mean, difference.low, difference.high
    if math.isnan(low):
        return f"The difference in NDCG@10 is {mean:+.4f}, of too few users for an interval."
    if low > 0:
        interval = f"(95% interval {low:.4f} to {high:.4f})"
        return f"The model ranks better: its NDCG@10 is higher by {mean:.4f} {interval}."
    if high < 0:
        interval = f"(95% interval {-high:.4f} to {-low:.4f})"
        return f"The model ranks worse: its NDCG@10 is lower by {-mean:.4f} {interval}."
    return (
        "The two rankings cannot be told apart: the difference in NDCG@10 is "
        f"{mean:+.4f} (95% interval {low:+.4f} to {high:+.4f})."
    )


def _stored_headline(report: Report) -> list[str]:
    hit = report.bundle.manifest["metrics"].get(f"{report.split}_hr@10")
    if hit is None:
        return []
    return [
        f"In the run that chose the epochs, the next item was among the first 10 recommendations for "
        f"{percent(hit)} of users."
    ]
