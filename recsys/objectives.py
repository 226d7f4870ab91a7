"""Objectives of training: what an encoder reads, at which places it is asked, and for what.

Shapes: `B` sequences of a batch, `E` events of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.config import BERT4RecConfig, RecformerConfig, SASRecConfig
from recsys.schema import PAD
from recsys.sequences import Ragged


@dataclass(frozen=True)
class Examples:
    """A batch of sequences before it is laid out.

    Attributes:
        read: B ragged rows of what the encoder reads, E items in all.
        asked: (E,) bool, the places where it is asked.
        answers: (E,) int32, the right item there; anything at the other places.
        causal: (B,) bool, sequences whose places see only themselves and what came before.
        ahead: (B,) int64, places behind the last item that positions are counted from: where an encoder that
            is asked at an appended MASK reads a sequence without it.
        weights: (E,) float32, weight of the loss there; None where all weigh 1.
    """

    read: Ragged
    asked: NDArray[np.bool_]
    answers: NDArray[np.int32]
    causal: NDArray[np.bool_]
    ahead: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None

    @classmethod
    def alike(
        cls,
        read: Ragged,
        asked: NDArray[np.bool_],
        answers: NDArray[np.int32],
        weights: NDArray[np.float32] | None = None,
        *,
        causal: bool,
        ahead: int = 0,
    ) -> Examples:
        """Sequences that are all read in the same way."""
        return cls(read, asked, answers, np.full(len(read), causal), np.full(len(read), ahead), weights)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The sequences of all parts, in their order."""
        weighted = all(part.weights is not None for part in parts)
        names = ("asked", "answers", "causal", "ahead", *(["weights"] if weighted else []))
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(read=Ragged.joined([part.read for part in parts]), **arrays)

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """The sequences `rows`, in that order."""
        places = Ragged(np.arange(len(self.asked), dtype=np.int32), self.read.offsets).take(rows).values
        weights = None if self.weights is None else self.weights[places]
        return Examples(
            self.read.take(rows),
            self.asked[places],
            self.answers[places],
            self.causal[rows],
            self.ahead[rows],
            weights,
        )

    @property
    def weight(self) -> float:
        """Sum of the weights of the places asked: their number where all weigh 1."""
        return float(self.asked.sum() if self.weights is None else self.weights[self.asked].sum())


def bert4rec(sequences: Ragged, config: BERT4RecConfig, mask: int, rng: np.random.Generator) -> Examples:
    """Cloze samples, and a share `next_item_prob` of next-item samples read by the same encoder."""
    causal = rng.random(len(sequences)) < config.next_item_prob
    hidden = cloze(
        sequences.take(np.flatnonzero(~causal)),
        mask_prob=config.mask_prob,
        last_item_prob=config.last_item_prob,
        mask=mask,
        rng=rng,
    )
    if not causal.any():
        return hidden
    return Examples.joined([hidden, next_item(sequences.take(np.flatnonzero(causal)), ahead=1)])


def sasrec(sequences: Ragged, config: SASRecConfig, mask: int, rng: np.random.Generator) -> Examples:
    """Next-item samples; no draw is made."""
    return next_item(sequences)


def cloze(
    sequences: Ragged, *, mask_prob: float, last_item_prob: float, mask: int, rng: np.random.Generator
) -> Examples:
    """BERT4Rec's task: name the items that are hidden (section 3.6 of the paper).

    Events of weight 0 are read and never hidden; a sequence ends at its last event that weighs more.
    """
    sequences = sequences.up_to_counted()
    asked = cloze_mask(
        sequences.lengths,
        mask_prob=mask_prob,
        last_item_prob=last_item_prob,
        rng=rng,
        counted=None if sequences.weights is None else sequences.counted,
    )
    read = np.where(asked, mask, sequences.values).astype(np.int32)
    return Examples.alike(
        Ragged(read, sequences.offsets), asked, sequences.values, sequences.weights, causal=False
    )


