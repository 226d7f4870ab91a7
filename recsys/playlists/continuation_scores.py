"""How good continuations are: the measures of the RecSys Challenge 2018, and how varied the slates are.

Zamani et al., "An Analysis of Approaches Taken in the ACM RecSys Challenge 2018" (arXiv 1810.01520),
section 3; R-precision counts tracks alone.

Shapes: `B` playlists, `n` tracks of a slate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.playlists.embedding import unit
from recsys.sequences import Ragged

Floats = NDArray[np.float64]
Slates = NDArray[np.int64]

CLICK = 10
"""Tracks that one click of Spotify's refresh button shows."""
LONGEST = 500
"""A slate of the challenge; nothing right in it counts as 51 clicks."""


def hits(slates: Slates, targets: Ragged) -> NDArray[np.bool_]:
    """(B, n) whether each answer is one of the playlist's targets; 0, no answer, never is."""
    key = int(max(slates.max(initial=0), targets.values.max(initial=0))) + 1
    asked = slates + np.arange(len(slates))[:, None] * key
    wanted = targets.values.astype(np.int64) + targets.rows * key
    return np.isin(asked, wanted) & (slates > 0)


def r_precision(slates: Slates, targets: Ragged) -> Floats:
    """(B,) share of the R targets among the first R answers; slates must be as long as the most targets."""
    R = np.asarray([len(np.unique(targets[row])) for row in range(len(targets))])
    inside = np.arange(slates.shape[1]) < R[:, None]
    return np.asarray((hits(slates, targets) & inside).sum(axis=1) / R)


def ndcg(slates: Slates, targets: Ragged) -> Floats:
    """(B,) binary gain 1 / log2(1 + rank) over the whole slate, divided by the best there could be."""
    gains = 1 / np.log2(np.arange(slates.shape[1]) + 2)
    R = np.minimum([len(np.unique(targets[row])) for row in range(len(targets))], slates.shape[1])
    return np.asarray((hits(slates, targets) * gains).sum(axis=1) / np.cumsum(gains)[R - 1])


def clicks(slates: Slates, targets: Ragged) -> Floats:
    """(B,) refreshes of ten until the first right answer; 51 where there is none."""
    right = hits(slates, targets)
    return np.where(right.any(axis=1), right.argmax(axis=1) // CLICK, LONGEST // CLICK + 1).astype(np.float64)


def distinct(slates: Slates, groups: NDArray[np.int64]) -> Floats:
    """(B,) number of different groups (artists) in each slate."""
    return np.asarray([len(np.unique(groups[slate[slate > 0] - 1])) for slate in slates], dtype=np.float64)


def repetition(slates: Slates, groups: NDArray[np.int64]) -> Floats:
    """(B,) share of a slate's tracks whose group (artist) stands in it before."""
    return np.asarray(1 - distinct(slates, groups) / np.maximum((slates > 0).sum(axis=1), 1))


def intra_list_diversity(slates: Slates, table: NDArray[np.float32]) -> Floats:
    """(B,) mean of 1 - cosine over the pairs of a slate's tracks; 0 for a single one."""
    found = []
    for slate in slates:
        vectors = unit(table[slate[slate > 0] - 1]).astype(np.float64)
        m = len(vectors)
        among = np.square(vectors.sum(axis=0)).sum() - np.square(vectors).sum()  # ordered pairs
        found.append(1 - among / (m * (m - 1)) if m > 1 else 0.0)
    return np.asarray(found)
