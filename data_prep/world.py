"""A small world of music with a known answer: who listens to what, and what comes next.

An item has a genre and an era, and shares its cell (genre, era) with a few others. A listener has two
genres, whose turns alternate, and an era that both share and that now and then moves on by one. So the last
item tells the era but not the genre that is due, and the set of items heard tells both genres but neither the
turn nor the era of now: a model must use the two together. A few events are strays, drawn from everywhere.
Nothing is heard twice. A playlist follows one genre, or changes to a second one on its way; an ordered one
runs through the eras from the oldest to the newest.

Shapes: `V` items, numbered from 0 here, `G` genres, `R` eras, `U` listeners, `P` playlists, `L` positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

N_GENRES = 10
N_ERAS = 10
CELL_SIZE = 10  # as many as a list of ten: who knows the cell of the next item has found the item
N_ITEMS = N_GENRES * N_ERAS * CELL_SIZE
NOTHING = -1  # fills the positions behind the end of a sequence

GENRE_SKEW = 0.3  # exponent of the power law by which genres differ in listeners
ITEM_SKEW = 1.0  # the same for the items of one cell
GENRE_REACH = 2  # the second genre is at most so many places from the first, on a ring of genres
SAME_ERA = 0.95  # chance that the next item is of the listener's era and not of the one after it
STRAY = 0.05  # share of events, or of playlist positions, that follow no rule
HISTORY_LENGTHS = (10, 20)

PLAYLIST_LENGTHS = (10, 60)
PLAYLIST_SWITCHES = 0.4  # share of playlists that change to a second genre
PLAYLIST_ORDERED = 0.5  # share of playlists whose eras ascend


@dataclass(frozen=True)
class Catalogue:
    """The items: cell c = genre * R + era holds items c * CELL_SIZE and the ones that follow.

    Attributes:
        genre: (V,) 0..G-1.
        era: (V,) 0..R-1.
        share: (V,) probability of the item within its cell.
    """

    genre: Ints
    era: Ints
    share: Floats


@dataclass(frozen=True)
class Listeners:
    """The histories, and the hidden state in which each last item was drawn.

    Attributes:
        items: (U, L) item numbers in order, NOTHING behind the end.
        lengths: (U,) events.
        genres: (2, U) the two genres; event t is the turn of genre t modulo 2.
        eras: (U,) era of the listener just before the last event.
    """

    items: Ints
    lengths: Ints
    genres: Ints
    eras: Ints


@dataclass(frozen=True)
class Playlists:
    """The playlists and what is true of them.

    Attributes:
        items: (P, L) item numbers in order, NOTHING behind the end.
        lengths: (P,) positions.
        genres: (2, P) genre before and from `switch_at` on; equal where the playlist keeps to one.
        switch_at: (P,) position of the first item of the second genre, or NOTHING.
        ordered: (P,) whether the eras ascend; else the items of each genre's part are shuffled.
    """

    items: Ints
    lengths: Ints
    genres: Ints
    switch_at: Ints
    ordered: NDArray[np.bool_]


def make_catalogue(rng: np.random.Generator) -> Catalogue:
    """V items, CELL_SIZE of them in every cell, of unequal popularity."""
    numbers = np.arange(N_ITEMS)
    shares = np.tile(_power_law(CELL_SIZE, ITEM_SKEW), (N_GENRES * N_ERAS, 1))
    return Catalogue(
        genre=numbers // (N_ERAS * CELL_SIZE),
        era=numbers // CELL_SIZE % N_ERAS,
        share=rng.permuted(shares, axis=1).ravel(),
    )


def draw_listeners(catalogue: Catalogue, count: int, rng: np.random.Generator) -> Listeners:
    """Histories of `count` listeners, each event drawn from `next_item_distribution`."""
    steps = np.delete(np.arange(-GENRE_REACH, GENRE_REACH + 1), GENRE_REACH)
    first = rng.choice(N_GENRES, count, p=_power_law(N_GENRES, GENRE_SKEW))
    genres = np.stack([first, (first + rng.choice(steps, count)) % N_GENRES])
    eras = rng.integers(N_ERAS, size=count)
    lengths = rng.integers(HISTORY_LENGTHS[0], HISTORY_LENGTHS[1] + 1, count)
    items = np.full((count, HISTORY_LENGTHS[1]), NOTHING)
    for step in range(HISTORY_LENGTHS[1]):
        rows = np.flatnonzero(lengths > step)
        due = genres[step % 2, rows]
        chances = next_item_distribution(catalogue, items[rows], due, eras[rows])
        drawn = _draw(chances, rng)
        items[rows, step] = drawn
        # The last event moves nobody on: `eras` stays the state in which it was drawn.
        moved = (catalogue.genre[drawn] == due) & (catalogue.era[drawn] == (eras[rows] + 1) % N_ERAS)
        eras[rows] += moved & (lengths[rows] > step + 1)
        eras %= N_ERAS
    return Listeners(items, lengths, genres, eras)


def next_item_distribution(catalogue: Catalogue, histories: Ints, due: Ints, eras: Ints) -> Floats:
    """(U, V) probability of every item to come next, given the history and the listener's hidden state.

    The rule gives the cells (due genre, era) and (due genre, era after it); a stray comes from any cell.
    Items of the history have probability 0 and the others share what is left in proportion.

    Args:
        catalogue: the items.
        histories: (U, L) item numbers; NOTHING where there is none.
        due: (U,) genre whose turn it is.
        eras: (U,) era of the listener.
    """
    users = np.arange(len(due))
    cells = np.full((len(due), N_GENRES, N_ERAS), STRAY / (N_GENRES * N_ERAS))
    cells[users, due, eras] += (1 - STRAY) * SAME_ERA
    cells[users, due, (eras + 1) % N_ERAS] += (1 - STRAY) * (1 - SAME_ERA)
    chances = np.repeat(cells.reshape(len(due), -1), CELL_SIZE, axis=1) * catalogue.share
    rows, columns = np.nonzero(histories != NOTHING)
    chances[rows, histories[rows, columns]] = 0.0
    return np.asarray(chances / chances.sum(axis=1, keepdims=True))


def target_distribution(catalogue: Catalogue, listeners: Listeners) -> Floats:
    """(U, V) distribution that the last event of each listener was drawn from."""
    users, ends = np.arange(len(listeners.lengths)), listeners.lengths - 1
    histories = listeners.items.copy()
    histories[users, ends] = NOTHING
    return next_item_distribution(catalogue, histories, listeners.genres[ends % 2, users], listeners.eras)


def draw_playlists(catalogue: Catalogue, count: int, rng: np.random.Generator) -> Playlists:
    """`count` playlists: one genre or two, eras from the oldest to the newest, or shuffled."""
    lengths = rng.integers(PLAYLIST_LENGTHS[0], PLAYLIST_LENGTHS[1] + 1, count)
    genre = rng.integers(N_GENRES, size=count)
    other = (genre + rng.integers(1, N_GENRES, size=count)) % N_GENRES
    switches = rng.random(count) < PLAYLIST_SWITCHES
    middle = np.rint(lengths * rng.uniform(0.35, 0.65, count)).astype(np.int64)
    switch_at = np.where(switches, middle, NOTHING)
    genres = np.stack([genre, np.where(switches, other, genre)])
    ordered = rng.random(count) < PLAYLIST_ORDERED

    places = np.arange(PLAYLIST_LENGTHS[1])
    second = (places >= switch_at[:, None]) & switches[:, None]
    wanted = np.where(second, genres[1][:, None], genres[0][:, None])
    stray = rng.random(wanted.shape) < STRAY
    wanted = np.where(stray, rng.integers(N_GENRES, size=wanted.shape), wanted)
    # Equal parts for the eras: at most 6 of the 10 items of a cell are asked for, so none runs out.
    eras = places * N_ERAS // lengths[:, None]
    inside = places < lengths[:, None]
    items = np.full(wanted.shape, NOTHING)
    free = np.ones((count, N_ITEMS), dtype=bool)
    for place in places:
        rows = np.flatnonzero(inside[:, place])
        cells = (wanted[rows, place] * N_ERAS + eras[rows, place])[:, None] * CELL_SIZE + np.arange(CELL_SIZE)
        drawn = cells[np.arange(len(rows)), _draw(catalogue.share[cells] * free[rows[:, None], cells], rng)]
        items[rows, place] = drawn
        free[rows, drawn] = False
    # One sort does both: an ordered row keeps its places, another is shuffled within each part.
    keys = np.where(ordered[:, None], places, rng.random(wanted.shape) + second * 1.0)
    order = np.where(inside, keys, np.inf).argsort(axis=1, kind="stable")
    return Playlists(np.take_along_axis(items, order, axis=1), lengths, genres, switch_at, ordered)


def _power_law(size: int, exponent: float) -> Floats:
    weights = np.arange(1, size + 1) ** -exponent
    return np.asarray(weights / weights.sum())


def _draw(weights: Floats, rng: np.random.Generator) -> Ints:
    """(n,) one column of each row of (n, m) weights >= 0, in proportion to them."""
    heights = weights.cumsum(axis=1)
    # random() < 1, and a weight of 0 leaves its step flat: such a column is never drawn.
    levels = rng.random((len(weights), 1)) * heights[:, -1:]
    return np.asarray((heights <= levels).sum(axis=1))
