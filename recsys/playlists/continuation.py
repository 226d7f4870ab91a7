"""Continuing a playlist: the next n tracks at once, or step by step with diverse beam search.

One-shot: the n tracks with the largest inner product with the vector of the seed. Step by step: each chosen
track is read as a part of the playlist before the next one is chosen, by diverse beam search (Vijayakumar et
al., AAAI 2018, arXiv 1610.02424): G groups of beams, of which a later one pays for every choice that earlier
groups made at the same step. What differs: a beam also pays for tracks that share an attribute (the artist)
with what its own slate holds, as the diversity that counts here is within a slate.

Shapes: `B` seeds, `V` tracks, `D` width, `W` beams of a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.encoding import item_vectors
from recsys.errors import InputError
from recsys.models.protocol import Encoder
from recsys.playlists.embedding import embed
from recsys.sequences import Ragged

SCORES_AT_ONCE = 1 << 24
"""Scores held at a time, of 4 bytes each."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Limit:
    """At most so many tracks of a slate may share an attribute.

    Attributes:
        groups: (V,) number of what each track has, such as its artist; -1 for none, which is not limited.
        most: tracks of one group in a slate.
    """

    groups: Ints
    most: int


@dataclass(frozen=True)
class Diverse:
    """Settings of diverse beam search.

    Attributes:
        groups: G, each of which gives a slate of its own.
        width: beams W of a group.
        strength: what a repetition costs, in nats.
        shared: (V,) the attribute whose repetition costs, -1 for none; None: the track itself, which only
            separates the groups.
    """

    groups: int = 3
    width: int = 2
    strength: float = 1.0
    shared: Ints | None = None

    def __post_init__(self) -> None:
        if self.groups < 1 or self.width < 1 or self.strength < 0:
            raise InputError(
                f"diverse beam search was asked for {self.groups} groups of {self.width} beams with strength "
                f"{self.strength}; expected at least 1 group, 1 beam and strength 0"
            )


