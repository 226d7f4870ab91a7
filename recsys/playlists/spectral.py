"""Where the pooled encoder starts: track vectors of the truncated singular value decomposition.

Playlists times tracks, rows divided by the square root of their length and columns by the fourth root of
their count; what a playlist then says of a track is an inner product already (PureSVD: Cremonesi, Koren and
Turrin, RecSys 2010, section 3.2). Training begins there, as a few thousand playlists teach a transformer too
little about many thousand tracks.

Shapes: `S` playlists, `V` tracks, `D` width.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.sequences import Ragged

Floats = NDArray[np.float32]
COLUMN_POWER, ROW_POWER = 0.25, 0.5
ROUNDS = 3
"""Power iterations of the decomposition; more change nothing that counts."""


def spectral_vectors(playlists: Ragged, n_items: int, dim: int, seed: int) -> tuple[Floats, Floats]:
    """(V, D) track vectors, and the logarithms (V,) of the weights that sum them to a playlist's vector.

    The vectors of an average event have the length 1. Tracks of no playlist have zeros, and so have the
    dimensions that there are not enough playlists or tracks for.

    Args:
        playlists: S ragged rows.
        n_items: number of tracks V.
        dim: width D.
        seed: of the decomposition.
    """
    from sklearn.utils.extmath import randomized_svd

    ones = np.ones(len(playlists.values), dtype=np.float32)
    held_SV = sp.csr_array((ones, (playlists.rows, playlists.values - 1)), shape=(len(playlists), n_items))
    held_SV.data[:] = 1.0
    counts_V = np.maximum(np.asarray(held_SV.sum(axis=0)), 1.0)
    of_rows = sp.diags_array(np.maximum(playlists.lengths, 1) ** -ROW_POWER)
    scaled_SV = sp.csr_matrix(of_rows @ held_SV @ sp.diags_array(counts_V**-COLUMN_POWER))
    rank = min(dim, *(size - 1 for size in held_SV.shape))
    _, _, right_DV = randomized_svd(scaled_SV, rank, n_iter=ROUNDS, random_state=seed)
    vectors_VD = right_DV.T * counts_V[:, None] ** COLUMN_POWER
    usual = np.sqrt(np.average(np.square(vectors_VD).sum(axis=1), weights=held_SV.sum(axis=0)))
    padded_VD = np.pad(vectors_VD / usual, ((0, 0), (0, dim - rank)))
    return padded_VD.astype(np.float32), (-2 * COLUMN_POWER * np.log(counts_V)).astype(np.float32)
