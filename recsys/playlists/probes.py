"""Probes: what frozen playlist vectors know, by logistic regression in five folds (scikit-learn).

Papreja et al. 2019, section 5. Vectors are standardised and nothing is added to them; every probe reads the
same ones. A playlist's examples stand in one fold. Spread is the standard deviation over the folds, chance is
what always naming the largest class gives.

Shapes: `S` playlists, `D` width, `n` examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
class Question:
    """What a probe asks of some playlists.

    Attributes:
        name: which probe.
        classes: (n,) the right answers; negative ones are not asked.
        playlists: (n,) the playlist that each example is of.
        tracks: (n,) the track that each example asks about, where the probe asks about one.
        permuted: S ragged rows in another order, of which the second half of the examples are, where the
            probe asks which order is a playlist's own.
    """

    name: str
    classes: Ints
    playlists: Ints
    tracks: NDArray[np.int32] | None = None
    permuted: Ragged | None = None


def questions(playlists: Ragged, labels: Labels, seed: int) -> Iterator[Question]:
    """Every probe of some playlists, the same for all encoders.

    Args:
        playlists: S ragged rows of at least two tracks.
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
        yield Question(name, classes, everyone)
    asked, tracks, inside = content_pairs(playlists, rng)
    yield Question("track content", inside, asked, tracks=tracks)
    permuted = shuffled(playlists, rng)
    yield Question("order", np.repeat([0, 1], len(everyone)), np.tile(everyone, 2), permuted=permuted)


def inputs_of(question: Question, model: Encoder, vectors: Floats) -> Floats:
    """(n, D or more) what the probe reads: vectors alone, and beside them that of the track it asks about.

    Args:
        question: about S playlists that the encoder was not trained on.
        model: the encoder.
        vectors: (S, D) their vectors.
    """
    if question.permuted is not None:
        return np.concatenate([vectors, embed(model, question.permuted)])
    asked = vectors[question.playlists]
    if question.tracks is None:
        return asked
    of_tracks = item_vectors(model)[question.tracks - 1]
    return np.concatenate([asked * of_tracks, asked, of_tracks], axis=1)


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


def run_probe(question: Question, inputs: Floats, seed: int) -> ProbeResult | None:
    """Fit and score in five folds; None where fewer than two classes have enough examples."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def accuracy(train: Ints, test: Ints) -> float:
        fitted: Any = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
        fitted.fit(inputs[train], question.classes[train])
        return float(fitted.score(inputs[test], question.classes[test]))

    return in_folds(question, accuracy, seed)


def in_folds(question: Question, accuracy: Callable[[Ints, Ints], float], seed: int) -> ProbeResult | None:
    """Mean and spread over five folds; None where fewer than two classes have enough examples.

    Args:
        question: what is asked.
        accuracy: of the examples to test, when those to train on are known; both by their numbers.
        seed: of the folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names, number, counts = np.unique(question.classes, return_inverse=True, return_counts=True)
    chosen = np.flatnonzero(((counts >= LEAST_MEMBERS) & (names >= 0))[number])
    y, groups = question.classes[chosen], question.playlists[chosen]
    kept = np.unique(y, return_counts=True)[1]
    if len(kept) < 2:
        return None
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(y, y, groups)
    found = [accuracy(chosen[train], chosen[test]) for train, test in folds]
    mean, spread = float(np.mean(found)), float(np.std(found))
    return ProbeResult(question.name, mean, spread, float(kept.max() / kept.sum()), len(kept), len(y))
