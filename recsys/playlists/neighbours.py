"""Nearest playlists by Annoy, over the angle of their vectors.

Shapes: `S` playlists, `Q` queries, `D` width, `k` answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex as AnnoyForest
from numpy.typing import NDArray

from recsys.playlists.embedding import unit

TREES = 32
NODES = 2000
"""Nodes that a query inspects for ten answers; more answers inspect more in proportion."""


@dataclass(frozen=True)
class Neighbours:
    """A forest over playlist vectors; what it finds is ordered by the exact cosine.

    Attributes:
        vectors: (S, D) of length 1.
        forest: Annoy's trees over them.
    """

    vectors: NDArray[np.float32]
    forest: AnnoyForest

    @classmethod
    def build(cls, vectors: NDArray[np.float32], seed: int = 0) -> Neighbours:
        """Grow the forest; the same vectors and seed give the same one."""
        rows = unit(vectors)
        forest = AnnoyForest(rows.shape[1], "angular")
        forest.set_seed(seed + 1)  # 0 would be Annoy's own choice
        for row, vector in enumerate(rows.tolist()):
            forest.add_item(row, vector)
        forest.build(TREES, n_jobs=1)
        return cls(rows, forest)

    @classmethod
    def load(cls, vectors: NDArray[np.float32], file: Path) -> Neighbours:
        """The forest of a file over the vectors that it was built from."""
        rows = unit(vectors)
        forest = AnnoyForest(rows.shape[1], "angular")
        forest.load(str(file))
        return cls(rows, forest)

    def search(
        self, vector: NDArray[np.float32], k: int, exclude: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows of the k nearest playlists, nearest first, and their cosines.

        Args:
            vector: (D,) query.
            k: answers; fewer where there are fewer playlists.
            exclude: a row that is no answer, such as the query's own.
        """
        query = unit(vector[None])[0]
        nodes = NODES * max(k // 10, 1)
        found = np.asarray(self.forest.get_nns_by_vector(query.tolist(), k + 1, nodes), dtype=np.int64)
        found = found[found != exclude]
        cosines = self.vectors[found] @ query
        order = np.lexsort((found, -cosines))[:k]
        return found[order], cosines[order]


def neighbour_precision(
    index: Neighbours, classes: NDArray[np.int64], *, queries: int = 100, k: int = 10, seed: int = 0
) -> NDArray[np.float64]:
    """(Q,) share of each query's k nearest playlists that are of its class (Papreja et al. 2019, section 6).

    Args:
        index: of S playlists.
        classes: (S,) class of each playlist, -1 for none: such a playlist is no query, and as a neighbour
            it is wrong.
        queries: playlists to ask about, drawn without replacement.
        k: neighbours of each.
        seed: of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(len(classes))
    asked = drawn[classes[drawn] >= 0][:queries]
    shares = [
        (classes[index.search(index.vectors[row], k, exclude=int(row))[0]] == classes[row]).mean()
        for row in asked
    ]
    return np.asarray(shares)