def one_shot(
    model: Encoder,
    seeds: Ragged,
    n: int,
    limits: Sequence[Limit] = (),
    allowed: NDArray[np.bool_] | None = None,
) -> Ints:
    """(B, n) next tracks of each seed, best first; 0 where the limits leave no more.

    Args:
        model: a playlist encoder in evaluation mode.
        seeds: B ragged rows of track indices, none empty; their tracks are not answered again.
        n: tracks asked for.
        limits: what a slate may hold at most; the seed does not count.
        allowed: (V,) tracks that may be answered; default: all.
    """
    table = item_vectors(model)
    step = max(SCORES_AT_ONCE // len(table), 1)
    blocks = (
        seeds.take(np.arange(start, min(start + step, len(seeds)))) for start in range(0, len(seeds), step)
    )
    return np.stack([_top(row, n, limits) for some in blocks for row in _scores(model, table, some, allowed)])


def nearest_tracks(model: Encoder, vector_D: Floats, n: int, limits: Sequence[Limit] = ()) -> Ints:
    """(n,) tracks with the largest inner product with a playlist's vector, which need not be of any seed."""
    return _top(item_vectors(model) @ vector_D, n, limits)


def diverse_beams(
    model: Encoder,
    seed: NDArray[np.int32],
    n: int,
    diverse: Diverse,
    limits: Sequence[Limit] = (),
    allowed: NDArray[np.bool_] | None = None,
    table: Floats | None = None,
    ended: Callable[[], bool] = lambda: False,
) -> list[Ints]:
    """G slates of n tracks, that of the first group first; shorter where the limits leave no more.

    Of a seed longer than the model reads at once, each beam reads the newest tracks, one window of them, and
    its slate: a step costs the same however long the seed. None of the seed's tracks is answered.

    Args:
        model: a playlist encoder in evaluation mode.
        seed: track indices of the playlist so far, at least one.
        n: tracks of a slate.
        diverse: groups, beams and strength.
        limits: what a slate may hold at most; the seed does not count.
        allowed: (V,) tracks that may be answered; default: all.
        table: (V, D) track vectors, where they are at hand.
        ended: is asked before each step whether nobody waits any longer; the slates stay as they are then.
    """
    table = item_vectors(model) if table is None else table
    allowed = np.ones(len(table), dtype=bool) if allowed is None else allowed.copy()
    allowed[seed - 1] = False
    newest = seed[-model.max_history :]
    beams: list[list[tuple[float, list[int]]]] = [[(0.0, [])] for _ in range(diverse.groups)]
    for _ in range(n):
        if ended():
            break
        flat = [(group, beam) for group, members in enumerate(beams) for beam in members]
        read = Ragged.of([np.r_[newest, slate] for _, (_, slate) in flat])
        chances = _log_softmax(_scores(model, table, read, allowed))
        chosen: list[int] = []  # by the groups at this step
        for group in range(diverse.groups):
            rows = [place for place, (owner, _) in enumerate(flat) if owner == group]
            options = [
                option
                for row in rows
                for option in _options(chances[row], flat[row][1], chosen, diverse, limits)
            ]
            if options:
                best = sorted(options, key=lambda option: -option[0])[: diverse.width]
                beams[group] = [(score, slate) for _, score, slate in best]
                chosen += [slate[-1] for _, slate in beams[group]]
        if not chosen:
            break
    return [np.asarray(members[0][1], dtype=np.int64) for members in beams]


def _options(
    chances_V: Floats,
    beam: tuple[float, list[int]],
    chosen: list[int],
    diverse: Diverse,
    limits: Sequence[Limit],
) -> list[tuple[float, float, list[int]]]:
    """The best ways to go on from a beam: value with and without the price of `chosen`, and the slate."""
    score, slate = beam
    own = chances_V - diverse.strength * _repetitions(slate, diverse.shared, len(chances_V), itself=False)
    value = own - diverse.strength * _repetitions(chosen, diverse.shared, len(chances_V), itself=True)
    for limit in limits:
        value = np.where(_exhausted(slate, limit), -np.inf, value)
    best = np.argpartition(-value, min(diverse.width, len(value) - 1))[: diverse.width]
    return [
        (score + float(value[track]), score + float(own[track]), [*slate, int(track) + 1])
        for track in best
        if np.isfinite(value[track])
    ]


def _repetitions(tracks: list[int], shared: Ints | None, size: int, *, itself: bool) -> Floats:
    """(V,) how many of the tracks each track repeats: in the attribute or, of others' choices, itself."""
    counts = np.zeros(size, dtype=np.float32)
    if not tracks:
        return counts
    places = np.asarray(tracks) - 1
    if shared is not None:
        held = np.bincount(shared[places][shared[places] >= 0], minlength=int(shared.max(initial=0)) + 1)
        counts = np.where(shared >= 0, held[shared], 0).astype(np.float32)
    elif itself:
        counts[places] += 1
    return counts


def _exhausted(slate: Sequence[int], limit: Limit) -> NDArray[np.bool_]:
    """(V,) tracks of groups of which the slate holds as many as it may."""
    held = limit.groups[np.asarray(slate, dtype=np.int64) - 1]
    counts = np.bincount(held[held >= 0], minlength=int(limit.groups.max(initial=0)) + 1)
    return np.asarray((limit.groups >= 0) & (counts[limit.groups] >= limit.most))


def _scores(model: Encoder, table: Floats, seeds: Ragged, allowed: NDArray[np.bool_] | None) -> Floats:
    """(B, V) inner products; -inf for the seeds' own tracks and what is not allowed."""
    scores: Floats = embed(model, seeds) @ table.T
    scores[seeds.rows, seeds.values - 1] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return scores


def _log_softmax(scores: Floats) -> Floats:
    largest = scores.max(axis=1, keepdims=True)
    shifted = scores - np.where(np.isfinite(largest), largest, 0)  # of a row where nothing may come: -inf
    summed = np.exp(shifted).sum(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.where(summed > 0, summed, 1)), dtype=np.float32)


def _top(scores_V: Floats, n: int, limits: Sequence[Limit]) -> Ints:
    """(n,) best tracks within the limits, filled up with 0."""
    if not limits:
        order = _largest(scores_V, n)
        best = order[np.isfinite(scores_V[order])]
        return np.pad(best + 1, (0, n - len(best)))
    slate: list[int] = []
    held: Counter[tuple[int, int]] = Counter()
    for track in np.argsort(-scores_V, kind="stable").tolist():
        if len(slate) == n or scores_V[track] == -np.inf:
            break
        owned = [(place, int(limit.groups[track])) for place, limit in enumerate(limits)]
        owned = [(place, group) for place, group in owned if group >= 0]
        if all(held[place, group] < limits[place].most for place, group in owned):
            held.update(owned)
            slate.append(track + 1)
    return np.pad(np.asarray(slate, dtype=np.int64), (0, n - len(slate)))


def _largest(scores_V: Floats, n: int) -> Ints:
    best = np.argpartition(-scores_V, min(n, len(scores_V) - 1))[:n]
    return best[np.lexsort((best, -scores_V[best]))]


def groups_of(values: Sequence[object]) -> Ints:
    """(V,) number of each track's value of an attribute, -1 for None."""
    numbers: Mapping[str, int] = {
        name: place for place, name in enumerate(sorted({str(v) for v in values if v is not None}))
    }
    return np.asarray([-1 if value is None else numbers[str(value)] for value in values], dtype=np.int64)
