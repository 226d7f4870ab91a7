"""Training batches without padding: sequences cut into windows and packed into rows.

Batches of similar length would cost about as much (BERT4Rec on Amazon Beauty: 156,672 columns for 150,258
events and 6.1 s of processor time an epoch, packed rows 164,288 and 6.0 s; on MovieLens 100K 96,840 and
1.9 s, packed 92,800 and 1.8 s; `python -m tests.benchmarks.packing`), but a step of short sequences alone is
another estimate of the gradient than one of long ones; packing lets any sequences share a step.

Shapes: `S` sequences, `W` windows, `B` sequences of a batch, `E` events of all of them, `R` rows, `L`
columns, `T` events that are asked, `Q` of a row at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.schema import PAD
from recsys.sequences import Ragged

COLUMN_STEP, ROW_STEP, PLACE_STEP = 8, 4, 32
"""Sizes of a step are multiples of these, so that few shapes occur: kernels are made and kept for each."""


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


def shuffled_batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The numbers 0..count-1 in random order, in even parts of at most `size`: no step is much smaller."""
    yield from np.array_split(rng.permutation(count), number_of_batches(count, size))


def number_of_batches(count: int, size: int) -> int:
    """Parts that `shuffled_batches` gives."""
    return -(-count // size)


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


@dataclass(frozen=True)
class Packed:
    """Where the events of B sequences stand in R rows of L columns.

    Attributes:
        places: (E,) row * L + column of every event, in the order of the sequences.
        shape: R, L.
        lengths: (B,) events of each sequence.
    """

    places: NDArray[np.int64]
    shape: tuple[int, int]
    lengths: NDArray[np.int64]

    @classmethod
    def rows(cls, lengths: NDArray[np.int64]) -> Packed:
        """Lay out sequences of these lengths, all at least 1, in rows about as wide as the longest.

        Each row begins with the longest sequence left and is filled up with the shortest that fit. The loop
        is over rows, not over sequences.
        """
        order = np.argsort(-lengths, kind="stable")
        longest_first = lengths[order]
        width = _rounded(int(longest_first[0]), COLUMN_STEP)
        shortest = np.cumsum(longest_first[::-1])  # events of the 1, 2, ... shortest sequences
        row, column = np.empty_like(lengths), np.zeros_like(lengths)
        first, stop, taken, count = 0, len(lengths), 0, 0
        while first < stop:
            free = width - longest_first[first]
            fits = min(int(np.searchsorted(shortest, taken + free, side="right")), len(lengths) - first - 1)
            fillers = slice(len(lengths) - fits, stop)
            row[first] = row[fillers] = count
            if fits > len(lengths) - stop:
                ends = longest_first[first] + np.cumsum(longest_first[fillers])
                column[fillers] = ends - longest_first[fillers]
                taken, stop = int(shortest[fits - 1]), fillers.start
            first, count = first + 1, count + 1
        begin = np.empty_like(lengths)
        begin[order] = row * width + column
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(np.repeat(begin, lengths) + within, (_rounded(count, ROW_STEP), width), lengths)

    def spread(self, values: NDArray[np.integer], fill: int = PAD) -> NDArray[np.int64]:
        """(R, L) int64 matrix with the values (E,) at their places."""
        matrix = np.full(self.shape, fill, dtype=np.int64)
        matrix.reshape(-1)[self.places] = values
        return matrix

    def asking(self, asked: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the T events `asked` (E,) stand among those of their rows.

        Returns:
            (R, Q) their columns, each row filled up with column 0, and (T',) row * Q + number of each, filled
            up with 0. All columns in order where a row is asked nearly everywhere.
        """
        rows, columns = np.divmod(self.places[asked], self.shape[1])
        counts = np.bincount(rows, minlength=self.shape[0])
        filled = np.zeros(_rounded(len(rows), PLACE_STEP), dtype=np.int64)
        width = _rounded(int(counts.max()), COLUMN_STEP)
        if width >= self.shape[1]:
            filled[: len(rows)] = self.places[asked]
            return np.tile(np.arange(self.shape[1]), (self.shape[0], 1)), filled
        order = np.argsort(rows, kind="stable")
        numbers = np.empty_like(rows)
        numbers[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = rows * width + numbers
        asking = np.zeros((self.shape[0], width), dtype=np.int64)
        asking.reshape(-1)[places] = columns
        filled[: len(rows)] = places
        return asking, filled

    def positions(self, ahead: NDArray[np.int64]) -> NDArray[np.int64]:
        """(R, L) distance of each event from `ahead` (B,) places behind its sequence; 0 at padding."""
        ends = np.repeat(np.cumsum(self.lengths) + ahead, self.lengths)
        return self.spread(ends - 1 - np.arange(len(self.places)), 0)

    def marked(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(R, L) whether an event belongs to a sequence that is marked (B,)."""
        return self.spread(np.repeat(rows, self.lengths), 0).astype(np.bool_)

    def owners(self) -> NDArray[np.int64]:
        """(R, L) which sequence each event belongs to; -1 at padding."""
        return self.spread(np.repeat(np.arange(len(self.lengths)), self.lengths), -1)
