"""Probes: what frozen playlist vectors know, by logistic regression in five folds (scikit-learn).

Papreja et al. 2019, section 5. Vectors are standardised and nothing is added to them; every probe reads the
same ones. A playlist's examples stand in one fold. Spread is the standard deviation over the folds, chance is
what always naming the largest class gives.

Shapes: `S` playlists, `D` width, `n` examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.encoding import item_vectors
from recsys.models.protocol import Encoder
from recsys.playlists.embedding import embed
from recsys.playlists.labels import Labels
from recsys.sequences import Ragged, shuffled

FOLDS = 5
LENGTH_BINS = 5
SHORTEST, LONGEST, BIN = 30, 250, 20
"""The paper's own bins of length, asked besides where playlists are as long."""
MOST_LABELS = 6
"""Playlists of more labels than this are one class of the diversity probe."""
LEAST_MEMBERS = 2 * FOLDS
"""A class with fewer examples is left out: some fold would hardly have it."""
STRENGTH = 0.1
"""Inverse of the regression's penalty; the same for all encoders and probes."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of a probe.

    Attributes:
        name: which.
        accuracy: mean over the folds.
        spread: standard deviation over the folds.
        chance: share of the largest class.
        classes: number of classes.
        examples: number of examples n.
    """

    name: str
    accuracy: float
    spread: float
    chance: float
    classes: int
    examples: int


@dataclass(frozen=True)
class Task:
    """What a probe asks: inputs (n, D or more), classes (n,) and the playlist (n,) that each belongs to."""

    name: str
    inputs: Floats
    classes: Ints
    playlists: Ints


def probe_tasks(
    model: Encoder, playlists: Ragged, vectors: Floats, labels: Labels, seed: int
) -> Iterator[Task]:
    """Every probe of some playlists that the encoder was not trained on.

    Args:
        model: the encoder.
        playlists: S ragged rows of at least two tracks.
        vectors: (S, D) their vectors.
        labels: of the tracks.
        seed: of the tracks to ask about and of permutations.
    """
    rng = np.random.default_rng(seed)
    everyone = np.arange(len(playlists))
    diversity = np.minimum(labels.diversity(playlists), MOST_LABELS)
    of_playlists = {
        "label": labels.of(playlists),
        "label diversity": diversity,
        "label switch": labels.switches(playlists),
        "length": length_bins(playlists.lengths),
        "length by 20": paper_bins(playlists.lengths),
    }
    for name, classes in of_playlists.items():
        yield Task(name, vectors, classes, everyone)
    asked, tracks, inside = content_pairs(playlists, rng)
    of_tracks = item_vectors(model)[tracks - 1]
    together = np.concatenate([vectors[asked] * of_tracks, vectors[asked], of_tracks], axis=1)
    yield Task("track content", together, inside, asked)
    permuted = embed(model, shuffled(playlists, rng))
    both = np.concatenate([vectors, permuted])
    yield Task("order", both, np.repeat([0, 1], len(everyone)), np.tile(everyone, 2))


def length_bins(lengths: Ints, bins: int = LENGTH_BINS) -> Ints:
    """(S,) number of the quantile that each length is in."""
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, lengths, side="right")


def paper_bins(lengths: Ints) -> Ints:
    """(S,) number of the bin of 20 from 30 to 250 tracks, -1 outside (Papreja et al. 2019, section 5.2)."""
    inside = (lengths >= SHORTEST) & (lengths < LONGEST)
    return np.where(inside, (lengths - SHORTEST) // BIN, -1)


def content_pairs(playlists: Ragged, rng: np.random.Generator) -> tuple[Ints, NDArray[np.int32], Ints]:
    """Playlists (n,), tracks (n,) and whether the one holds the other, half of each.

    Each playlist is asked for one of its tracks and, if that is not its own too, for one drawn from another
    playlist in the same way, so that how frequent a track is says nothing.
    """
    everyone = np.arange(len(playlists))
    own = playlists.values[playlists.offsets[:-1] + rng.integers(playlists.lengths)]
    foreign = own[rng.permutation(len(playlists))]
    width = int(playlists.values.max(initial=0)) + 1
    held = np.isin(everyone * width + foreign, playlists.rows * width + playlists.values)
    fair = everyone[~held]
    tracks = np.concatenate([own[fair], foreign[fair]])
    return np.tile(fair, 2), tracks, np.repeat([1, 0], len(fair))


def run_probe(task: Task, seed: int) -> ProbeResult | None:
    """Fit and score in five folds; None where fewer than two classes have enough examples."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, number, counts = np.unique(task.classes, return_inverse=True, return_counts=True)
    chosen = np.flatnonzero(((counts >= LEAST_MEMBERS) & (names >= 0))[number])
    x, y, groups = task.inputs[chosen], task.classes[chosen], task.playlists[chosen]
    kept = np.unique(y, return_counts=True)[1]
    if len(kept) < 2:
        return None
    scores = []
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(x, y, groups):
        fitted: Any = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
        scores.append(fitted.fit(x[train], y[train]).score(x[test], y[test]))
    mean, spread = float(np.mean(scores)), float(np.std(scores))
    return ProbeResult(task.name, mean, spread, float(kept.max() / kept.sum()), len(kept), len(y))
