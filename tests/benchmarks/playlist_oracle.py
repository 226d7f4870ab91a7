"""The most that vectors of the built-in sample's playlists can tell, as what was planted in them is known.

Two oracles are asked the probes of `recsys.playlists.probes`. Both know of each held-out playlist its genres,
where it switches, whether its eras ascend, and its length. One sees every track besides: what follows from
these it answers without a mistake. The other does not. Order is the one question that neither can always
answer: without a switch and without an order, every permutation is as likely as the playlist itself.

Shapes: `S` playlists, `n` examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_prep.sample import FIRST_YEAR, YEARS_PER_ERA, write_sample
from recsys.playlists.judging import QUERIES
from recsys.playlists.labels import Labels
from recsys.playlists.neighbours import Neighbours, neighbour_precision
from recsys.playlists.probes import Question, in_folds, length_bins, questions
from recsys.sequences import Ragged

SETTINGS = "oracle"
SEES, KNOWS = "oracle: every track", "oracle: planted truth alone"
LABEL_FIRST = 3.0
"""Weight of the label in the vector whose neighbours are asked for: first the label, then the length."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """What was planted.

    Attributes:
        genres: (S, 2) number of the first and of the second genre; equal where there is no switch.
        switch_at: (S,) place of the first track of the second genre, -1 without one.
        ordered: (S,) whether eras ascend.
        eras: (V,) era of each track.
    """

    genres: Ints
    switch_at: Ints
    ordered: NDArray[np.bool_]
    eras: Ints


def planted(ids: list[str], years: Sequence[object], labels: Labels) -> Truth:
    """The truth of these playlists of the sample; `years` (V,) are those of the tracks."""
    with TemporaryDirectory() as folder:
        write_sample(Path(folder))
        table = pl.read_csv(Path(folder) / "playlists_truth.csv")
    rows = pl.DataFrame({"playlist": ids}).join(table, on="playlist", how="left", maintain_order="left")
    second = rows["second_genre"].fill_null(rows["genre"])
    number = {name: place for place, name in enumerate(labels.names)}
    genres = np.asarray(
        [[number[name] for name in names] for names in zip(rows["genre"], second, strict=True)]
    )
    return Truth(
        genres=genres,
        switch_at=rows["switch_at"].fill_null(-1).to_numpy(),
        ordered=rows["ordered"].to_numpy() == 1,
        eras=(np.asarray(years, dtype=np.int64) - FIRST_YEAR) // YEARS_PER_ERA,
    )


def judged(truth: Truth, playlists: Ragged, labels: Labels, seed: int = 0) -> dict[str, dict[str, Any]]:
    """By oracle, the probes and the neighbours, as a `Judgement` has them.

    Args:
        truth: of the playlists.
        playlists: S held-out rows of the sample.
        labels: genres of the tracks.
        seed: that the encoders are judged with.
    """
    found: dict[str, list[Any]] = {SEES: [], KNOWS: []}
    for question in questions(playlists, labels, seed):
        known = right_answers(question, truth, playlists, labels)
        found[KNOWS].append(_scored(question, known, seed))
        sees = known if question.name == "order" else np.ones_like(known)
        found[SEES].append(_scored(question, sees, seed))
    near = _neighbours(playlists, labels, seed)
    return {name: {"probes": probes, "neighbours": near} for name, probes in found.items()}


def _scored(question: Question, right: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """A probe's result, from the chance (n,) that each answer is right."""
    result = in_folds(question, lambda _, test: float(right[test].mean()), seed)
    assert result is not None  # the sample has members of every class
    return asdict(result)


def right_answers(question: Question, truth: Truth, playlists: Ragged, labels: Labels) -> NDArray[np.float64]:
    """(n,) chance that the planted truth alone gives each right answer."""
    switched = truth.switch_at >= 0
    if question.permuted is not None:
        own, other = (_in_order(truth, rows) for rows in (playlists, question.permuted))
        tells = truth.ordered | switched
        # Read as permuted unless the planted order is there; where none was planted it is a toss.
        return np.concatenate([np.where(tells, own, 0.5), np.where(tells, ~other, 0.5)])
    if question.tracks is not None:
        genre = labels.of_tracks[question.tracks - 1]
        answers = (genre[:, None] == truth.genres[question.playlists]).any(axis=1).astype(np.int64)
    else:
        answers = {
            "label": truth.genres[:, 0],
            "label diversity": 1 + switched,
            "label switch": switched.astype(np.int64),
        }.get(question.name, question.classes)  # the others are of the length, which is known
    return np.asarray(answers == question.classes, dtype=np.float64)


def _in_order(truth: Truth, playlists: Ragged) -> NDArray[np.bool_]:
    """(S,) whether eras ascend: from track to track, or from before the switch to after it."""
    found = np.zeros(len(playlists), dtype=np.bool_)
    for row, (ordered, switch) in enumerate(zip(truth.ordered, truth.switch_at.tolist(), strict=True)):
        eras = truth.eras[playlists[row] - 1]
        if ordered:
            found[row] = (np.diff(eras) >= 0).all()
        elif switch > 0:
            found[row] = eras[:switch].max() <= eras[switch:].min()
    return found


def _neighbours(playlists: Ragged, labels: Labels, seed: int) -> dict[str, float]:
    """Precision of both by a vector made of nothing but label and length, where the label comes first."""
    classes = {"label": labels.of(playlists), "length": length_bins(playlists.lengths)}
    label, length = (np.eye(found.max() + 2, dtype=np.float32)[found] for found in classes.values())
    label[classes["label"] < 0] = 0
    index = Neighbours.build(np.concatenate([LABEL_FIRST * label, length], axis=1), seed)
    return {
        name: float(neighbour_precision(index, found, queries=QUERIES, seed=seed).mean())
        for name, found in classes.items()
    }
