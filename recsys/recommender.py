"""From a history of original ids to ranked items: the one object that command, export and endpoint share.

Shapes: `B` histories, `V` items, `k` answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.catalogue import Catalogue, CatalogueItem
from recsys.counting import CountingIndex, Ranking
from recsys.encoding import encode_histories, item_vectors
from recsys.errors import InputError
from recsys.index import Backend, load_index
from recsys.models.protocol import Encoder
from recsys.search import ExactIndex, Found, ItemIndex
from recsys.sequences import Ragged
from recsys.vocabulary import ItemId, Vocabulary

RECENT_POPULARITY: Literal["recent popularity"] = "recent popularity"


@dataclass(frozen=True)
class ScoredItem:
    """One answer: original id, score (the greater the better; its scale is the model's), title if any."""

    id: ItemId
    score: float
    title: str | None


@dataclass(frozen=True)
class Recommendations:
    """The answer to one history.

    Attributes:
        items: at most k, best first.
        unknown: ids of the request that the model does not know; they were ignored.
        fallback: what answered instead of the model, because no known item was in the history; or None.
        model_version: of the bundle.
    """

    items: list[ScoredItem]
    unknown: list[ItemId]
    fallback: Literal["recent popularity"] | None
    model_version: str

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for a JSON document."""
        return asdict(self)


class Recommender:
    """Encode, search, filter. Immutable after construction, and safe to ask from several threads."""

    def __init__(self, bundle: Bundle, index: ItemIndex | CountingIndex, device: str = "cpu") -> None:
        """Take a bundle and what to search with; `load` makes both."""
        self.bundle = bundle
        self.index = index
        self.device = device
        self.catalogue = Catalogue(bundle.items, bundle.vocabulary)
        self._recent = Ranking(self.catalogue.recent_scores())

    @classmethod
    def load(cls, folder: Path | str, backend: Backend | None = None, device: str = "cpu") -> Recommender:
        """Read a bundle and its index.

        Args:
            folder: the bundle.
            backend: `annoy`, `exact` or `auto`; default: what the index says, exact search without an index.
                A counting model needs none and takes any.
            device: where an encoder and exact search compute, such as `cuda`.

        Raises:
            InputError: the bundle or the index is missing, damaged, or of another format or model.
        """
        bundle = Bundle.load(folder)
        if not isinstance(bundle.model, Encoder):
            return cls(bundle, CountingIndex(bundle.model, bundle.config.model.name), device)
        index = load_index(bundle, item_vectors(bundle.model), backend, device)
        if isinstance(bundle.model, torch.nn.Module):
            bundle.model.to(device)
        return cls(bundle, index, device)

    @property
    def model_version(self) -> str:
        """Short content hash of the bundle."""
        return self.bundle.model_version

    @property
    def vocabulary(self) -> Vocabulary:
        """Original ids and indices."""
        return self.bundle.vocabulary

    @property
    def backend(self) -> str:
        """`annoy`, `exact`, or `counts` for a model that needs no index."""
        return self.index.name

    def recommend(
        self,
        history: Sequence[ItemId],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[ItemId] | None = None,
        deny: Iterable[ItemId] | None = None,
        where: Mapping[str, Iterable[object]] | None = None,
    ) -> Recommendations:
        """What comes next after a history.

        Args:
            history: original ids, oldest first; unknown ones are ignored and named in the answer.
            k: answers; fewer come only where fewer are allowed.
            exclude_seen: leave out the items of the history.
            allow: only these items may come; default: all.
            deny: these items may not come.
            where: column of the item table -> values of which an item must have one (all columns must hold).

        Raises:
            InputError: the history is one text, k is below 1, or `where` names a column or a value that
                the item table cannot have.
        """
        if isinstance(history, str):
            raise InputError(
                f"the history is the text {history!r}; expected a list of item ids: [{history!r}]"
            )
        allow, deny = None if allow is None else list(allow), [] if deny is None else list(deny)
        asked = [*history, *(allow or ()), *deny]
        indices = self.vocabulary.encode(history)
        known = Ragged.of([indices[indices > 0]])
        allowed = self.catalogue.allowed(allow, deny, where)
        found, scores = self.recommend_batch(known, k, exclude_seen=exclude_seen, allowed=allowed)
        return Recommendations(
            items=self._scored(found[0], scores[0]),
            unknown=[each for each in dict.fromkeys(asked) if not self.vocabulary.index(each)],
            fallback=None if len(known.values) else RECENT_POPULARITY,
            model_version=self.model_version,
        )

    def recommend_batch(
        self,
        histories: Ragged,
        k: int,
        *,
        exclude_seen: bool = True,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Found:
        """What comes next after each of B histories; a history is answered the same in every batch.

        Args:
            histories: B ragged rows of item indices; an empty row is answered by recent popularity.
            k: answers for each.
            exclude_seen: leave out the items of the history.
            allowed: (V,) items that may come, as `Catalogue.allowed` gives them; default: all.

        Returns:
            (B, k) int32 item indices, best first, padded with 0; (B, k) float32 scores, padded with -inf.

        Raises:
            InputError: k is below 1.
        """
        indices = np.zeros((len(histories), _at_least_one(k)), dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        filled = np.flatnonzero(histories.lengths)
        if len(filled):
            some = histories.take(filled)
            exclude = some if exclude_seen else None
            indices[filled], scores[filled] = self._search(some, k, allowed=allowed, exclude=exclude)
        popular = self._recent.best(k, allowed)
        empty = histories.lengths == 0
        indices[empty, : len(popular)] = popular
        scores[empty, : len(popular)] = self._recent.scores[popular - 1]
        return indices, scores

    def similar(self, item_id: ItemId, k: int = 10) -> list[ScoredItem]:
        """Items like one item, by the cosine of their vectors; a counting model answers a one-item history.

        Raises:
            InputError: the item is unknown, or k is below 1.
        """
        index = self.vocabulary.index(item_id)
        if not index:
            raise InputError(f"item {item_id!r} is unknown to model {self.model_version}; see the item table")
        itself = Ragged.of([[index]])
        if isinstance(self.index, CountingIndex):
            found, scores = self.recommend_batch(itself, _at_least_one(k))
        else:
            units = self._unit_vectors
            found, scores = units.search(units.table[[index - 1]], _at_least_one(k), exclude=itself)
        return self._scored(found[0], scores[0])

    def titles(self, ids: Sequence[ItemId]) -> list[str | None]:
        """Title of each id; None where the id is unknown or has none."""
        indices = self.vocabulary.encode(ids)
        known = iter(self.catalogue.titles(indices[indices > 0]))
        return [next(known) if index else None for index in indices]

    def search_items(self, query: str, k: int = 20) -> list[CatalogueItem]:
        """At most k items whose title or id contains the query, best first; see `Catalogue.search`."""
        return self.catalogue.search(query, k)

    def recommend_frame(
        self,
        frame: Any,  # noqa: ANN401 -- any of narwhals' frames
        *,
        sequence: str = "sequence",
        item: str = "item",
        time: str | None = None,
        k: int = 10,
        exclude_seen: bool = True,
    ) -> Any:  # noqa: ANN401
        """Recommendations for every sequence of a log: pandas, Polars or Arrow in, the same kind out.

        Args:
            frame: one event a row.
            sequence: column of user or playlist ids.
            item: column of original item ids; unknown ones are ignored.
            time: column to order events by; without it, and where times are equal, the order of the rows.
            k: answers for each sequence.
            exclude_seen: leave out the items of the sequence.

        Returns:
            A frame of `sequence`, `rank` (from 1), `item` and `score` columns (the first and the third under
            the names of the input), the sequences in the order of their first event.

        Raises:
            InputError: it is no such frame, a column is missing, or its item ids are of the wrong type.
        """
        from recsys.frames import events_of, like  # narwhals: only who has frames pays for it

        ids, histories = events_of(frame, self.vocabulary, sequence=sequence, item=item, time=time)
        indices, scores = self.recommend_batch(histories, k, exclude_seen=exclude_seen)
        rows, ranks = np.nonzero(indices)
        columns = {
            sequence: ids.take(pa.array(rows)),
            "rank": pa.array(ranks + 1),
            item: self.vocabulary.take(indices[rows, ranks]),
            "score": pa.array(scores[rows, ranks]),
        }
        return like(frame, pa.table(columns))

    @cached_property
    def _unit_vectors(self) -> ExactIndex:
        """Item vectors of length 1, whose inner product is the cosine."""
        assert isinstance(self.bundle.model, Encoder)
        table = item_vectors(self.bundle.model)
        lengths = np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        return ExactIndex(table / lengths, self.device)

    def _search(
        self, histories: Ragged, k: int, *, allowed: NDArray[np.bool_] | None, exclude: Ragged | None
    ) -> Found:
        if isinstance(self.index, CountingIndex):
            return self.index.search(histories, k, allowed=allowed, exclude=exclude)
        assert isinstance(self.bundle.model, Encoder)
        vectors = encode_histories(self.bundle.model, histories, self.device)
        return self.index.search(vectors, k, allowed=allowed, exclude=exclude)

    def _scored(self, indices: NDArray[np.int32], scores: NDArray[np.float32]) -> list[ScoredItem]:
        """Answers of one history as the caller sees them, without the padding."""
        found = indices[indices > 0]
        ids, titles = self.vocabulary.decode(found), self.catalogue.titles(found)
        return [ScoredItem(*each) for each in zip(ids, scores.tolist(), titles, strict=False)]


def _at_least_one(k: int) -> int:
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    return k
