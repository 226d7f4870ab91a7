"""Training batches cut by length and by a budget of tokens, without a Python loop over examples.

Shapes: `S` sequences, `W` windows, `B` rows of a batch, `L` its columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.sequences import Ragged

WIDTH_GROWTH = 1.25
"""Ratio between the widths of neighbouring length classes: padding stays below a fifth of a batch."""


def windows(sequences: Ragged, length: int, *, min_length: int = 2) -> Ragged:
    """W windows of at most `length` events that cover every sequence; a longer one gives several.

    Windows end at the end of the sequence and step back by half their length, so that every event has
    context on both sides in one of them; the oldest window starts at the beginning.

    Args:
        sequences: S ragged rows.
        length: most events of a window.
        min_length: shorter sequences give no window.
    """
    lengths = sequences.lengths
    step = max(length // 2, 1)
    older = np.ceil(np.maximum(lengths - length, 0) / step).astype(np.int64)
    counts = np.where(lengths < min_length, 0, 1 + older)
    rows = np.repeat(np.arange(len(sequences)), counts)
    back = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # windows behind the newest
    starts = np.maximum(sequences.offsets[rows + 1] - length - back * step, sequences.offsets[rows])
    stops = np.minimum(starts + length, sequences.offsets[rows + 1])
    return sequences.slices(starts, stops)


@dataclass(frozen=True)
class BatchPlan:
    """Which rows may share a batch. The number of batches is the same in every epoch.

    Attributes:
        rows: ragged windows to batch.
        groups: row numbers of each length class.
        sizes: rows of a batch in each length class.
    """

    rows: Ragged
    groups: list[NDArray[np.int64]]
    sizes: list[int]

    @classmethod
    def by_length(cls, rows: Ragged, token_budget: int) -> BatchPlan:
        """Classes of similar length; a batch holds as many rows as fit the budget at the class's width."""
        lengths = rows.lengths
        width = int(lengths.max(initial=1))
        groups, sizes = [], []
        while width > 0:
            below = min(int(width / WIDTH_GROWTH), width - 1)
            members = np.flatnonzero((lengths > below) & (lengths <= width))
            if len(members):
                groups.append(members)
                sizes.append(max(token_budget // width, 1))
            width = below
        return cls(rows, groups, sizes)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return sum(-(-len(group) // size) for group, size in zip(self.groups, self.sizes, strict=True))

    def epoch(self, rng: np.random.Generator) -> Iterator[NDArray[np.int32]]:
        """One pass in random order: item matrices (B, L), padded on the left, every row once."""
        batches = []
        for group, size in zip(self.groups, self.sizes, strict=True):
            shuffled = rng.permutation(group)
            # Even parts instead of full batches and a remainder: no step is much smaller than the others.
            batches.extend(np.array_split(shuffled, -(-len(group) // size)))
        for batch in rng.permutation(len(batches)):
            yield self.rows.take(batches[batch]).padded()
