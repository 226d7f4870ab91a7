"""All sequences in memory as one ragged pair of arrays.

Shapes: `S` sequences, `E` events in all, `B` rows of a batch, `L` columns of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.schema import PAD


@dataclass(frozen=True)
class Ragged:
    """Sequences of item indices: sequence s is `values[offsets[s]:offsets[s + 1]]`.

    Attributes:
        values: (E,) int32 item indices.
        offsets: (S+1,) int64, from 0 to E, never falling.
        weights: (E,) float32 weight of each event as a target of training; None where all weigh 1.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, rows: Sequence[ArrayLike]) -> Ragged:
        """Ragged pair of a few plain rows."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        return cls(np.concatenate([*arrays, np.empty(0, np.int32)]), offsets)

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The sequences of all parts, in their order."""
        offsets = np.zeros(sum(map(len, parts)) + 1, dtype=np.int64)
        np.cumsum(np.concatenate([part.lengths for part in parts]), out=offsets[1:])
        weights = [part.weights for part in parts if part.weights is not None]
        weighted = np.concatenate(weights) if len(weights) == len(parts) else None
        return cls(np.concatenate([part.values for part in parts]), offsets, weighted)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(S,) events in each sequence."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(E,) the sequence that each event belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(E,) events that weigh more than 0."""
        return np.ones(len(self.values), dtype=np.bool_) if self.weights is None else self.weights > 0

    def up_to_counted(self) -> Ragged:
        """Each sequence up to its last event that weighs more than 0; as it is where none does."""
        if self.weights is None:
            return self
        places = np.arange(1, len(self.values) + 1) - self.offsets[self.rows]
        lengths = np.zeros(len(self), dtype=np.int64)
        np.maximum.at(lengths, self.rows, np.where(self.counted, places, 0))
        return self.first(np.where(lengths > 0, lengths, self.lengths))

    def slices(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Ragged:
        """Copy of `values[starts[i]:stops[i]]` for every i, as a ragged pair of its own (no Python loop)."""
        lengths = np.maximum(stops - starts, 0)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        weights = None if self.weights is None else self.weights[places]
        return Ragged(self.values[places], offsets, weights)

    def take(self, rows: ArrayLike) -> Ragged:
        """The sequences `rows`, in that order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return self.slices(self.offsets[chosen], self.offsets[chosen + 1])

    def first(self, lengths: ArrayLike) -> Ragged:
        """The first `lengths[s]` events of each sequence s (all of them where it has fewer)."""
        counts = np.minimum(np.asarray(lengths, dtype=np.int64), self.lengths)
        return self.slices(self.offsets[:-1], self.offsets[:-1] + counts)

    def last(self, length: int) -> Ragged:
        """The last `length` events of each sequence (all of them where it has fewer)."""
        return self.slices(np.maximum(self.offsets[:-1], self.offsets[1:] - length), self.offsets[1:])

    def padded(self, width: int | None = None) -> NDArray[np.int32]:
        """(S, L) matrix, padded on the left, so that the last event always stands in the last column.

        Args:
            width: number of columns L; older events beyond it are cut. Default: the longest sequence.
        """
        columns = int(self.lengths.max(initial=0)) if width is None else width
        places = self.offsets[1:, None] + np.arange(-columns, 0)
        inside = places >= self.offsets[:-1, None]
        matrix = np.full((len(self), columns), PAD, dtype=np.int32)
        matrix[inside] = self.values[places[inside]]
        return matrix


def shuffled(sequences: Ragged, rng: np.random.Generator) -> Ragged:
    """Each sequence's events in random order."""
    order = np.lexsort((rng.random(len(sequences.values)), sequences.rows))
    return Ragged(sequences.values[order], sequences.offsets)