def next_item(sequences: Ragged, *, ahead: int = 0) -> Examples:
    """SASRec's task: name the item after each (section 3.5 of the paper), if it weighs more than 0."""
    ends = sequences.offsets[1:] - 1
    read = sequences.slices(sequences.offsets[:-1], ends)
    answers = sequences.slices(sequences.offsets[:-1] + 1, ends + 1)
    return Examples.alike(read, answers.counted, answers.values, answers.weights, causal=True, ahead=ahead)


def after_prefix(sequences: Ragged, config: RecformerConfig, mask: int, rng: np.random.Generator) -> Examples:
    """Recformer's task: name the item after a prefix of random length, in pre-training at least half of it.

    Where that event weighs 0 the next one that weighs more is asked for. Some items of the prefix become PAD,
    which the model reads as an item without a text.
    """
    sequences = sequences.up_to_counted()
    first = 1 if config.objective == "finetune" else np.maximum((sequences.lengths - 1) // 2, 1)
    starts, size = sequences.offsets[:-1], len(sequences.values)
    counted_at = np.where(sequences.counted, np.arange(size), size)
    targets = np.minimum.accumulate(counted_at[::-1])[::-1][starts + rng.integers(first, sequences.lengths)]
    read = sequences.first(targets - starts)
    ends = read.offsets[1:] - 1
    asked = np.zeros(len(read.values), dtype=np.bool_)
    asked[ends] = True
    answers = np.zeros(len(asked), dtype=np.int32)
    answers[ends] = sequences.values[targets]
    weights = None
    if sequences.weights is not None:
        weights = np.zeros(len(asked), dtype=np.float32)
        weights[ends] = sequences.weights[targets]
    hidden = rng.random(len(asked)) < config.unknown_prob
    read = Ragged(np.where(hidden, PAD, read.values).astype(np.int32), read.offsets)
    return Examples.alike(read, asked, answers, weights, causal=True)


class Objective(NamedTuple):
    """A task.

    Attributes:
        make: (sequences of at least two items, the model's configuration, index of MASK, draws) -> examples.
        unread: items at the end of a sequence that are only asked for, beyond the positions of the model.
    """

    make: Callable[[Ragged, Any, int, np.random.Generator], Examples]
    unread: int


OBJECTIVES = {
    "bert4rec": Objective(bert4rec, unread=0),
    "sasrec": Objective(sasrec, unread=1),
    "recformer": Objective(after_prefix, unread=1),
}
"""Model -> what it is trained to do."""


def cloze_mask(
    lengths: NDArray[np.int64],
    *,
    mask_prob: float,
    last_item_prob: float,
    rng: np.random.Generator,
    counted: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """(E,) items to hide: some anywhere in most sequences, the last item alone in the others.

    As in the authors' code, a sequence of n items hides a fixed count of them, max(1, round(mask_prob * n)),
    chosen uniformly; with probability `last_item_prob` it hides its last item alone, which is the task at
    prediction time.

    Args:
        lengths: (B,) items of each sequence, at least 1.
        mask_prob: share of items to hide (rho).
        last_item_prob: share of sequences that hide the last item alone.
        rng: the source of all draws.
        counted: (E,) items that may be hidden, n being their number in a sequence, the last item among them;
            None for all.
    """
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(lengths)), lengths)
    # rows stay in order, items within a row do not: first those that may be hidden
    shuffled = np.lexsort((rng.random(len(rows)), *([] if counted is None else [~counted]), rows))
    eligible = lengths if counted is None else np.bincount(rows[counted], minlength=len(lengths))
    counts = np.maximum(np.rint(mask_prob * eligible), 1)
    mask = np.zeros(len(rows), dtype=np.bool_)
    mask[shuffled] = np.arange(len(rows)) - starts[rows] < counts[rows]
    last_only = rng.random(len(lengths)) < last_item_prob
    mask[last_only[rows]] = False
    mask[(starts + lengths - 1)[last_only]] = True
    return mask
