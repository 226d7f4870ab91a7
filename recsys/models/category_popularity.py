"""Popularity by category: what is popular in the categories of the history.

The score of an item is its match times its popularity. Match: the sum over its categories of their shares of
the history's events, over the root of the number of its categories. Popularity: its training events; an item
without any has those of a mean item, so that such items are ranked among each other by their match alone.

Shapes: `B` histories, `V` items, `C` categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.config import CategoryPopularityConfig
from recsys.errors import InputError
from recsys.models.item_knn import TIE_SCALE
from recsys.models.popularity import item_counts, tie_breaker
from recsys.models.sparse import all_items, matrix_from_arrays, matrix_to_arrays
from recsys.sequences import Ragged
from recsys.text.attributes import TITLE, own_columns, texts_of


@dataclass(frozen=True)
class CategoryPopularity:
    """Match times popularity.

    Attributes:
        prior: (V,) popularity scaled into [0, 1e-6).
        categories: (V, C) sparse, 1 where an item is of a category.
        popularity: (V,) training events, of a mean item where an item has none.
    """

    prior: NDArray[np.float32]
    categories: sp.csr_array
    popularity: NDArray[np.float32]

    def scores(self, histories: Ragged) -> sp.csr_array:
        """(B, V) match times popularity."""
        held_BC = sp.csr_array(all_items(histories, len(self.prior)) @ self.categories)
        totals_B = np.maximum(np.asarray(held_BC.sum(axis=1)), 1e-12)
        share_BC = sp.diags_array(1 / totals_B, dtype=np.float32) @ held_BC
        number_V = np.maximum(np.diff(self.categories.indptr), 1)
        weighted_VC = sp.diags_array(self.popularity / np.sqrt(number_V)) @ self.categories
        return sp.csr_array(share_BC @ weighted_VC.T, dtype=np.float32)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Prior, categories and popularity."""
        shape = np.array(self.categories.shape, dtype=np.int64)
        matrix = matrix_to_arrays(self.categories)
        return {"prior": self.prior, "popularity": self.popularity, "shape": shape, **matrix}

    @classmethod
    def from_arrays(cls, config: object, arrays: dict[str, NDArray[np.generic]]) -> CategoryPopularity:
        """Rebuild from what `arrays` gave."""
        prior, popularity = (np.asarray(arrays[name], dtype=np.float32) for name in ("prior", "popularity"))
        width = int(np.asarray(arrays["shape"])[1])
        return cls(prior, matrix_from_arrays(arrays, width), popularity)


def fit_category_popularity(
    config: CategoryPopularityConfig, training: Ragged, items: pa.Table
) -> CategoryPopularity:
    """Count the training events of every item.

    Raises:
        InputError: the configured column is missing, or there is none whose values recur.
    """
    name = config.attribute or category_column(items, config.separator)
    if name is None or name not in items.column_names:
        known = ", ".join(own_columns(items))
        raise InputError(
            f"model `category_popularity` needs a column of categories, and "
            f"{'no column has values that recur' if name is None else f'there is no column `{name}`'}; "
            f"set model.attribute to one of the item table's: {known or 'none'}"
        )
    counts = item_counts(training.values, len(items)).astype(np.float32)
    warm = counts > 0
    popularity = np.where(warm, counts, counts[warm].mean() if warm.any() else 1).astype(np.float32)
    categories = category_matrix(items[name], config.separator)
    return CategoryPopularity(tie_breaker(training, len(items)) * TIE_SCALE, categories, popularity)


def category_column(items: pa.Table, separator: str | None = None) -> str | None:
    """The first column, the title apart, whose categories are each shared by two items or more on average.

    Numbers are no categories.
    """
    for name in own_columns(items):
        kind = items[name].type
        nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        textual = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if name == TITLE or not (nested or textual):
            continue
        matrix = category_matrix(items[name], separator)
        if matrix.nnz >= 2 * matrix.shape[1] > 0:
            return name
    return None


def category_matrix(column: pa.ChunkedArray, separator: str | None = None) -> sp.csr_array:
    """(V, C) which item is of which category.

    Args:
        column: lists of categories, or texts that are taken apart.
        separator: between the categories of a text; default: a comma where any text has one, else a space.
    """
    values = column.to_pylist()
    if not any(isinstance(value, list) for value in values):
        texts = [text or "" for text in texts_of(column)]
        between = separator or ("," if any("," in text for text in texts) else " ")
        values = [[part.strip() for part in text.split(between) if part.strip()] for text in texts]
    numbers: dict[object, int] = {}
    rows, columns = [], []
    for row, value in enumerate(values):
        for category in set(value or ()):
            if category is not None:
                rows.append(row)
                columns.append(numbers.setdefault(category, len(numbers)))
    shape = (len(values), len(numbers))
    return sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
