"""Evaluation of a model on the targets of a split: full ranking, or against sampled negatives.

Shapes: `T` targets, `B` targets of a chunk, `V` items, `K` candidates of a sampled protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.dataset import PreparedData, Split, Targets
from recsys.errors import InputError
from recsys.metrics import METRICS, rank_counts
from recsys.models.popularity import item_counts
from recsys.models.protocol import CountingModel, Encoder, Model
from recsys.sequences import Ragged

Protocol = Literal["full", "pop-100", "uniform-100"]
Scorer = Callable[[Ragged], NDArray[np.float32]]
NEGATIVES = 100
CELLS_PER_CHUNK = 1 << 24
"""Scores held at once (64 MiB in float32): what bounds the memory of an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one split.

    Attributes:
        metrics: `hr@10` and so on, means over users.
        split: valid or test.
        protocol: full ranking, or 100 sampled negatives (never to be mixed in one table).
        exclude_seen: whether items of the history were taken out; a repeated target is then a miss.
        users: number of targets T.
        cold_targets: targets that never occur in training; they stay in.
    """

    metrics: dict[str, float]
    split: Split
    protocol: Protocol
    exclude_seen: bool
    users: int
    cold_targets: int

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for a JSON file."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A summary in plain text, one line for each cutoff."""
        seen = "removed" if self.exclude_seen else "kept"
        ranking = f"seen items {seen}" if self.protocol == "full" else "sampled negatives"
        head = (
            f"{self.split}, {self.protocol} ({ranking}): {self.users:,} targets, "
            f"{self.cold_targets:,} of them never seen in training"
        )
        return [head, *(f"  {line}" for line in metric_lines(self.metrics))]


def metric_lines(metrics: dict[str, float]) -> list[str]:
    """Metrics such as `hr@10` in plain text, one line for each cutoff."""
    cutoffs = dict.fromkeys(name.partition("@")[2] for name in metrics)
    return [
        "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(f"@{k}"))
        for k in cutoffs
    ]


def score_function(model: Model, device: str = "cpu") -> Scorer:
    """Dense scores of a model: B histories -> (B, V) float32, column j is item j+1."""
    if isinstance(model, CountingModel):
        return lambda histories: model.prior + model.scores(histories).toarray()
    table_VD = model.item_table().detach().to(device)

    def score(histories: Ragged) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors_BD = model.encode(encoder_input(model, histories, device))
            scores: NDArray[np.float32] = (vectors_BD @ table_VD.T).float().cpu().numpy()
        return scores

    return score


def encoder_input(model: Encoder, histories: Ragged, device: str = "cpu") -> torch.Tensor:
    """(B, L) int64 newest items of each history, padded on the left, L >= 1 also when all are empty."""
    newest = histories.last(model.max_history)
    matrix_BL = newest.padded(max(int(newest.lengths.max(initial=1)), 1))
    return torch.from_numpy(matrix_BL.astype(np.int64)).to(device)


def evaluate(
    score: Scorer,
    data: PreparedData,
    *,
    split: Split = "test",
    protocol: Protocol = "full",
    exclude_seen: bool = True,
    cutoffs: tuple[int, ...] = (5, 10, 20),
    seed: int = 0,
) -> Evaluation:
    """Metrics of a scorer on every target of a split.

    Args:
        score: dense scores of histories, see `score_function`.
        data: the prepared data set; histories hold only what comes before the target.
        split: valid or test.
        protocol: full catalogue, or the target against 100 negatives drawn by popularity (counts over all
            events, as BERT4Rec's authors draw them) or uniformly, never from the user's own sequence.
        exclude_seen: take the items of the history out of the full ranking.
        cutoffs: the k of the metrics.
        seed: seed of the sampled negatives.

    Raises:
        InputError: the split has no target, or the protocol is unknown or cannot draw its negatives.
    """
    if protocol not in get_args(Protocol):
        raise InputError(f"protocol `{protocol}` is unknown; known: {', '.join(get_args(Protocol))}")
    targets = data.targets(split)
    if not len(targets.rows):
        raise InputError(f"{data.path} has no {split} target; prepare it with a split that holds some out")
    counts = _ranks(score, data, targets, protocol, exclude_seen, np.random.default_rng(seed))
    above_T, level_T = counts
    trained_V = item_counts(data.training().values, len(data.vocabulary)) > 0
    return Evaluation(
        metrics={
            f"{name}@{k}": float(metric(above_T, level_T, k).mean())
            for name, metric in METRICS.items()
            for k in cutoffs
        },
        split=split,
        protocol=protocol,
        exclude_seen=exclude_seen,
        users=len(targets.rows),
        cold_targets=int((~trained_V[targets.items - 1]).sum()),
    )


