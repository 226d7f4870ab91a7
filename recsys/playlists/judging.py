"""An encoder of playlists, judged: probes, neighbours, and continuations of held-out playlists.

Shapes: `S` playlists, `B` seeds, `n` tracks of a slate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.models.protocol import Encoder
from recsys.playlists import continuation_scores as scores
from recsys.playlists.embedding import embed
from recsys.playlists.labels import Labels
from recsys.playlists.neighbours import Neighbours, neighbour_precision
from recsys.playlists.probes import ProbeResult, inputs_of, length_bins, questions, run_probe
from recsys.sequences import Ragged

QUERIES = 100
SEEDS = (5, 10)
"""Tracks that a held-out playlist is continued after."""


@dataclass(frozen=True)
class Judgement:
    """What was found.

    Attributes:
        probes: accuracy of every probe that the playlists allow.
        neighbours: precision of the label and of the length bin over 100 queries, ten neighbours each.
        skipped: probes that the playlists do not allow, for too few of two classes.
    """

    probes: list[ProbeResult]
    neighbours: dict[str, float]
    skipped: list[str]

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{found.name:16s} {found.accuracy:.3f} ± {found.spread:.3f}  chance {found.chance:.3f}  "
            f"({found.classes} classes, {found.examples:,} examples)"
            for found in self.probes
        ]
        lines += [f"neighbours, {name}: precision {value:.3f}" for name, value in self.neighbours.items()]
        return lines + [
            f"note: no probe of {name}: fewer than two classes are large enough" for name in self.skipped
        ]

    def to_json(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)


def judge(model: Encoder, playlists: Ragged, labels: Labels, seed: int = 0) -> Judgement:
    """Probe an encoder on playlists that it was not trained on, and ask for their neighbours.

    Args:
        model: the encoder.
        playlists: S ragged rows of at least two tracks.
        labels: of the tracks.
        seed: of folds, permutations and queries.
    """
    vectors = embed(model, playlists)
    probes, skipped = [], []
    for question in questions(playlists, labels, seed):
        found = run_probe(question, inputs_of(question, model, vectors), seed)
        if found is None:
            skipped.append(question.name)
        else:
            probes.append(found)
    index = Neighbours.build(vectors, seed)
    classes = {"label": labels.of(playlists), "length": length_bins(playlists.lengths)}
    precision = {
        name: float(neighbour_precision(index, found, queries=QUERIES, seed=seed).mean())
        for name, found in classes.items()
        if (found >= 0).any()
    }
    return Judgement(probes, precision, skipped)


def endings(playlists: Ragged, known: int | NDArray[np.int64]) -> tuple[Ragged, Ragged]:
    """The first `known` tracks of longer playlists, and what follows: tracks that the seed does not hold.

    Playlists whose rest repeats the seed alone are left out.

    Args:
        playlists: S ragged rows.
        known: length of the seeds, one for all or (S,) of each.
    """
    known_S = np.broadcast_to(known, len(playlists))
    rows = np.flatnonzero(playlists.lengths > known_S)
    longer, known_S = playlists.take(rows), known_S[rows]
    seeds = longer.first(known_S)
    rest = longer.slices(longer.offsets[:-1] + known_S, longer.offsets[1:])
    width = int(playlists.values.max(initial=0)) + 1
    fresh = ~np.isin(rest.rows * width + rest.values, seeds.rows * width + seeds.values)
    offsets = np.r_[0, np.cumsum(np.bincount(rest.rows[fresh], minlength=len(rest)))].astype(np.int64)
    targets = Ragged(rest.values[fresh], offsets)
    some = np.flatnonzero(targets.lengths)
    return seeds.take(some), targets.take(some)


def score_slates(
    slates: NDArray[np.int64],
    targets: Ragged,
    table: NDArray[np.float32] | None = None,
    groups: Mapping[str, NDArray[np.int64]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """(B,) values by name: R-precision, NDCG and clicks, and what the slates of R tracks look like.

    Args:
        slates: (B, n) answers, best first, 0 for none; n at least the most targets.
        targets: B ragged rows.
        table: (V, D) track vectors, for intra-list diversity.
        groups: attributes (artist) whose distinct values and repetition are counted among the first R.
    """
    found = {
        "r-precision": scores.r_precision(slates, targets),
        "ndcg": scores.ndcg(slates, targets),
        "clicks": scores.clicks(slates, targets),
    }
    shown = np.where(np.arange(slates.shape[1]) < targets.lengths[:, None], slates, 0)
    if table is not None:
        found["intra-list diversity"] = scores.intra_list_diversity(shown, table)
    for name, values in (groups or {}).items():
        found[f"distinct {name}s"] = scores.distinct(shown, values)
        found[f"{name} repetition"] = scores.repetition(shown, values)
    return found
