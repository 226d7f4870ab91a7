"""Stored playlists whose neighbours are known: a bag of tracks with vectors made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recsys.dataset import PreparedData
from recsys.playlists.map_store import StoredMap, store_map
from recsys.playlists.settings import playlists_config
from recsys.playlists.store import PlaylistModel, build_playlist_index, save_playlist_model
from recsys.playlists.training import build_bag
from recsys.sequences import Ragged
from tests.worlds import prepared

N_GENRES, PER_GENRE = 3, 20
N_TRACKS = N_GENRES * PER_GENRE
LABELS = ["rock", "jazz", "folk"]


def genre_walks() -> Ragged:
    """Sixty playlists: number p walks four tracks through genre p % 3, from track p // 3 of it on."""
    return Ragged.of(
        [
            p % N_GENRES * PER_GENRE + (p // N_GENRES + np.arange(4)) % PER_GENRE + 1
            for p in range(N_GENRES * PER_GENRE)
        ]
    )


def playlist_folder(folder: Path, data: PreparedData | None = None) -> PlaylistModel:
    """An encoder with its index and a map: tracks of a genre point one way, near ones nearly the same.

    Args:
        folder: where it is made.
        data: playlists of `N_TRACKS` tracks; default: `genre_walks`.
    """
    data = data or prepared(folder / "data", genre_walks(), N_TRACKS)
    config = playlists_config(["model=word2vec", "dim=5"])
    encoder = build_bag(config, N_TRACKS)
    genre, place = np.divmod(np.arange(N_TRACKS), PER_GENRE)
    turn = 2 * np.pi * place / PER_GENRE
    near = 0.3 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    vectors = np.concatenate([np.eye(N_GENRES)[genre], near], axis=1)
    encoder.vectors[1:] = torch.from_numpy(vectors.astype(np.float32))
    encoder.weights[1:] = 1
    model = save_playlist_model(folder / "playlists", encoder, config, data)
    index = build_playlist_index(model, data)
    first = index.playlists.values[index.playlists.offsets[:-1]] - 1
    label = genre[first]
    places = np.stack([label + 0.3 * np.cos(turn[first]), label % 2 + 0.3 * np.sin(turn[first])], axis=1)
    rows = np.arange(len(index.ids))
    store_map(model, index, StoredMap(rows, places.astype(np.float32), label, LABELS))
    return model


def track(genre: int, place: int) -> str:
    """Original id of a track."""
    return f"i{genre * PER_GENRE + place % PER_GENRE + 1}"


def index_folder(model: PlaylistModel) -> Path:
    """Where its vectors, forest and map lie."""
    return model.folder / "index"
