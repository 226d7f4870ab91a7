"""Which `order` the data prefers: both kinds of encoder, and what the tracks alone say.

Playlists that are held out for probes stay untouched: of the training playlists a fifth is set aside, both
kinds are trained on the others, and go on with the ones set aside.

Shapes: `S` playlists, `E` tracks of all of them, `V` tracks of the catalogue, `D` width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recsys.bootstrap import Bootstrap, Interval
from recsys.dataset import PreparedData
from recsys.encoding import item_vectors
from recsys.errors import InputError
from recsys.models.protocol import Encoder
from recsys.playlists import continuation_scores as scores
from recsys.playlists.continuation import one_shot
from recsys.playlists.embedding import unit
from recsys.playlists.judging import endings
from recsys.playlists.settings import PlaylistsConfig
from recsys.playlists.training import ENCODERS, training_playlists
from recsys.sequences import Ragged

ASIDE = 0.2
"""Share of the training playlists that are set aside to judge by, and of a playlist that is hidden."""
MOST_JUDGED = 2000
ORDERS = ("set", "sequence")


@dataclass(frozen=True)
class Preference:
    """What was found.

    Attributes:
        trained: playlists that both encoders were trained on.
        judged: playlists that they were asked about.
        means: by task, NDCG of `order: set` and of `order: sequence`.
        differences: by task, sequence - set over the same playlists, with its 95% interval.
        alike: how much more alike neighbouring tracks are than any two of their playlist, in cosine.
    """

    trained: int
    judged: int
    means: dict[str, tuple[float, float]]
    differences: dict[str, Interval]
    alike: Interval

    def verdict(self) -> str:
        """One sentence: the order that the tasks are better with, and whether there is an order to hold."""
        better = any(found.low > 0 for found in self.differences.values())
        worse = any(found.high < 0 for found in self.differences.values())
        if better != worse:
            said = f"the data prefers order: {'sequence' if better else 'set'}"
        else:
            said = "the tasks disagree" if better else "no difference can be shown between set and sequence"
        if self.alike.low > 0:
            return f"{said}; neighbouring tracks are alike, which only order: sequence can tell"
        return f"{said}; that neighbouring tracks are alike cannot be shown"

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.trained:,} playlists trained both, {self.judged:,} others judge; 95% intervals"]
        for task, (of_set, of_sequence) in self.means.items():
            shown = f"NDCG of set {of_set:.4f}, of sequence {of_sequence:.4f}"
            lines.append(f"{task}: {shown}, difference {self.differences[task].text('+')}")
        lines.append(f"neighbouring tracks, cosine above any two of the playlist: {self.alike.text('+')}")
        return [*lines, self.verdict()]

    def to_json(self) -> dict[str, Any]:
        """For files."""
        intervals = {name: found.to_json(absent=None) for name, found in self.differences.items()}
        own = {"differences": intervals, "alike": self.alike.to_json(absent=None)}
        return {**asdict(self), **own, "verdict": self.verdict()}


def preferred_order(config: PlaylistsConfig, data: PreparedData) -> Preference:
    """Train with `order: set` and with `order: sequence`, and compare.

    Args:
        config: everything but `order`, which takes both values.
        data: playlists; the ones that `config` holds out are not read.

    Raises:
        InputError: the encoder is a bag of tracks, or there are too few training playlists.
    """
    if config.model.name in ("word2vec", "sif"):
        raise InputError(
            f"model `{config.model.name}` is a bag of tracks, the same with either order; compare with "
            "model=pooled or model=seq2seq"
        )
    playlists = training_playlists(config, data)
    drawn = np.random.default_rng([config.seed, 1]).permutation(len(playlists))
    aside = max(round(ASIDE * len(playlists)), 1)
    judged, trained = playlists.take(drawn[:aside][:MOST_JUDGED]), playlists.take(drawn[aside:])
    _, fit = ENCODERS[config.model.name]
    tasks = _tasks(judged, np.random.default_rng([config.seed, 2]))
    values: dict[str, dict[str, NDArray[np.float64]]] = {task: {} for task in tasks}
    for order in ORDERS:
        chosen = config.model_copy(update={"order": order})
        model = cast(Encoder, fit(chosen, trained, len(data.vocabulary)))
        for task, (seeds, targets) in tasks.items():
            values[task][order] = scores.ndcg(one_shot(model, seeds, scores.LONGEST), targets)
        if order == "set":  # whose vectors of tracks know nothing of the order
            alike = {"alike": likeness_of_neighbours(judged, item_vectors(model))}
    differences = {task: {task: found["sequence"] - found["set"]} for task, found in values.items()}
    return Preference(
        trained=len(trained),
        judged=len(judged),
        means={
            task: (float(found["set"].mean()), float(found["sequence"].mean()))
            for task, found in values.items()
        },
        differences={task: Bootstrap(found).intervals()[task] for task, found in differences.items()},
        alike=Bootstrap(alike).intervals()["alike"],
    )


def likeness_of_neighbours(playlists: Ragged, table: NDArray[np.float32]) -> NDArray[np.float64]:
    """(S,) mean cosine of tracks that follow each other minus that of any two of the playlist.

    In random order it is 0 on average, whatever the tracks are.

    Args:
        playlists: S ragged rows of two tracks or more.
        table: (V, D) track vectors.
    """
    units_ED = unit(table[playlists.values - 1]).astype(np.float64)
    rows, lengths = playlists.rows, playlists.lengths
    follows = rows[1:] == rows[:-1]
    products = np.einsum("ed,ed->e", units_ED[1:], units_ED[:-1])
    adjacent = np.bincount(rows[1:][follows], weights=products[follows], minlength=len(lengths))
    summed_SD = np.add.reduceat(units_ED, playlists.offsets[:-1], axis=0)
    own = np.bincount(rows, weights=np.square(units_ED).sum(axis=1), minlength=len(lengths))
    pairs = np.square(summed_SD).sum(axis=1) - own
    return np.asarray(adjacent / (lengths - 1) - pairs / (lengths * (lengths - 1)))


def _tasks(playlists: Ragged, rng: np.random.Generator) -> dict[str, tuple[Ragged, Ragged]]:
    """What is read and what is asked for: the second half, and tracks missing anywhere."""
    lengths = playlists.lengths
    hidden = np.maximum(np.rint(ASIDE * lengths), 1).astype(np.int64)
    return {
        "the second half after the first": endings(playlists, lengths // 2),
        "a fifth missing anywhere": endings(_hidden_last(playlists, hidden, rng), lengths - hidden),
    }


def _hidden_last(playlists: Ragged, hidden: NDArray[np.int64], rng: np.random.Generator) -> Ragged:
    """Playlists with some of their tracks, drawn at random, put behind the others, which keep their order."""
    rows, places = playlists.rows, np.arange(len(playlists.values))
    rank = np.empty_like(places)
    rank[np.lexsort((rng.random(len(rows)), rows))] = places - playlists.offsets[rows]
    order = np.lexsort((places, rank < hidden[rows], rows))
    return Ragged(playlists.values[order], playlists.offsets)
