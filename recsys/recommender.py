"""From a history of original ids to ranked items: the one object that command, export and endpoint share.

Shapes: `B` histories, `V` items, `k` answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.answering import (
    Observe,
    Queries,
    answer_all,
    best,
    best_of_all,
    check_question,
    told,
    unobserved,
)
from recsys.answers import Filters, Question, Recommendations, ScoredItem
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue, CatalogueItem
from recsys.counting import CountingIndex, Ranking
from recsys.encoding import encode_histories, item_vectors
from recsys.engines import Engine, onnx_encoder
from recsys.errors import InputError, UnknownItem
from recsys.index import Backend, IndexInfo, load_index, read_index_info
from recsys.item_texts import ItemText, extended, scores_of
from recsys.likeness import Likeness
from recsys.models.protocol import Encoder
from recsys.predicates import Condition
from recsys.search import Found, ItemIndex
from recsys.sequences import Ragged
from recsys.vocabulary import ItemId, Vocabulary


class Recommender:
    """Encode, search, filter. Immutable after construction, and safe to ask from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        index: ItemIndex | CountingIndex,
        device: str = "cpu",
        index_info: IndexInfo | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """Take what `load` makes.

        Args:
            bundle: the model with its items.
            index: what to search with.
            device: where it computes.
            index_info: the sidecar of the index, if there is one.
            encoder: what computes vectors of histories; default: the bundle's model.
        """
        self.bundle = bundle
        self.index = index
        self.index_info = index_info
        self._encoder = encoder or bundle.model
        self.device = device
        self.catalogue = Catalogue(bundle.items, bundle.vocabulary)
        self._likeness = Likeness(bundle, index, device)
        self._recent = Ranking(self.catalogue.recent_scores())

    @classmethod
    def load(
        cls,
        folder: Path | str,
        backend: Backend | None = None,
        device: str = "cpu",
        engine: Engine = "eager",
    ) -> Recommender:
        """Read a bundle and its index.

        Args:
            folder: the bundle.
            backend: `annoy`, `exact` or `auto`; default: what the index says, exact search without an index.
                A counting model needs none and takes any.
            device: where an encoder and exact search compute, such as `cuda`.
            engine: what computes an encoder's vectors; `onnx` is faster on a CPU and needs the extra `onnx`.

        Raises:
            InputError: the bundle or the index is missing, damaged, or of another format or model; or it
                cannot be computed by that engine.
        """
        if engine == "onnx" and device != "cpu":
            raise InputError(f"engine `onnx` computes on the CPU, not on `{device}`; take engine `eager`")
        bundle = Bundle.load(folder)
        if not isinstance(bundle.model, Encoder):
            return cls(bundle, CountingIndex(bundle.model, bundle.config.model.name), device)
        index = load_index(bundle, item_vectors(bundle.model), backend, device)
        if isinstance(bundle.model, torch.nn.Module):
            bundle.model.to(device)
        encoder = onnx_encoder(bundle) if engine == "onnx" else None
        return cls(bundle, index, device, read_index_info(bundle), encoder)

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
        history: Sequence[ItemId | ItemText],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[ItemId] | None = None,
        deny: Iterable[ItemId] | None = None,
        where: Mapping[str, Condition] | None = None,
        max_per: Mapping[str, int] | None = None,
        min_score: float | None = None,
    ) -> Recommendations:
        """What comes next after a history.

        Args:
            history: original ids, oldest first; unknown ones are ignored and named in the answer. A model
                that reads text takes described items too.
            k: answers; fewer come only where fewer are allowed, and the answer says why.
            exclude_seen: leave out the items of the history.
            allow: only these items may come; default: all.
            deny: these items may not come.
            where: column of the item table -> values of which an item must have one, or operators such as
                `{">=": 1990}` (see `recsys.predicates`); all columns must hold.
            max_per: column of the item table -> m: at most m answers share a value of it.
            min_score: answers must score at least this, on the model's own scale.

        Raises:
            InputError: the history is one text, k or an m is below 1, or `where` or `max_per` name a column
                or a value that the item table cannot have.
        """
        filters = Filters(
            exclude_seen=exclude_seen,
            allow=None if allow is None else list(allow),
            deny=list(deny or ()),
            where=where or {},
            max_per=max_per or {},
            min_score=min_score,
        )
        (answer,) = self.answer([Question(history, k, filters)])
        if isinstance(answer, InputError):
            raise answer
        return answer.naming(filters.unknown_to(self.vocabulary))

    def answer(
        self, questions: Sequence[Question], observe: Observe = unobserved
    ) -> list[Recommendations | InputError]:
        """Answer several questions with one pass through the encoder; each as if it were alone.

        Args:
            questions: they may differ in everything.
            observe: is told how long each stage took.

        Returns:
            An answer to each, or what is wrong with the question.
        """
        return answer_all(self, questions, observe)

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
        return self.answer_batch(histories, k, Filters(exclude_seen=exclude_seen, available=allowed))

    def answer_batch(self, histories: Ragged, k: int, filters: Filters) -> Found:
        """What `recommend_batch` gives, with all filters of a question; the same answers as `answer`'s.

        Raises:
            InputError: k or a filter is wrong.
        """
        filled = np.flatnonzero(histories.lengths)
        some = histories.take(filled)
        queries = self.queries(some)

        def search(rows: NDArray[np.int64], k: int, allowed: NDArray[np.bool_] | None) -> Found:
            ours = queries.take(rows) if isinstance(queries, Ragged) else queries[rows]
            return self.search(ours, k, allowed, some.take(rows) if filters.exclude_seen else None)

        def fallback(rows: NDArray[np.int64], k: int, allowed: NDArray[np.bool_] | None) -> Found:
            return self.popular(k, allowed)

        if len(filled) == len(histories):
            return best_of_all(search, len(filled), k, filters, self)
        indices = np.zeros((len(histories), k), dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        indices[:], scores[:] = best_of_all(fallback, 1, k, filters, self)
        if len(filled):
            indices[filled], scores[filled] = best_of_all(search, len(filled), k, filters, self)
        return indices, scores

    def queries(self, histories: Ragged, texts: pa.Table | None = None) -> Queries:
        """What `search` takes for B histories, none of them empty; V+1.. are the described items `texts`."""
        if isinstance(self.index, CountingIndex):
            return histories
        model = self._encoder if texts is None else extended(self.bundle, texts)
        assert isinstance(model, Encoder)
        return encode_histories(model, histories, self.device)

    def score(
        self, history: Sequence[ItemId | ItemText], items: Sequence[ItemId | ItemText]
    ) -> list[float | None]:
        """What the model makes of single items as the next one; see `recsys.item_texts.scores_of`."""
        return scores_of(self.bundle, history, items, self.device)

    def search(
        self, queries: Queries, k: int, allowed: NDArray[np.bool_] | None, exclude: Ragged | None
    ) -> Found:
        """The k best allowed items of what `queries` gave; see `ItemIndex.search`."""
        return self.index.search(queries, k, allowed=allowed, exclude=exclude)  # type: ignore[arg-type]

    def popular(self, k: int, allowed: NDArray[np.bool_] | None) -> Found:
        """Recent popularity: the answer to an empty history, as one row of k."""
        best = self._recent.best(k, allowed)
        spare = (0, k - len(best))
        scores = np.pad(self._recent.scores[best - 1], spare, constant_values=-np.inf)
        return np.pad(best, spare)[None], scores[None]

    def similar(self, item_id: ItemId, k: int = 10) -> list[ScoredItem]:
        """Items like one item, by the cosine of their vectors; a counting model answers a one-item history.

        Raises:
            InputError: the item is unknown, or k is below 1.
        """
        return self.answer_similar(item_id, k, Filters()).items

    def answer_similar(self, item_id: ItemId, k: int, filters: Filters) -> Recommendations:
        """The k items most like one item that may come, as `similar` finds them; the item itself never comes.

        Raises:
            UnknownItem: the model does not know the item.
            InputError: k or a filter is wrong.
        """
        check_question(k, filters)
        index = self.vocabulary.index(item_id)
        if not index:
            raise UnknownItem(
                f"item {item_id!r} is unknown to model {self.model_version}; see the item table"
            )
        like = self._likeness.of(np.array([index], dtype=np.int32))
        row = best(
            lambda k, allowed: like(np.array([0]), k, allowed),
            k,
            self.catalogue.allowed_by(filters),
            filters,
            self,
        )
        return told(self, Question([item_id], k, filters), row, unknown=[])

    def similar_batch(self, items: NDArray[np.int32], k: int, filters: Filters) -> Found:
        """The k items most like each of B items, as `answer_similar` finds them.

        Args:
            items: (B,) item indices.
            k: answers for each.
            filters: `exclude_seen` has no meaning here: an item itself never comes.

        Returns:
            (B, k) item indices, best first, padded with 0; (B, k) scores, padded with -inf.

        Raises:
            InputError: k or a filter is wrong.
        """
        return best_of_all(self._likeness.of(items), len(items), k, filters, self)

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
