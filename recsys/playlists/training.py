"""From a prepared data set to a trained encoder of playlists."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.playlists.bow import BagOfTracks, fit_bag
from recsys.playlists.pooled import build_pooled, fit_pooled
from recsys.playlists.seq2seq import build_seq2seq, fit_seq2seq
from recsys.playlists.settings import PlaylistsConfig
from recsys.sequences import Ragged

Build = Callable[[PlaylistsConfig, int], nn.Module]
Fit = Callable[[PlaylistsConfig, Ragged, int], nn.Module]


def build_bag(config: PlaylistsConfig, n_items: int) -> BagOfTracks:
    """A bag of tracks whose vectors are still to be filled."""
    return BagOfTracks(n_items=n_items, dim=config.dim, max_length=config.max_length)


ENCODERS: dict[str, tuple[Build, Fit]] = {
    "pooled": (build_pooled, fit_pooled),
    "seq2seq": (build_seq2seq, fit_seq2seq),
    "word2vec": (build_bag, fit_bag),
    "sif": (build_bag, fit_bag),
}
"""Name -> how fresh weights are made, how they are trained."""


def held_out(config: PlaylistsConfig, count: int) -> NDArray[np.bool_]:
    """(S,) playlists that training does not see, a draw of the seed."""
    chosen = np.zeros(count, dtype=bool)
    drawn = np.random.default_rng(config.seed).permutation(count)
    chosen[drawn[: round(config.holdout * count)]] = True
    return chosen


def training_playlists(config: PlaylistsConfig, data: PreparedData) -> Ragged:
    """The playlists of two tracks or more that are not held out.

    Whole playlists are read, whatever the split of the data set: a playlist is in or out.

    Raises:
        InputError: fewer than two training playlists have two tracks.
    """
    playlists = data.sequences.take(np.flatnonzero(~held_out(config, len(data.sequences))))
    usable = playlists.take(np.flatnonzero(playlists.lengths >= 2))
    if len(usable) < 2:
        raise InputError(
            f"{data.path} has {len(usable)} training playlists of two tracks or more; expected at least 2: "
            "prepare longer ones, or set holdout lower"
        )
    return usable


def fit_playlists(config: PlaylistsConfig, data: PreparedData) -> nn.Module:
    """Train the encoder that the settings name on the playlists that are not held out.

    Raises:
        InputError: fewer than two training playlists have two tracks.
    """
    _, fit = ENCODERS[config.model.name]
    return fit(config, training_playlists(config, data), len(data.vocabulary))
