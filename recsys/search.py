"""Search for the items with the largest inner product: exactly, or through Annoy.

Annoy finds neighbours by angle. Bachrach et al., "Speeding Up the Xbox Recommender System Using a Euclidean
Transformation for Inner-Product Spaces" (RecSys 2014), make the angle order items by inner product: with M
the largest norm of an item, item x becomes (x, sqrt(M^2 - |x|^2)) and query q becomes (q, 0); then all items
have norm M, and the cosine with the query is q.x / (|q| M). (Annoy's own `dot` metric does not do this in its
last release.) Every candidate is scored again exactly, in the same way in both backends, so that they
differ in what they find and never in a score or in an order.

Shapes: `B` queries, `V` items, `D` width, `C` candidates of a query, `k` answers. Item j+1 is row j of the
table; index 0 means "none".
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from annoy import AnnoyIndex as AnnoyForest
from numpy.typing import NDArray

from recsys.sequences import Ragged
from recsys.topk import top_k
from recsys.torch_settings import uses_bf16

Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""(B, k) item indices, best first, padded with 0, and their (B, k) scores, padded with -inf."""

SPARE = 16  # candidates beyond k, for scores so near that the product's rounding may swap them
ROWS_MEASURED = 2**16  # of the table at a time, for the memory of it
COARSE_QUERIES = 32  # of a block, from which on a product in bfloat16 is faster
COARSE_ANSWERS = 20  # beyond them its rounding asks for so many candidates that float32 is as fast
CPU_SCORES_PER_BLOCK = 2**21  # of the (B, V) product that stand in memory at once: few enough for the caches
GPU_SCORES_PER_BLOCK = 2**27
LEAST_QUERIES = 32  # of a block, for each block reads the whole table
VALUES_PER_BLOCK = 2**22  # of the (B, C, D) candidates that stand in memory at once
MOST_NODES = 2**31 - 1  # as Annoy counts them
ALLOWED_SHARE = 0.05  # filters that leave less of the catalogue are searched exactly


class ItemIndex(Protocol):
    """What the recommender searches with."""

    name: str

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude: Ragged | None = None,
    ) -> Found:
        """The k best allowed items of each query; fewer only where fewer are allowed.

        Equal scores stand in the order of the item index.

        Args:
            vectors: (B, D) queries.
            k: answers for each query, at least 1.
            allowed: (V,) items that may be answered; default: all.
            exclude: B ragged rows of item indices that may not be answered for that query.
        """
        ...


