"""Objectives of training: what an encoder reads, at which places it is asked, and for what.

Shapes: `B` sequences of a batch, `E` events of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """

    read: Ragged
    asked: NDArray[np.bool_]
    answers: NDArray[np.int32]

    def take(self, rows: NDArray[np.int64]) -> Examples:
        """The sequences `rows`, in that order."""
        places = Ragged(np.arange(len(self.asked), dtype=np.int32), self.read.offsets).take(rows).values
        return Examples(self.read.take(rows), self.asked[places], self.answers[places])


def cloze(sequences: Ragged, config: BERT4RecConfig, mask: int, rng: np.random.Generator) -> Examples:
    """BERT4Rec's task: name the items that are hidden (section 3.6 of the paper)."""
    asked = cloze_mask(
        sequences.lengths, mask_prob=config.mask_prob, last_item_prob=config.last_item_prob, rng=rng
    )
    read = np.where(asked, mask, sequences.values).astype(np.int32)
    return Examples(Ragged(read, sequences.offsets), asked, sequences.values)


def next_item(sequences: Ragged, config: SASRecConfig, mask: int, rng: np.random.Generator) -> Examples:
    """SASRec's task: name the item after each (section 3.5 of the paper); no draw is made."""
    ends = sequences.offsets[1:] - 1
    read = sequences.slices(sequences.offsets[:-1], ends)
    answers = sequences.slices(sequences.offsets[:-1] + 1, ends + 1)
    return Examples(read, np.ones(len(read.values), dtype=np.bool_), answers.values)


def after_prefix(sequences: Ragged, config: RecformerConfig, mask: int, rng: np.random.Generator) -> Examples:
    """Recformer's task: name the item after a prefix of random length, in pre-training at least half of it.

    Some items of the prefix become PAD, which the model reads as an item without a text.
    """
    first = 1 if config.objective == "finetune" else np.maximum((sequences.lengths - 1) // 2, 1)
    lengths = rng.integers(first, sequences.lengths)
    targets = sequences.values[sequences.offsets[:-1] + lengths]
    prefixes = sequences.first(lengths)
    asked = np.zeros(len(prefixes.values), dtype=np.bool_)
    answers = np.zeros(len(asked), dtype=np.int32)
    asked[prefixes.offsets[1:] - 1] = True
    answers[prefixes.offsets[1:] - 1] = targets
    hidden = rng.random(len(asked)) < config.unknown_prob
    read = np.where(hidden, PAD, prefixes.values).astype(np.int32)
    return Examples(Ragged(read, prefixes.offsets), asked, answers)


class Objective(NamedTuple):
    """A task.

    Attributes:
        make: (sequences of at least two items, the model's configuration, index of MASK, draws) -> examples.
        unread: items at the end of a sequence that are only asked for, beyond the positions of the model.
    """

    make: Callable[[Ragged, Any, int, np.random.Generator], Examples]
    unread: int


OBJECTIVES = {
    "bert4rec": Objective(cloze, unread=0),
    "sasrec": Objective(next_item, unread=1),
    "recformer": Objective(after_prefix, unread=1),
}
"""Model -> what it is trained to do."""


def cloze_mask(
    lengths: NDArray[np.int64], *, mask_prob: float, last_item_prob: float, rng: np.random.Generator
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
    """
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(lengths)), lengths)
    shuffled = np.lexsort((rng.random(len(rows)), rows))  # rows stay in order, items within a row do not
    counts = np.maximum(np.rint(mask_prob * lengths), 1)
    mask = np.zeros(len(rows), dtype=np.bool_)
    mask[shuffled] = np.arange(len(rows)) - starts[rows] < counts[rows]
    last_only = rng.random(len(lengths)) < last_item_prob
    mask[last_only[rows]] = False
    mask[(starts + lengths - 1)[last_only]] = True
    return mask
