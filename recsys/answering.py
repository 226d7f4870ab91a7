"""Several questions answered with one pass through the encoder and few searches, each as if it were alone.

Shapes: `V` items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.answers import (
    OVERFETCH,
    RECENT_POPULARITY,
    Filters,
    Question,
    Recommendations,
    Row,
    ScoredItem,
    Search,
    spread,
    why_fewer,
)
from recsys.errors import InputError
from recsys.item_texts import ItemText, described, numbered
from recsys.search import Found
from recsys.sequences import Ragged
from recsys.vocabulary import ItemId, Vocabulary

if TYPE_CHECKING:
    from recsys.catalogue import Catalogue
    from recsys.recommender import Recommender

Vectors = NDArray[np.float32]
Queries = Vectors | Ragged
"""(B, D) vectors for an index of vectors, the histories themselves for a counting one."""

RowsSearch = Callable[[NDArray[np.int64], int, NDArray[np.bool_] | None], Found]
"""The best k items of some of several questions, named by their rows, among the allowed ones."""

Observe = Callable[[str, float], None]
"""Is told each stage of an answer (filter, encode, search) and its seconds."""


class Known(Protocol):
    """What an answer is told with: items, what is known of them, and whose answer it is."""

    catalogue: Catalogue

    @property
    def vocabulary(self) -> Vocabulary:
        """Original ids and indices."""
        ...

    @property
    def model_version(self) -> str:
        """Short content hash of what answers."""
        ...


def unobserved(stage: str, seconds: float) -> None:
    """Nobody looks."""


@contextmanager
def stage_of(name: str, observe: Observe) -> Iterator[None]:
    """Tell how long the block took."""
    start = time.perf_counter()
    try:
        yield
    finally:
        observe(name, time.perf_counter() - start)


@dataclass(frozen=True)
class _Asked:
    """A question that can be answered.

    Attributes:
        place: among all.
        question: as it was asked.
        known: items of its history that the catalogue has.
        unknown: ids of its history that the catalogue does not have, each once.
        read: the known ones, and those that are described, as V+1..
        texts: what the latter are like, a row each; None without any.
        allowed: (V,) items that may come; None for all.
    """

    place: int
    question: Question
    known: NDArray[np.int32]
    unknown: list[ItemId]
    read: NDArray[np.int32]
    texts: pa.Table | None
    allowed: NDArray[np.bool_] | None

    @property
    def kind(self) -> tuple[int, ...]:
        """Questions of one kind are one search; `at most m of each` searches alone."""
        filters = self.question.filters
        return (self.place,) if filters.max_per else (self.question.k, filters.exclude_seen, id(self.allowed))


def answer_all(
    recommender: Recommender, questions: Sequence[Question], observe: Observe
) -> list[Recommendations | InputError]:
    """See `Recommender.answer`."""
    answers: dict[int, Recommendations | InputError] = {}
    asked: list[_Asked] = []
    masks: dict[int, NDArray[np.bool_] | None] = {}  # by filters, which questions of one request share
    with stage_of("filter", observe):
        for place, question in enumerate(questions):
            try:
                asked.append(_asked(recommender, place, question, masks))
            except InputError as error:
                answers[place] = error
    filled = [each for each in asked if len(each.read)]
    with stage_of("encode", observe):
        queries = _queries(recommender, filled) if filled else None
    kinds: dict[tuple[int, ...], list[int]] = {}
    for row, each in enumerate(filled):
        kinds.setdefault(each.kind, []).append(row)
    with stage_of("search", observe):
        for rows in kinds.values():
            ours = queries.take(rows) if isinstance(queries, Ragged) else cast(Vectors, queries)[rows]
            answers |= _answer_alike(recommender, [filled[row] for row in rows], ours)
        for each in asked:
            if not len(each.read):
                question = each.question
                found = best(recommender.popular, question.k, each.allowed, question.filters, recommender)
                answers[each.place] = _told(recommender, each, found)
    return [answers[place] for place in range(len(questions))]


def best(
    search: Search, k: int, allowed: NDArray[np.bool_] | None, filters: Filters, recommender: Known
) -> Row:
    """The answer to one question before its scores are looked at.

    Args:
        search: finds items for the question.
        k: answers.
        allowed: (V,) items that may come.
        filters: of the question; of them, `max_per` is left to do.
        recommender: knows the attributes of items.

    Raises:
        InputError: `max_per` names no attribute, or an m below 1.
    """
    if not filters.max_per:
        indices, scores = search(k, allowed)
        return indices[0], scores[0]
    groups = [(recommender.catalogue.groups(name), most) for name, most in filters.max_per.items()]
    mask = np.ones(len(recommender.vocabulary), dtype=bool) if allowed is None else allowed.copy()
    return spread(search, k, mask, groups)


def best_of_all(search: RowsSearch, count: int, k: int, filters: Filters, recommender: Recommender) -> Found:
    """The answers to several questions with the same filters; each is what it would get alone.

    Args:
        search: finds items for some of the questions.
        count: questions B.
        k: answers for each.
        filters: of all of them.
        recommender: knows the attributes of items.

    Returns:
        (B, k) item indices, best first, padded with 0; (B, k) scores, padded with -inf.

    Raises:
        InputError: k or a filter is wrong.
    """
    check_question(k, filters)
    allowed = recommender.catalogue.allowed_by(filters)
    if filters.max_per:
        # What `spread` asks for first is found for all together.
        head = search(np.arange(count), min(OVERFETCH * k, len(recommender.vocabulary)), allowed)
        indices, scores = np.zeros((count, k), np.int32), np.full((count, k), -np.inf, np.float32)
        for row in range(count):
            found = best(_begun(head, search, row), k, allowed, filters, recommender)
            indices[row, : len(found[0])], scores[row, : len(found[0])] = found
    else:
        indices, scores = search(np.arange(count), k, allowed)
    low = ~_enough(scores, filters)
    indices[low], scores[low] = 0, -np.inf
    return indices, scores


def told(
    recommender: Known,
    question: Question,
    row: Row,
    unknown: list[ItemId],
    fallback: Literal["recent popularity"] | None = None,
) -> Recommendations:
    """An answer in original ids, cut where scores are too low, which says why it has fewer than k items."""
    indices, scores = row
    filters, there = question.filters, indices > 0
    enough = there & _enough(scores, filters)
    counts = int(there.sum()), int(enough.sum())
    return Recommendations(
        items=scored(recommender, indices[enough], scores[enough]),
        unknown=unknown,
        fallback=fallback,
        fewer_because=why_fewer(filters, *counts, question.k, len(recommender.vocabulary)),
        model_version=recommender.model_version,
    )


def scored(recommender: Known, indices: NDArray[np.integer], scores: Vectors) -> list[ScoredItem]:
    """Item indices (n,) and their scores in original ids, with titles."""
    ids, titles = recommender.vocabulary.decode(indices), recommender.catalogue.titles(indices)
    return [ScoredItem(*each) for each in zip(ids, scores.tolist(), titles, strict=True)]


def _enough(scores: Vectors, filters: Filters) -> NDArray[np.bool_]:
    """Which scores are not below the least one, as near as float32 comes to that."""
    if filters.min_score is None:
        return np.ones(scores.shape, dtype=bool)
    largest = float(np.finfo(np.float32).max)
    return scores >= np.float32(min(max(filters.min_score, -largest), largest))


def check_question(k: int, filters: Filters) -> None:
    """Refuse numbers below 1.

    Raises:
        InputError: k or an m of `max_per` is below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    for name, most in filters.max_per.items():
        if most < 1:
            raise InputError(f"at most {most} of each `{name}` are asked for; expected at least 1")


