"""The floor table of a data set: every counting model on its targets, in seconds, before anything is trained.

A trained model that does not beat the best of them has learned nothing that counting does not know. Ranking
is full, by the sparse scores themselves, so that no (B, V) matrix of scores is made.

Shapes: `T` targets, `B` targets of a chunk, `V` items.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.config import (
    CategoryPopularityConfig,
    ItemKNNConfig,
    MarkovConfig,
    ModelConfig,
    PopularityConfig,
    RecentPopularityConfig,
    ReplayConfig,
    TextKNNConfig,
)
from recsys.dataset import PreparedData, Split, Targets
from recsys.metrics import BEYOND, hit_rate, ndcg
from recsys.models import ANSWERS_SEEN, fit_counting, scores_cold
from recsys.models.category_popularity import category_column
from recsys.models.popularity import item_counts
from recsys.models.protocol import CountingModel
from recsys.models.sparse import rank_counts_sparse
from recsys.models.text_knn import has_words
from recsys.text.attributes import can_be_text, own_columns

FLOORS: dict[str, ModelConfig] = {
    "popularity": PopularityConfig(),
    "recent popularity, 7 days": RecentPopularityConfig(),
    "Markov chain, order 1": MarkovConfig(),
    "Markov chain, order 2": MarkovConfig(order=2),
    "Markov chain, order 3": MarkovConfig(order=3),
    "item-kNN, last item": ItemKNNConfig(),
    "item-kNN, whole history": ItemKNNConfig(history="all"),
    "item-kNN, recent history": ItemKNNConfig(history="recent"),
    "history replay": ReplayConfig(),
}
"""Label -> settings of every counting model that the table tries; a new one is added here."""

TEXT_FLOORS: dict[str, ModelConfig] = {
    "popularity by category": CategoryPopularityConfig(),
    "text-kNN": TextKNNConfig(),
}
"""The same of those that read the item table, for data that has categories and text."""

K = 10
ENTRIES_PER_CHUNK = 1 << 22
"""Scores of a chunk, were all of them stored: what bounds the memory."""


@dataclass(frozen=True)
class Floor:
    """One counting model on one split.

    Attributes:
        label: its name in the table.
        config: its settings, for `model` in a configuration.
        removed: `hr@10` and `ndcg@10` with the history's items taken out of the ranking; None for a model
            that answers with these alone.
        kept: the same with them in the ranking; None where it was not asked for.
        fit_seconds: time to count.
        seconds: time to score and to rank, under all rules together.
    """

    label: str
    config: ModelConfig
    removed: dict[str, float] | None
    kept: dict[str, float] | None
    fit_seconds: float
    seconds: float


@dataclass(frozen=True)
class FloorTable:
    """Every counting model that the data allows, and which of them is the floor to beat.

    Attributes:
        data: folder of the prepared data set.
        digest: hash of its content.
        split: valid or test.
        users: targets T.
        cold_targets: targets that never occur in training; they stay in, as misses of who reads no text.
        repeated_targets: targets that their own history holds: misses where seen items are removed.
        floors: in the order of `floors_for`.
    """

    data: str
    digest: str
    split: Split
    users: int
    cold_targets: int
    repeated_targets: int
    floors: list[Floor]

    def best(self, *, keep_seen: bool = False) -> Floor | None:
        """The floor with the highest NDCG@10 under a rule for seen items; None where it was not measured."""
        measured = [floor for floor in self.floors if _metrics(floor, keep_seen) is not None]
        return max(measured, key=lambda floor: (_metrics(floor, keep_seen) or {})[f"ndcg@{K}"], default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for a JSON file."""
        rows = [
            {
                "label": floor.label,
                "model": floor.config.model_dump(mode="json"),
                "seen removed": floor.removed,
                "seen kept": floor.kept,
                "fit_seconds": round(floor.fit_seconds, 3),
                "seconds": round(floor.seconds, 3),
            }
            for floor in self.floors
        ]
        best = {rule: self.best(keep_seen=keep) for rule, keep in RULES.items()}
        return {
            "data": self.data,
            "content_digest": self.digest,
            "split": self.split,
            "protocol": "full",
            "users": self.users,
            "cold_targets": self.cold_targets,
            "repeated_targets": self.repeated_targets,
            "rows": rows,
            "to_beat": {rule: floor.label for rule, floor in best.items() if floor},
        }

    def lines(self) -> list[str]:
        """The table in plain text, and a sentence for each rule."""
        head = (
            f"{self.data}: {self.split}, full ranking, {self.users:,} targets, {self.cold_targets:,} never "
            f"seen in training (misses without text), {self.repeated_targets:,} in their own history"
        )
        rules = {rule: keep for rule, keep in RULES.items() if self.best(keep_seen=keep)}
        titles = "".join(f"{f'{name}, {rule}':>24}" for rule in rules for name in (f"HR@{K}", f"NDCG@{K}"))
        lines = [head, f"{'':26}{titles}{'fit s':>8}{'rank s':>8}"]
        for floor in self.floors:
            cells = "".join(
                f"{'-' if found is None else format(found[name], '.4f'):>24}"
                for found in (_metrics(floor, keep) for keep in rules.values())
                for name in (f"hr@{K}", f"ndcg@{K}")
            )
            lines.append(f"{floor.label:26}{cells}{floor.fit_seconds:8.2f}{floor.seconds:8.2f}")
        return lines + [self._sentence(rule, keep) for rule, keep in rules.items()]

    def _sentence(self, rule: str, keep_seen: bool) -> str:
        best = self.best(keep_seen=keep_seen)
        assert best is not None
        found = _metrics(best, keep_seen) or {}
        note = ""
        if not keep_seen and self.repeated_targets:
            note = f"; the {self.repeated_targets:,} repeated targets are misses for every model"
        return (
            f"the floor to beat with {rule} is {best.label}: "
            f"HR@{K} {found[f'hr@{K}']:.4f}, NDCG@{K} {found[f'ndcg@{K}']:.4f}{note}"
        )