class ExactIndex:
    """One matrix product and top-k, and exact scores of what may be among the best."""

    name = "exact"

    def __init__(self, table: NDArray[np.float32], device: str | torch.device = "cpu") -> None:
        """Take the item vectors.

        Args:
            table: (V, D) item vectors.
            device: where the product is computed.
        """
        self.table = np.ascontiguousarray(table, dtype=np.float32)
        self._table = torch.from_numpy(self.table).to(device)
        self._fine = Rounded(self._table)

    @cached_property
    def _coarse(self) -> Rounded:
        """The table in bfloat16 where products of that are faster, made when many ask at once."""
        if self._table.is_cpu and uses_bf16("auto", self._table.device):
            return Rounded(self._table.bfloat16(), self._table)
        return self._fine

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude: Ragged | None = None,
    ) -> Found:
        """See `ItemIndex.search`."""
        parts = []
        budget = CPU_SCORES_PER_BLOCK if self._table.is_cpu else GPU_SCORES_PER_BLOCK
        step = max(budget // len(self.table), LEAST_QUERIES)
        for start in range(0, len(vectors), step):
            rows = np.arange(start, min(start + step, len(vectors)))
            banned = None if exclude is None else exclude.take(rows)
            coarse = len(rows) >= COARSE_QUERIES and k <= COARSE_ANSWERS
            product = self._coarse if coarse else self._fine
            parts.append(self._block(product, vectors[rows], k, allowed, banned))
        return _joined(parts, k)

    @torch.inference_mode()
    def _block(
        self,
        product: Rounded,
        vectors: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None,
        exclude: Ragged | None,
    ) -> Found:
        device = self._table.device
        scores_BV, error_B = product.scores(torch.from_numpy(vectors).to(device))
        if allowed is not None:
            scores_BV[:, torch.from_numpy(~allowed).to(device)] = -torch.inf
        if exclude is not None:
            places = (torch.from_numpy(exclude.rows), torch.from_numpy(exclude.values.astype(np.int64) - 1))
            scores_BV[places[0].to(device), places[1].to(device)] = -torch.inf
        size = len(self.table)
        fetch = min(k + SPARE, size)
        values, columns = (top_BC.cpu().numpy() for top_BC in top_k(scores_BV, fetch))
        indices, scores = rank(self.table, vectors, np.where(np.isfinite(values), columns + 1, 0), k)
        if fetch == size:
            return indices, scores
        # Where more than the spare ones are as good as the k-th, up to the product's rounding, ask the finer
        # product, and after that take all of those.
        cut = product.cut(values[:, k - 1], error_B.cpu().numpy())
        doubtful = np.flatnonzero(np.isfinite(values[:, -1]) & (values[:, -1] >= cut))
        if product is not self._fine and len(doubtful):
            if 2 * len(doubtful) > len(vectors):
                self._coarse = self._fine  # for this table it is too coarse
            banned = None if exclude is None else exclude.take(doubtful)
            found = self._block(self._fine, vectors[doubtful], k, allowed, banned)
            indices[doubtful], scores[doubtful] = found
            return indices, scores
        for row in doubtful:
            near = np.flatnonzero(scores_BV[row].cpu().numpy() >= cut[row]) + 1
            one = slice(row, row + 1)
            indices[one], scores[one] = rank(self.table, vectors[one], near[None, :], k)
        return indices, scores


class Rounded:
    """A table that products are computed with, and a bound of their error.

    With q = q' + e and x = x' + f, of which the primed are rounded, q'.x' differs from q.x by at most
    |e||x| + |q'||f|, and the sum of its D products in float32 by D eps |q'||x'|. The sum itself is rounded by
    at most `unit` times its size.
    """

    def __init__(self, table_VD: torch.Tensor, exact_VD: torch.Tensor | None = None) -> None:
        """Measure the largest norms.

        Args:
            table_VD: the table as products read it.
            exact_VD: as it was before it was rounded; default: the same.
        """
        self.table_VD = table_VD
        exact_VD = table_VD if exact_VD is None else exact_VD
        self.unit = 0.0 if table_VD.dtype == torch.float32 else torch.finfo(table_VD.dtype).eps / 2
        self._norm = self._lost = 0.0
        for start in range(0, len(table_VD), ROWS_MEASURED):
            exact, read = (each[start : start + ROWS_MEASURED] for each in (exact_VD, table_VD))
            self._norm = max(self._norm, float(exact.norm(dim=1).max()))
            if self.unit:
                self._lost = max(self._lost, float((exact - read.float()).norm(dim=1).max()))

    def scores(self, queries_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, V) float32 inner products, and (B,) their error before the sum was rounded."""
        read_BD = queries_BD.to(self.table_VD.dtype)
        scores_BV = (read_BD @ self.table_VD.T).float()
        summed = queries_BD.shape[1] * torch.finfo(torch.float32).eps * self._norm
        error_B = queries_BD.norm(dim=1) * (1 + self.unit) * (summed + self._lost)
        if self.unit:
            error_B += (queries_BD - read_BD.float()).norm(dim=1) * self._norm
        return scores_BV, error_B

    def cut(self, kth_B: NDArray[np.float32], error_B: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B,) below which a score is not among the k best in truth, by the k-th best as it was computed.

        Both may be wrong: the k-th, and what stands below it, which is rounded by its own size.
        """
        size_B = np.where(np.isfinite(kth_B), np.abs(kth_B), np.float32(0))
        cut_B = kth_B - 2 * (1 + 2 * self.unit) * (error_B + self.unit * size_B)
        return cut_B.astype(np.float32)


class AnnoyIndex:
    """A forest of random projection trees over the augmented vectors, and exact scores of what it finds.

    Safe to search from several threads.
    """

    name = "annoy"

    def __init__(
        self,
        forest: AnnoyForest,
        exact: ExactIndex,
        *,
        search_k: int,
        recall_k: int,
        projection: NDArray[np.float32] | None = None,
    ) -> None:
        """Take a built forest over `augmented(table)`, or over `augmented(table @ projection)`.

        Args:
            forest: the trees; item j of it is row j of the table.
            exact: holds the table, scores candidates, and steps in where filters leave too few of them.
            search_k: nodes to inspect for `recall_k` answers; more answers inspect more in proportion.
            recall_k: the k that `search_k` was chosen for.
            projection: (D, d) onto the fewer dimensions that the forest is in, or None.
        """
        self.exact = exact
        self.projection = projection
        self.forest = forest
        self.search_k = search_k
        self.recall_k = recall_k

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude: Ragged | None = None,
    ) -> Found:
        """See `ItemIndex.search`."""
        if allowed is not None and allowed.mean() < ALLOWED_SHARE:
            return self.exact.search(vectors, k, allowed=allowed, exclude=exclude)
        indices, scores = self.search_forest(vectors, k, allowed=allowed, exclude=exclude)
        short = np.flatnonzero(indices[:, -1] == 0)
        if len(short):
            banned = None if exclude is None else exclude.take(short)
            topped_up = self.exact.search(vectors[short], k, allowed=allowed, exclude=banned)
            indices[short], scores[short] = topped_up
        return indices, scores

    def search_forest(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exclude: Ragged | None = None,
    ) -> Found:
        """Like `search`, but with no more than what the forest finds: rows may come short."""
        share = 1.0 if allowed is None else float(allowed.mean())
        lists = []
        for row, query in enumerate(self._queries(vectors)):
            banned = np.empty(0, np.int32) if exclude is None else exclude[row]
            found = self._candidates(query, math.ceil((k + len(banned)) / share))
            if allowed is not None:
                found = found[allowed[found - 1]]
            lists.append(found[~np.isin(found, banned)] if len(banned) else found)
        return rank(self.exact.table, vectors, _rectangle(lists), k)

    def _queries(self, vectors: NDArray[np.float32]) -> list[list[float]]:
        """(B, d+1) queries as Annoy takes them; projected one by one, so that no row depends on the rest."""
        if self.projection is not None:
            vectors = np.stack([row @ self.projection for row in vectors])
        queries: list[list[float]] = np.pad(vectors, ((0, 0), (0, 1))).tolist()
        return queries

    def _candidates(self, query: list[float], count: int) -> NDArray[np.int32]:
        # In fewer dimensions the order is approximate: score everything that a wider look finds.
        wanted = count + SPARE if self.projection is None else 4 * (count + SPARE)
        size = len(self.exact.table)
        asked = int(self.search_k * max(count / self.recall_k, 1.0))
        nodes = min(asked, self.forest.get_n_trees() * size, MOST_NODES)  # no tree has more to show
        rows = self.forest.get_nns_by_vector(query, min(wanted, size), nodes)
        return np.asarray(rows, dtype=np.int32) + 1


