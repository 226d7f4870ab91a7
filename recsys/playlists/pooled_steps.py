"""What the pooled encoder is trained on: playlists read whole or in part, in order or permuted, and masked.

Shapes: `B` playlists of a step, `E` tracks of all of them, `T` tracks of those that are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.objectives import cloze_mask
from recsys.sequences import Ragged

WHOLE, BEGINNING = 0.5, 0.25
"""Shares of the inputs that are whole playlists and beginnings; the rest are random parts in order."""
PART = (0.15, 0.85)
"""Share of a playlist that a beginning or a part keeps."""
PERMUTED = 1 / 3
MASKED = 0.5
"""Share of the inputs that some tracks are masked in."""
LAST_ONLY = 0.1
"""Share of the masked ones that hide their last track alone, which is how a continuation begins."""
READ_WEIGHT = 0.3
"""Weight of a track in the bag that stands in the input; one that does not has 1."""


@dataclass(frozen=True)
class PooledStep:
    """A step of training.

    Attributes:
        read: B ragged rows of what the encoder reads, T tracks or masks in all.
        masked: (T,) where it reads a mask.
        answers: (T,) int32 the track there.
        bag: B ragged rows, E tracks in all: the whole playlists.
        weights: (E,) float32 of each track in the bag; 1 in all for each playlist.
        permuted: (B,) whether the input is in another order than the playlist's own.
    """

    read: Ragged
    masked: NDArray[np.bool_]
    answers: NDArray[np.int32]
    bag: Ragged
    weights: NDArray[np.float32]
    permuted: NDArray[np.bool_]


def pooled_step(
    playlists: Ragged, *, mask: int, mask_prob: float, ordered: bool, rng: np.random.Generator
) -> PooledStep:
    """Draw a step's inputs and what is asked of them.

    Args:
        playlists: B ragged rows.
        mask: index of MASK.
        mask_prob: share of tracks hidden in a masked input.
        ordered: whether the order means something; if not, every input is shuffled.
        rng: the source of all draws.
    """
    B, rows = len(playlists), playlists.rows
    kept = _kept(playlists, rng)
    permuted = rng.random(B) < (PERMUTED if ordered else 1.0)
    places = np.flatnonzero(kept)
    keys = np.where(permuted[rows[places]], rng.random(len(places)), np.linspace(0, 1, len(places)))
    places = places[np.lexsort((keys, rows[places]))]
    lengths = np.bincount(rows[places], minlength=B)
    masked = cloze_mask(lengths, mask_prob=mask_prob, last_item_prob=LAST_ONLY, rng=rng)
    masked &= (rng.random(B) < MASKED)[rows[places]]
    answers = playlists.values[places]
    weights = np.where(kept, READ_WEIGHT, 1.0)
    weights[places[masked]] = 1.0
    weights /= np.bincount(rows, weights=weights)[rows]
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    read = Ragged(np.where(masked, mask, answers).astype(np.int32), offsets)
    return PooledStep(read, masked, answers, playlists, weights.astype(np.float32), permuted)


def _kept(playlists: Ragged, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(E,) which tracks are read: all, the first, or some; at least one of each playlist."""
    B, rows = len(playlists), playlists.rows
    place = np.arange(len(rows)) - playlists.offsets[:-1][rows]
    counts = np.maximum(np.rint(rng.uniform(*PART, B) * playlists.lengths), 1)
    rank = np.empty_like(place)
    rank[np.lexsort((rng.random(len(rows)), rows))] = place
    kind = rng.random(B)
    some = np.where((kind < WHOLE + BEGINNING)[rows], place, rank) < counts[rows]
    return np.asarray((kind < WHOLE)[rows] | some)
