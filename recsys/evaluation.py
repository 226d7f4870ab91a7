"""Evaluation of a model on the targets of a split: full ranking, or against sampled negatives.

Shapes: `T` users that have a target, `E` targets of all of them, `V` items.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from recsys.beyond import Features, attribute_features, beyond_accuracy, vector_features
from recsys.bootstrap import Bootstrap, Interval
from recsys.bundle import Bundle
from recsys.cold import Candidates, asked_among, candidate_mask, trained_metrics
from recsys.config import ExperimentConfig
from recsys.dataset import PreparedData, Split, split_named
from recsys.encoding import item_vectors
from recsys.errors import InputError
from recsys.measured import model_for
from recsys.metrics import LARGEST_CUTOFF, user_metrics
from recsys.models import ANSWERS_SEEN, check_has_answers, scores_cold
from recsys.models.popularity import item_counts
from recsys.models.protocol import Encoder, Model
from recsys.protocols import Protocol, rank_sampled, stored_negatives
from recsys.ranking import Scorer, chunks, rank_all, score_function
from recsys.sequences import Ragged
from recsys.slices import Slices, user_slices

__all__ = [
    "Evaluation",
    "Protocol",
    "Scorer",
    "chunks",
    "evaluate",
    "evaluate_bundle",
    "metric_lines",
    "score_function",
]

Floats = NDArray[np.float64]
CUTOFFS = (5, 10, 20)
ALL = "all"
TRAINED = "trained targets"


@dataclass(frozen=True)
class Evaluation:
    """What one model reached on one split.

    HR, NDCG and MRR ask for the next item; Recall, Precision and MAP for all items that the user has in the
    split (full ranking; sampled protocols ask for the next item alone). Definitions: `recsys.metrics`.

    Attributes:
        split: valid or test.
        protocol: full ranking, or 100 sampled negatives (never to be mixed in one table).
        candidates: what was ranked, see `recsys.cold`; users whose next item is no candidate are left out.
        exclude_seen: whether items of the history were taken out; a repeated target is then a miss. Sampled
            negatives are never of the user's own, and the target always stays.
        cutoffs: the k.
        seed: of sampled negatives and of the intervals' resamples.
        seconds: wall time of ranking and measuring, without the intervals.
        rows: (T,) the users' rows in the prepared data's sequences.
        data_digest: of the prepared data.
        asked_digest: SHA-256 of the users' rows and their targets.
        per_user: by metric (`hr@10`), (T,) values aligned with `rows`.
        trained: the same of the users whose next item occurs in training, other targets that do not left out.
        slices: (T,) masks by slicing and slice, see `recsys.slices`.
        beyond: measures of the lists, see `recsys.beyond`; empty for sampled protocols, which have no lists.
        diversity_by: what diversity is measured with: `attributes`, `vectors` (the model's own), or None.
        cold_targets: users whose next item never occurs in training; they stay in.
        scores_cold: whether the model may hit them; otherwise they are misses.
        zero_shot: why the data is taken for another catalogue than the model was trained on; None where it is
            that one.
    """

    split: Split
    protocol: Protocol
    candidates: Candidates
    exclude_seen: bool
    cutoffs: tuple[int, ...]
    seed: int
    seconds: float
    rows: NDArray[np.int64]
    data_digest: str
    asked_digest: str
    per_user: dict[str, Floats]
    trained: dict[str, Floats]
    slices: Slices
    beyond: dict[str, float | None]
    diversity_by: str | None
    cold_targets: int
    scores_cold: bool
    zero_shot: str | None = None

    @property
    def users(self) -> int:
        """Number of users T, each with one next item."""
        return len(self.rows)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """`hr@10` and so on, means over all users."""
        return {name: float(values.mean()) for name, values in self.per_user.items()}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Means over all users with 95% bootstrap intervals over users."""
        return self._bootstrap.intervals()

    def to_json(self, absent: float | None = None) -> dict[str, Any]:
        """Plain dictionary for a JSON file, with the intervals of all rows and slices.

        Args:
            absent: what stands for the bounds of an interval that there is not, for want of users.
        """
        rows = {ALL: _row(self.intervals, self.users, absent)}
        if trained := len(next(iter(self.trained.values()))):
            rows[TRAINED] = _row(Bootstrap(self.trained, self.seed).intervals(), trained, absent)
        return {
            "split": self.split,
            "protocol": self.protocol,
            "candidates": self.candidates,
            "exclude_seen": self.exclude_seen,
            "seed": self.seed,
            "users": self.users,
            "cold_targets": self.cold_targets,
            "scores_cold": self.scores_cold,
            "zero_shot": self.zero_shot,
            "seconds": round(self.seconds, 3),
            "cutoffs": list(self.cutoffs),
            "metrics": self.metrics,
            "rows": rows,
            "beyond": self.beyond,
            "diversity_by": self.diversity_by,
            "slices": {
                name: {
                    part: _row(self._bootstrap.intervals(mask), int(mask.sum()), absent)
                    for part, mask in parts.items()
                }
                for name, parts in self.slices.items()
            },
        }

    def lines(self) -> list[str]:
        """A summary in plain text, one line for each cutoff."""
        seen = "removed" if self.exclude_seen else "kept"
        ranked = "" if self.candidates == "all" else f"{self.candidates} items alone, "
        ranking = f"{ranked}seen items {seen}" if self.protocol == "full" else "sampled negatives"
        head = (
            f"{self.split}, {self.protocol} ({ranking}): {self.users:,} targets, {self.cold_targets:,} of "
            f"them never seen in training{'' if self.scores_cold else ' (misses)'}; {self.seconds:.1f} s"
        )
        lines = [head, *(f"  {line}" for line in metric_lines(self.metrics))]
        if self.cold_targets and len(next(iter(self.trained.values()))):
            lines.append("  without targets never seen in training:")
            means = {name: float(values.mean()) for name, values in self.trained.items()}
            lines += [f"  {line}" for line in metric_lines(means)]
        if self.beyond:
            lines.append("  the lists:")
            lines += [f"  {line}" for line in metric_lines(self.beyond)]
        if self.zero_shot:
            lines.append(f"note: zero-shot, as on another catalogue: {self.zero_shot}")
        return lines

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        return Bootstrap(self.per_user, self.seed)


def metric_lines(metrics: Mapping[str, float | None]) -> list[str]:
    """Metrics such as `hr@10` in plain text, one line for each cutoff; what is None is left out."""
    cutoffs = dict.fromkeys(name.partition("@")[2] for name in metrics)
    return [
        "  ".join(
            f"{name} {value:.4f}"
            for name, value in metrics.items()
            if value is not None and name.endswith(f"@{k}")
        )
        for k in cutoffs
    ]


def evaluate(
    model: Model | Scorer,
    data: PreparedData,
    *,
    split: Split = "test",
    protocol: Protocol = "full",
    exclude_seen: bool = True,
    cutoffs: tuple[int, ...] = CUTOFFS,
    seed: int = 0,
    negatives: Path | None = None,
    scores_cold: bool = False,
    candidates: str = "all",
) -> Evaluation:
    """Measure a model on every target of a split.

    Args:
        model: an encoder or counting model, or its dense scores (see `score_function`).
        data: the prepared data set; histories hold only what comes before the target.
        split: valid or test.
        protocol: full catalogue, or the next item against 100 negatives drawn by popularity or uniformly, see
            `recsys.protocols`.
        exclude_seen: take the items of the history out of the full ranking.
        cutoffs: the k of the metrics.
        seed: seed of the sampled negatives and of the intervals.
        negatives: file to take the sampled negatives from, or to write them to where there is none.
        scores_cold: whether the model knows something of items without a training event, as by their text.
            One that learns from events alone does not, and is not credited for such a target.
        candidates: `all`, or rank only the items with (`warm`) or without (`cold`) a training event.

    Raises:
        InputError: the split has no target, or the protocol is unknown or cannot draw its negatives, or the
            negatives in the file are not these; or scores are NaN or of another shape.
    """
    _check(protocol, cutoffs, negatives, candidates)
    started = time.perf_counter()
    counts_V = item_counts(data.training().values, len(data.vocabulary))
    cold_V, allowed_V = counts_V == 0, candidate_mask(candidates, counts_V)
    targets, asked = asked_among(data.asked_targets(split), data.split_items(split), allowed_V, candidates)
    beyond: dict[str, float | None] = {}
    diversity_by = None
    if protocol == "full":
        k = max(cutoffs)
        rules: dict[str, Any] = {"exclude_seen": exclude_seen, "allowed_V": allowed_V}
        ranks = rank_all(model, targets, asked, n_items=len(counts_V), k=k, **rules)
        diversity_by, features = _features(model, data)
        beyond = beyond_accuracy(ranks.lists, targets.histories, counts_V, features, cutoffs)
    else:
        asked = Ragged(targets.items, np.arange(len(targets.rows) + 1))
        ranks = rank_sampled(model, data, split, stored_negatives(negatives, data, split, protocol, seed))
    if not scores_cold:
        ranks = ranks.missing(cold_V[asked.values - 1])
    return Evaluation(
        split=split,
        protocol=protocol,
        candidates=cast(Candidates, candidates),
        exclude_seen=exclude_seen,
        cutoffs=cutoffs,
        seed=seed,
        rows=targets.rows,
        data_digest=data.digest,
        asked_digest=_digest(targets.rows, asked.offsets, asked.values),
        per_user=user_metrics(ranks.above, ranks.level, ranks.offsets, cutoffs),
        trained=trained_metrics(ranks, asked, counts_V, cutoffs),
        slices=user_slices(data, targets, counts_V),
        beyond=beyond,
        diversity_by=diversity_by,
        cold_targets=int(cold_V[targets.items - 1].sum()),
        scores_cold=scores_cold,
        seconds=time.perf_counter() - started,
    )


def evaluate_bundle(
    bundle: Bundle,
    data: PreparedData,
    *,
    split: str = "test",
    protocol: str = "full",
    exclude_seen: bool = True,
    cutoffs: tuple[int, ...] = CUTOFFS,
    seed: int = 0,
    negatives: Path | None = None,
    candidates: str = "all",
) -> Evaluation:
    """Measure a bundle on the prepared data set that it was trained on; see `evaluate`.

    A model that reads text is measured on any other catalogue too, which it encodes first.

    Raises:
        InputError: the bundle has seen the targets (`train --final`, `training.fit`), was trained on other
            data of the same items, or has nothing to say under `exclude_seen`, or the split is unknown.
    """
    part = split_named(split)
    model, zero_shot = model_for(bundle, data, part)
    check_has_answers(bundle.config.model.name, exclude_seen=exclude_seen and protocol == "full")
    found = evaluate(
        model,
        data,
        split=part,
        protocol=cast(Protocol, protocol),
        exclude_seen=exclude_seen,
        cutoffs=cutoffs,
        seed=seed,
        negatives=negatives,
        scores_cold=scores_cold(bundle.config.model),
        candidates=candidates,
    )
    return replace(found, zero_shot=zero_shot)


def removes_seen(config: ExperimentConfig) -> bool:
    """Whether items of the history are taken out where nobody says: not where targets are of some types only.

    What one has looked at is what one buys. A model that answers with seen items alone keeps them too.
    """
    return config.model.name not in ANSWERS_SEEN and config.split.targets is None


def _check(protocol: str, cutoffs: tuple[int, ...], negatives: Path | None, candidates: str) -> None:
    if protocol not in get_args(Protocol):
        raise InputError(f"protocol `{protocol}` is unknown; known: {', '.join(get_args(Protocol))}")
    if not cutoffs or min(cutoffs) < 1 or max(cutoffs) > LARGEST_CUTOFF:
        raise InputError(f"cutoffs are {cutoffs}; expected one or more numbers from 1 to {LARGEST_CUTOFF:,}")
    if candidates != "all" and protocol != "full":
        raise InputError(f"--candidates {candidates} is of the full ranking; {protocol} draws its own")
    if negatives is not None and protocol == "full":
        raise InputError(
            f"the full ranking has no sampled negatives to keep in {negatives}; name a sampled protocol "
            "(--protocol pop-100 or uniform-100), or leave --negatives out"
        )


def _features(model: Model | Scorer, data: PreparedData) -> tuple[str | None, Features | None]:
    """What diversity is measured with: attributes, equal for all models, or else the model's own vectors."""
    attributes = attribute_features(data.items)
    if attributes is not None:
        return "attributes", attributes
    if isinstance(model, Encoder):
        return "vectors", vector_features(item_vectors(model))
    return None, None


def _row(intervals: dict[str, Interval], users: int, absent: float | None) -> dict[str, Any]:
    return {"users": users, "metrics": {name: each.to_json(absent) for name, each in intervals.items()}}


def _digest(*arrays: NDArray[np.integer[Any]]) -> str:
    """SHA-256 of whole numbers, whatever their width."""
    return hashlib.sha256(b"".join(each.astype("<i8").tobytes() for each in arrays)).hexdigest()