def augmented(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """(V, D+1) vectors of equal norm whose angle to (q, 0) orders them by inner product with q."""
    squares = np.square(table.astype(np.float64)).sum(axis=1)
    extra = np.sqrt(np.maximum(squares.max(initial=0) - squares, 0))
    return np.concatenate([table, extra[:, None].astype(np.float32)], axis=1)


def rank(
    table: NDArray[np.float32], vectors: NDArray[np.float32], candidates: NDArray[np.integer], k: int
) -> Found:
    """Order candidates by their exact score, equal ones by index, and keep k.

    Scores are computed in float64 and rounded to float32 before they are compared, so that they do not
    depend on how many rows or candidates are computed together.

    Args:
        table: (V, D) item vectors.
        vectors: (B, D) queries.
        candidates: (B, C) item indices, no two equal in a row but for 0, "none".
        k: answers for each query.
    """
    parts = []
    step = max(VALUES_PER_BLOCK // max(candidates.shape[1] * table.shape[1], 1), 1)
    for start in range(0, len(vectors), step):
        some = candidates[start : start + step]
        items_BCD = table[np.maximum(some, 1) - 1].astype(np.float64)
        queries_BD1 = vectors[start : start + step, :, None].astype(np.float64)
        products_BC = np.matmul(items_BCD, queries_BD1)[:, :, 0]
        scores = np.where(some > 0, products_BC, -np.inf).astype(np.float32)
        order = np.lexsort((some, -scores))[:, :k]
        chosen = np.take_along_axis(some, order, axis=1).astype(np.int32)
        parts.append((chosen, np.take_along_axis(scores, order, axis=1)))
    return _joined(parts, k)


def _joined(parts: list[Found], k: int) -> Found:
    """Blocks of answers as one, widened to k columns."""
    widened = [
        (
            np.pad(indices, ((0, 0), (0, k - indices.shape[1]))),
            np.pad(scores, ((0, 0), (0, k - scores.shape[1])), constant_values=-np.inf),
        )
        for indices, scores in parts
    ]
    widened.append((np.empty((0, k), np.int32), np.empty((0, k), np.float32)))
    return np.concatenate([part[0] for part in widened]), np.concatenate([part[1] for part in widened])


def _rectangle(lists: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """(B, C) matrix of lists of different length, filled up with 0."""
    matrix = np.zeros((len(lists), max((len(one) for one in lists), default=0)), dtype=np.int32)
    for row, one in enumerate(lists):
        matrix[row, : len(one)] = one
    return matrix
