"""Objectives of training: what an encoder reads, at which places it is asked, and for what.

Shapes: `B` sequences of a batch, `E` events of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.config import BERT4RecConfig, SASRecConfig
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
    """BERT4Rec's task: name the items that are hidden (section 3.6 of the paper).

    A share `prefix_prob` of the sequences is cut after a random item, which alone is hidden: the task at
    prediction time, at any point of the history.
    """
    prefix = rng.random(len(sequences)) < config.prefix_prob
    lengths = np.where(prefix, rng.integers(2, sequences.lengths + 1), sequences.lengths)
    sequences = sequences.first(lengths)
    asked = cloze_mask(
        lengths,
        mask_prob=config.mask_prob,
        last_only=prefix | (rng.random(len(sequences)) < config.last_item_prob),
        rng=rng,
    )
    read = np.where(asked, mask, sequences.values).astype(np.int32)
    return Examples(Ragged(read, sequences.offsets), asked, sequences.values)


def next_item(sequences: Ragged, config: SASRecConfig, mask: int, rng: np.random.Generator) -> Examples:
    """SASRec's task: name the item after each (section 3.5 of the paper); no draw is made."""
    ends = sequences.offsets[1:] - 1
    read = sequences.slices(sequences.offsets[:-1], ends)
    answers = sequences.slices(sequences.offsets[:-1] + 1, ends + 1)
    return Examples(read, np.ones(len(read.values), dtype=np.bool_), answers.values)


class Objective(NamedTuple):
    """A task.

    Attributes:
        make: (sequences of at least two items, the model's configuration, index of MASK, draws) -> examples.
        unread: items at the end of a sequence that are only asked for, beyond the positions of the model.
    """

    make: Callable[[Ragged, Any, int, np.random.Generator], Examples]
    unread: int


OBJECTIVES = {"bert4rec": Objective(cloze, unread=0), "sasrec": Objective(next_item, unread=1)}
"""Model -> what it is trained to do."""


def cloze_mask(
    lengths: NDArray[np.int64], *, mask_prob: float, last_only: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(E,) items to hide: some anywhere in most sequences, the last item alone in the others.

    As in the authors' code, a sequence of n items hides a fixed count of them, max(1, round(mask_prob * n)),
    chosen uniformly.

    Args:
        lengths: (B,) items of each sequence, at least 1.
        mask_prob: share of items to hide (rho).
        last_only: (B,) sequences that hide their last item alone, which is the task at prediction time.
        rng: the source of all draws.
    """
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(lengths)), lengths)
    shuffled = np.lexsort((rng.random(len(rows)), rows))  # rows stay in order, items within a row do not
    counts = np.maximum(np.rint(mask_prob * lengths), 1)
    mask = np.zeros(len(rows), dtype=np.bool_)
    mask[shuffled] = np.arange(len(rows)) - starts[rows] < counts[rows]
    mask[last_only[rows]] = False
    mask[(starts + lengths - 1)[last_only]] = True
    return mask
