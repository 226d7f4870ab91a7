"""From playlists to vectors, whatever the encoder.

Every encoder of playlists is a `recsys.models.protocol.Encoder`: playlist and track vectors share a space,
so that playlist -> playlists, playlist -> tracks and tracks -> playlists are one search.

Shapes: `S` playlists, `W` windows, `D` width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.batching import windows
from recsys.encoding import encode_histories
from recsys.errors import InputError
from recsys.models.protocol import Encoder
from recsys.sequences import Ragged


def embed(model: Encoder, playlists: Ragged) -> NDArray[np.float32]:
    """(S, D) vectors; of a playlist longer than the model reads, the mean over its windows.

    Windows overlap by half, so that every track is read with neighbours on both sides.

    Args:
        model: a playlist encoder in evaluation mode on the CPU.
        playlists: S ragged rows of track indices, none of them empty.

    Raises:
        InputError: a playlist is empty.
    """
    empty = np.flatnonzero(playlists.lengths == 0)
    if len(empty):
        raise InputError(
            f"playlist {empty[0] + 1} of {len(playlists)} has no known track, so it has no vector; leave out "
            "empty playlists and those of unknown tracks only"
        )
    longest = model.max_history
    pieces = windows(playlists, longest, min_length=1)
    vectors = encode_histories(model, pieces)
    if len(pieces) == len(playlists):
        return vectors
    step = max(longest // 2, 1)
    counts = 1 + np.ceil(np.maximum(playlists.lengths - longest, 0) / step).astype(np.int64)
    summed = np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0)
    return np.asarray(summed / counts[:, None], dtype=np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
