"""Labels of tracks, and what follows for playlists: a label, how many they mix, whether they switch.

Shapes: `V` tracks, `S` playlists, `C` labels, `A` owners (artists).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys import schema
from recsys.errors import InputError
from recsys.models.sparse import chosen_entries, strongest_per_row
from recsys.sequences import Ragged

AGREEING = 0.7
"""A playlist takes a label that this share of its tracks has (Papreja et al. 2019, section 4)."""
NOTICEABLE = 0.1
"""A label counts for a playlist's diversity from this share of its tracks on."""
COMPANY = 10
"""Nearest owners that each is tied to; with all ties one cluster would hold nearly everyone."""
NONE = -1
LEAST_PLAYLISTS = 5
"""An owner in fewer playlists than this is in no cluster: too little is known of its company."""


@dataclass(frozen=True)
class Labels:
    """Labels of tracks.

    Attributes:
        of_tracks: (V,) number of the label of each track, -1 where it has none.
        names: C names of the labels.
    """

    of_tracks: NDArray[np.int64]
    names: list[str]

    def counts(self, playlists: Ragged) -> NDArray[np.int64]:
        """(S, C) tracks of each label."""
        label = self.of_tracks[playlists.values - 1]
        known, C = label != NONE, len(self.names)
        places = playlists.rows[known] * C + label[known]
        return np.bincount(places, minlength=len(playlists) * C).reshape(len(playlists), C)

    def of(self, playlists: Ragged) -> NDArray[np.int64]:
        """(S,) the label that 70% of a playlist's tracks have, else -1."""
        counts = self.counts(playlists)
        agreed = counts.max(axis=1) >= AGREEING * playlists.lengths
        return np.where(agreed, counts.argmax(axis=1), NONE)

    def diversity(self, playlists: Ragged) -> NDArray[np.int64]:
        """(S,) number of labels that at least a tenth of the tracks have."""
        return np.asarray((self.counts(playlists) >= NOTICEABLE * playlists.lengths[:, None]).sum(axis=1))

    def switches(self, playlists: Ragged) -> NDArray[np.int64]:
        """(S,) 1 where the commonest labels of the two halves differ, else 0; -1 where a half has none."""
        middle = playlists.lengths // 2
        halves = (
            playlists.first(middle),
            playlists.slices(playlists.offsets[:-1] + middle, playlists.offsets[1:]),
        )
        first, second = (self.counts(half) for half in halves)
        known = (first.max(axis=1) > 0) & (second.max(axis=1) > 0)
        changed = first.argmax(axis=1) != second.argmax(axis=1)
        return np.where(known, changed.astype(np.int64), NONE)


def track_column(items: pa.Table, column: str) -> list[object]:
    """(V,) values of an attribute of the tracks.

    Raises:
        InputError: there is no such column.
    """
    known = [name for name in items.column_names if name not in schema.RESERVED_ITEM_COLUMNS]
    if column not in known:
        has = ", ".join(known) or "none: the item table has ids alone"
        raise InputError(f"tracks have no column `{column}`; known: {has}")
    return list(items[column].to_pylist())


def column_labels(values: Sequence[object]) -> Labels:
    """Labels that stand in a column, such as genres; of a list the first counts.

    Args:
        values: (V,) one for each track, None where it has none.

    Raises:
        InputError: there are not at least two different ones.
    """
    first = [(value[0] if value else None) if isinstance(value, list) else value for value in values]
    names = sorted({str(value) for value in first if value is not None})
    if len(names) < 2:
        raise InputError(f"the label column holds {len(names)} different values; expected at least 2")
    number = {name: place for place, name in enumerate(names)}
    found = [NONE if value is None else number[str(value)] for value in first]
    return Labels(np.asarray(found, dtype=np.int64), names)


def cluster_labels(owners: Sequence[object], playlists: Ragged, clusters: int, seed: int) -> Labels:
    """Clusters of owners (artists) that stand in the same playlists: a label where none is given.

    Spectral clustering of the graph that ties each owner to its nearest by the cosine of their playlists,
    which none of the encoders uses.

    Args:
        owners: (V,) owner of each track, None where unknown.
        playlists: those to learn from; keep the ones to be probed out.
        clusters: how many labels.
        seed: of the clustering.

    Raises:
        InputError: there are fewer than `clusters` owners with enough playlists.
    """
    from sklearn.cluster import SpectralClustering

    names = sorted({str(owner) for owner in owners if owner is not None})
    number = {name: place for place, name in enumerate(names)}
    owner_V = np.asarray([NONE if owner is None else number[str(owner)] for owner in owners])
    owner = owner_V[playlists.values - 1]
    known = owner != NONE
    ones = np.ones(int(known.sum()), dtype=np.float32)
    held_SA = sp.csr_array((ones, (playlists.rows[known], owner[known])), shape=(len(playlists), len(names)))
    held_SA.data[:] = 1.0
    counts_A = np.asarray(held_SA.sum(axis=0))
    often = np.flatnonzero(counts_A >= LEAST_PLAYLISTS)
    if len(often) <= clusters:
        raise InputError(
            f"{len(often)} of {len(names)} owners stand in {LEAST_PLAYLISTS} training playlists; expected "
            f"more than {clusters}: ask for fewer --clusters, or name a column of labels with --label"
        )
    unit_SA = sp.csr_array(held_SA[:, often]) @ sp.diags_array(1 / np.sqrt(counts_A[often]))
    cosines = sp.csr_array(unit_SA.T @ unit_SA)
    rows = np.repeat(np.arange(len(often)), np.diff(cosines.indptr))
    others = chosen_entries(cosines, cosines.indices != rows)
    nearest = strongest_per_row(others, COMPANY)
    graph = sp.csr_matrix(nearest.maximum(nearest.T))
    graph.indices, graph.indptr = (part.astype(np.int32) for part in (graph.indices, graph.indptr))
    spectral = SpectralClustering(
        clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=seed
    )
    cluster_A = np.full(len(names) + 1, NONE)  # the last is that of NONE
    with warnings.catch_warnings():
        # Owners that never meet fall apart; their parts are then clusters, as they should be.
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        cluster_A[often] = spectral.fit_predict(graph)
    return Labels(cluster_A[owner_V].astype(np.int64), [f"cluster {place + 1}" for place in range(clusters)])