def _begun(head: Found, search: RowsSearch, row: int) -> Search:
    """The search of one question whose first result is known already."""
    known = [(head[0][row : row + 1], head[1][row : row + 1])]
    return lambda k, allowed: known.pop() if known else search(np.array([row]), k, allowed)


def _asked(
    recommender: Recommender, place: int, question: Question, masks: dict[int, NDArray[np.bool_] | None]
) -> _Asked:
    history, filters = question.history, question.filters
    if isinstance(history, str):
        raise InputError(f"the history is the text {history!r}; expected a list of item ids: [{history!r}]")
    check_question(question.k, filters)
    for name in filters.max_per:
        recommender.catalogue.groups(name)
    if id(filters) not in masks:
        masks[id(filters)] = recommender.catalogue.allowed_by(filters)
    indices = numbered(history, recommender.bundle)
    texts = [each for each in history if isinstance(each, ItemText)]
    rows = described(recommender.bundle, texts) if texts else None
    read = indices[indices > 0]
    known = read[read <= len(recommender.vocabulary)]
    ids = (cast(ItemId, history[row]) for row in np.flatnonzero(indices == 0).tolist())
    unknown = list(dict.fromkeys(ids))
    return _Asked(place, question, known, unknown, read, rows, masks[id(filters)])


def _queries(recommender: Recommender, filled: list[_Asked]) -> Queries:
    """What to search for; the items that questions describe are numbered through all of them."""
    tables = [each.texts for each in filled if each.texts is not None]
    if not tables:
        return recommender.queries(Ragged.of([each.read for each in filled]))
    size, before, histories = len(recommender.vocabulary), 0, []
    for each in filled:
        histories.append(np.where(each.read > size, each.read + before, each.read))
        before += len(each.texts) if each.texts is not None else 0
    return recommender.queries(Ragged.of(histories), pa.concat_tables(tables))


def _answer_alike(
    recommender: Recommender, members: list[_Asked], queries: Queries
) -> dict[int, Recommendations | InputError]:
    """Answers to questions of one kind, by their place."""
    question, allowed = members[0].question, members[0].allowed
    exclude = Ragged.of([each.known for each in members]) if question.filters.exclude_seen else None

    def search(k: int, allowed: NDArray[np.bool_] | None) -> Found:
        return recommender.search(queries, k, allowed, exclude)

    try:
        if question.filters.max_per:
            rows = [best(search, question.k, allowed, question.filters, recommender)]
        else:
            rows = list(zip(*search(question.k, allowed), strict=True))
    except InputError as error:  # of the model, and so of all of them
        return {each.place: error for each in members}
    return {each.place: _told(recommender, each, row) for each, row in zip(members, rows, strict=True)}


def _told(recommender: Recommender, asked: _Asked, row: Row) -> Recommendations:
    fallback = None if len(asked.read) else RECENT_POPULARITY
    return told(recommender, asked.question, row, asked.unknown, fallback)
