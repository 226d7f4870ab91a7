"""Finding playlists by some of their tracks, or by a title.

Shapes: `S` playlists, `D` width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.models.protocol import Encoder
from recsys.playlists.embedding import embed, unit
from recsys.playlists.store import PlaylistIndex
from recsys.sequences import Ragged

NAMESAKES = 20
"""Playlists of the nearest titles that a title's vector is made of."""


@dataclass(frozen=True)
class Hit:
    """A playlist that was found.

    Attributes:
        row: of the index.
        held: how many of the wanted tracks it holds.
        asked: how many were wanted.
        cosine: nearness of its vector to that of the wanted tracks read as a playlist.
    """

    row: int
    held: int
    asked: int
    cosine: float


def search_tracks(model: Encoder, index: PlaylistIndex, wanted: Ragged, k: int) -> list[Hit]:
    """The k playlists that hold the most of the wanted tracks; of equally many, the nearest first.

    Playlists that hold none are found by their vectors alone.

    Args:
        model: the encoder that the index was built by.
        index: of S playlists.
        wanted: one row of track indices.
        k: answers; fewer where there are fewer playlists.
    """
    query = embed(model, wanted)[0]
    tracks = np.unique(wanted[0])
    has = np.isin(index.playlists.values, tracks)
    keys = index.playlists.rows[has] * (int(tracks.max()) + 1) + index.playlists.values[has]
    held = np.bincount(np.unique(keys) // (int(tracks.max()) + 1), minlength=len(index.playlists))
    near, _ = index.neighbours.search(query, k)
    candidates = np.union1d(np.flatnonzero(held), near)
    cosines = index.neighbours.vectors[candidates] @ unit(query[None])[0]
    order = np.lexsort((candidates, -cosines, -held[candidates]))[:k]
    return [
        Hit(int(candidates[place]), int(held[candidates[place]]), len(tracks), float(cosines[place]))
        for place in order
    ]


def title_vector(index: PlaylistIndex, title: str) -> NDArray[np.float32]:
    """(D,) vector of a playlist of which the title alone is known: the mean of those of like titles.

    Titles are compared by the cosine of their TF-IDF, of three to five letters within words, so that
    `workout` meets `workouts`; the cosines weigh the mean.

    Raises:
        InputError: the index has no titles, or none has anything in common with this one.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if index.titles is None or index.titles.null_count == len(index.titles):
        raise InputError(
            "the embedded playlists have no titles, so none can be continued from its title; give --seed, or "
            "prepare data with the context `name`, and train on that"
        )
    rows = np.flatnonzero(np.asarray(index.titles.is_valid()))
    known = [index.titles[row].as_py() for row in rows.tolist()]
    reader = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32)
    cosines = np.asarray((reader.fit_transform(known) @ reader.transform([title]).T).todense())[:, 0]
    near = np.argsort(-cosines, kind="stable")[:NAMESAKES]
    near = near[cosines[near] > 0]
    if not len(near):
        raise InputError(
            f"title `{title}` has nothing in common with the {len(known):,} known ones, such as "
            f"`{known[0]}`; give another title, or --seed"
        )
    return np.asarray(cosines[near] @ index.neighbours.vectors[rows[near]], dtype=np.float32)
