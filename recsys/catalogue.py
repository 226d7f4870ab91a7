"""What the recommender knows of items beside their vectors: titles, counts and attributes.

Shapes: `V` items. Row j of the item table is item j+1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from recsys import schema
from recsys.answers import Filters
from recsys.bundle import TITLE
from recsys.errors import InputError
from recsys.predicates import Condition, Groups, holds
from recsys.vocabulary import ItemId, Vocabulary


@dataclass(frozen=True)
class CatalogueItem:
    """An item as a search finds it; `count` is its number of training events."""

    id: ItemId
    title: str | None
    count: int


class Catalogue:
    """Look-ups and filters over a bundle's item table."""

    def __init__(self, items: pa.Table, vocabulary: Vocabulary) -> None:
        """Take the item table and the ids of its rows."""
        self.items = items
        self.vocabulary = vocabulary
        self.counts: NDArray[np.int64] = np.asarray(items[schema.ITEM_COUNT], dtype=np.int64)
        self._groups: dict[str, Groups] = {}

    @property
    def attributes(self) -> list[str]:
        """Columns that `where` may name: the title and the item's own attributes and text."""
        return [name for name in self.items.column_names if name not in schema.RESERVED_ITEM_COLUMNS]

    def titles(self, indices: ArrayLike) -> list[str | None]:
        """Titles of item indices (n,); None where an item has none."""
        rows = np.asarray(indices, dtype=np.int64) - 1
        if TITLE not in self.items.column_names:
            return [None] * len(rows)
        return [None if title is None else str(title) for title in self.items[TITLE].take(rows).to_pylist()]

    def recent_scores(self) -> NDArray[np.float32]:
        """(V,) recent events; where those are equal, as for most items none, the longer run decides."""
        recent = np.asarray(self.items[schema.ITEM_RECENT], dtype=np.float32)
        share: NDArray[np.float32] = (self.counts / (self.counts.max(initial=0) + 1)).astype(np.float32)
        return recent + share

    def allowed(
        self,
        allow: Iterable[ItemId] | None = None,
        deny: Iterable[ItemId] | None = None,
        where: Mapping[str, Condition] | None = None,
    ) -> NDArray[np.bool_] | None:
        """(V,) items that pass all filters, or None where there is no filter.

        Args:
            allow: only these ids; unknown ones are ignored.
            deny: not these ids; unknown ones are ignored.
            where: attribute -> values of which an item must have one, or operators; see `recsys.predicates`.

        Raises:
            InputError: an attribute does not exist, or cannot have such a value.
        """
        if allow is None and not deny and not where:
            return None
        mask = np.full(len(self.vocabulary), allow is None)
        if allow is not None:
            chosen = self.vocabulary.encode(allow)
            mask[chosen[chosen > 0] - 1] = True
        denied = self.vocabulary.encode(deny or ())
        mask[denied[denied > 0] - 1] = False
        for name, condition in (where or {}).items():
            mask &= holds(name, self._column(name), condition)
        return mask

    def allowed_by(self, filters: Filters) -> NDArray[np.bool_] | None:
        """(V,) items that pass the filters that look at one item alone, or None where there is none.

        Raises:
            InputError: as `allowed`.
        """
        mask = self.allowed(filters.allow, filters.deny, filters.where)
        if mask is None or filters.available is None:
            return filters.available if mask is None else mask
        return mask & filters.available

    def search(self, query: str, k: int) -> list[CatalogueItem]:
        """At most k items whose title or id contains the query, whatever the case.

        An equal title or id comes first, then those that begin with the query, then the rest, each by their
        count. An empty query lists the most frequent items.
        """
        wanted = query.strip().lower()
        grades = np.zeros(len(self.vocabulary), dtype=np.int64)
        for texts in self._texts:
            grade = np.zeros_like(grades)
            for test in (pc.match_substring, pc.starts_with, pc.equal):
                grade += np.asarray(pc.fill_null(test(texts, wanted), False)).astype(np.int64)
            grades = np.maximum(grades, grade)
        hits = np.flatnonzero(grades)
        order = np.lexsort((hits, -self.counts[hits], -grades[hits]))[: max(k, 0)]
        best = hits[order] + 1
        columns = self.vocabulary.decode(best), self.titles(best), self.counts[best - 1].tolist()
        return [CatalogueItem(*each) for each in zip(*columns, strict=True)]

    @cached_property
    def _texts(self) -> list[pa.ChunkedArray | pa.Array]:
        """What a search looks in, in lower case: ids and titles."""
        columns = [self.vocabulary.ids]
        if TITLE in self.items.column_names:
            columns.append(self.items[TITLE])
        return [pc.utf8_lower(column.cast(pa.large_string())) for column in columns]

    def groups(self, name: str) -> Groups:
        """The values of an attribute as numbers, made once.

        Raises:
            InputError: there is no such attribute, or its values cannot be counted.
        """
        if name not in self._groups:
            self._groups[name] = Groups(name, self._column(name))
        return self._groups[name]

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self.attributes:
            known = ", ".join(self.attributes) or "none: the item table has ids alone"
            raise InputError(f"items have no attribute `{name}` to filter by; known: {known}")
        return self.items[name]
