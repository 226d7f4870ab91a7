"""Finding playlists by some of their tracks.

Shapes: `S` playlists, `D` width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.models.protocol import Encoder
from recsys.playlists.embedding import embed, unit
from recsys.playlists.store import PlaylistIndex
from recsys.sequences import Ragged


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