def evaluate_bundle(
    bundle: Bundle,
    data: PreparedData,
    *,
    split: str = "test",
    protocol: str = "full",
    exclude_seen: bool = True,
) -> Evaluation:
    """Metrics of a bundle on a prepared data set that has its vocabulary; see `evaluate`.

    Raises:
        InputError: the bundle has seen the targets (`train --final`), or the split is unknown.
    """
    if split not in get_args(Split):
        raise InputError(f"split `{split}` is unknown; known: {', '.join(get_args(Split))}")
    if bundle.manifest["trained_on"] == "all":
        raise InputError(
            f"{bundle.folder} was fitted on all events, the {split} targets included (train --final): "
            "measuring it on them says nothing; evaluate the bundle of the run without --final"
        )
    score = score_function(bundle.model)
    return evaluate(
        score, data, split=cast(Split, split), protocol=cast(Protocol, protocol), exclude_seen=exclude_seen
    )


def chunks(targets: Targets, n_items: int) -> Iterator[NDArray[np.int64]]:
    """Places 0..T-1 in chunks of similar history length, each small enough to hold its dense scores."""
    order = np.argsort(targets.histories.lengths, kind="stable")
    size = int(np.clip(CELLS_PER_CHUNK // n_items, 1, 1024))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _ranks(
    score: Scorer,
    data: PreparedData,
    targets: Targets,
    protocol: Protocol,
    exclude_seen: bool,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    above_T = np.empty(len(targets.rows), dtype=np.int64)
    level_T = np.empty_like(above_T)
    weights_V = _sampling_weights(data, protocol)
    for places in chunks(targets, len(data.vocabulary)):
        histories = targets.histories.take(places)
        items_B = targets.items[places]
        scores_BV = score(histories)
        if weights_V is not None:
            own = data.sequences.take(targets.rows[places])
            candidates_BK = draw_negatives(weights_V, own, items_B, rng)
            scores_BV = np.take_along_axis(scores_BV, candidates_BK - 1, axis=1)
            items_B = np.ones_like(items_B)  # the target is the first candidate
        elif exclude_seen:
            scores_BV[histories.rows, histories.values - 1] = -np.inf
        above_T[places], level_T[places] = rank_counts(scores_BV, items_B)
    return above_T, level_T


def _sampling_weights(data: PreparedData, protocol: Protocol) -> NDArray[np.float64] | None:
    if protocol == "full":
        return None
    counts_V = item_counts(data.sequences.values, len(data.vocabulary)).astype(np.float64)
    return counts_V if protocol == "pop-100" else np.ones_like(counts_V)


def draw_negatives(
    weights_V: NDArray[np.float64], own: Ragged, targets_B: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int64]:
    """(B, 1+100) candidates: each target, then negatives without replacement, none of the user's own items.

    Drawn as the largest of log-weight + Gumbel noise, which is sampling without replacement in proportion
    to the weights.

    Raises:
        InputError: fewer than 100 items are left to draw from.
    """
    with np.errstate(divide="ignore"):
        keys_BV = np.log(weights_V) + rng.gumbel(size=(len(own), len(weights_V)))
    keys_BV[own.rows, own.values - 1] = -np.inf
    left_B = np.isfinite(keys_BV).sum(axis=1)
    if left_B.min(initial=NEGATIVES) < NEGATIVES:
        raise InputError(
            f"{NEGATIVES} negatives were asked for, but a user has only {left_B.min()} left to draw from; "
            "use --protocol full"
        )
    drawn_BK = np.argpartition(-keys_BV, NEGATIVES - 1, axis=1)[:, :NEGATIVES] + 1
    return np.concatenate([targets_B[:, None].astype(np.int64), drawn_BK], axis=1)