RULES = {"seen removed": False, "seen kept": True}


def _metrics(floor: Floor, keep_seen: bool) -> dict[str, float] | None:
    return floor.kept if keep_seen else floor.removed


def floors_for(data: PreparedData) -> dict[str, ModelConfig]:
    """The models of `FLOORS` and `TEXT_FLOORS` that have what they need: times, categories, text."""
    lacking = set()
    if data.times is None:
        lacking.add("recent_popularity")
    if category_column(data.items) is None:
        lacking.add("category_popularity")
    textual = [name for name in own_columns(data.items) if can_be_text(data.items[name].type)]
    if not has_words(data.items, textual):
        lacking.add("text_knn")
    return {label: config for label, config in (FLOORS | TEXT_FLOORS).items() if config.name not in lacking}


def measure_floors(
    data: PreparedData, split: Split = "test", *, say: Callable[[str], None] = lambda line: None
) -> FloorTable:
    """Fit and measure every counting model on the targets of a split.

    Models are fitted to the training part alone. Where any target is an item of its own history, they rank
    with these items too. A model that the data does not allow is left out, see `floors_for`; so is
    replay without such targets.

    Args:
        data: the prepared data set.
        split: valid or test.
        say: called with a line for each model.

    Raises:
        InputError: the split has no target.
    """
    targets = data.asked_targets(split)
    n_items, training, times = len(data.vocabulary), data.training(), data.training_times()
    repeated = int(targets.repeated().sum())
    cold = item_counts(training.values, n_items)[targets.items - 1] == 0
    floors = []
    for label, config in floors_for(data).items():
        answers_seen = config.name in ANSWERS_SEEN
        if answers_seen and not repeated:
            continue
        say(f"measuring {label}")
        started = time.perf_counter()
        model = fit_counting(config, training, times, n_items, data.items)
        fitted = time.perf_counter()
        rules = [keep for keep in RULES.values() if (repeated if keep else not answers_seen)]
        missed = np.zeros_like(cold) if scores_cold(config) else cold
        found = _measure(model, targets, rules, missed)
        seconds = time.perf_counter() - fitted
        floors.append(Floor(label, config, found.get(False), found.get(True), fitted - started, seconds))
    return FloorTable(
        data=str(data.path),
        digest=data.digest,
        split=split,
        users=len(targets.rows),
        cold_targets=int(cold.sum()),
        repeated_targets=repeated,
        floors=floors,
    )


def _measure(
    model: CountingModel, targets: Targets, rules: list[bool], cold: NDArray[np.bool_]
) -> dict[bool, dict[str, float]]:
    """HR@10 and NDCG@10, means over users, by whether seen items are kept; scored once for all rules.

    Targets that are `cold`, without a training event, are misses.
    """
    n_targets, n_items = len(targets.rows), len(model.prior)
    above = {keep_seen: np.empty(n_targets, dtype=np.int64) for keep_seen in rules}
    level: dict[bool, NDArray[np.int64]] = {keep: np.empty_like(each) for keep, each in above.items()}
    ordered = np.sort(model.prior)
    size = int(np.clip(ENTRIES_PER_CHUNK // n_items, 16, 512))
    for start in range(0, n_targets, size):
        places = np.arange(start, min(start + size, n_targets))
        histories = targets.histories.take(places)
        scores = model.scores(histories)
        for keep in rules:
            above[keep][places], level[keep][places] = rank_counts_sparse(
                model.prior,
                scores,
                targets.items[places],
                None if keep else histories,
                ordered_prior=ordered,
            )
    for each in above.values():
        each[cold] = BEYOND
    for each in level.values():
        each[cold] = 1
    return {
        keep: {
            f"hr@{K}": float(hit_rate(above[keep], level[keep], K).mean()),
            f"ndcg@{K}": float(ndcg(above[keep], level[keep], K).mean()),
        }
        for keep in rules
    }
