"""Questions to a recommender and its answers: what is asked, what may come, and why fewer came.

Shapes: `V` items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys.item_texts import ItemText
from recsys.predicates import Condition, Groups
from recsys.search import Found
from recsys.vocabulary import ItemId, Vocabulary

RECENT_POPULARITY: Literal["recent popularity"] = "recent popularity"
OVERFETCH = 4  # `at most m of each` looks at so many times the items that are still to be found

Row = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Item indices of one answer, best first, perhaps padded with 0; their scores."""

Search = Callable[[int, NDArray[np.bool_] | None], Found]
"""The best k items of one question among the allowed ones, as one row."""


@dataclass(frozen=True)
class Filters:
    """What may be answered.

    Attributes:
        exclude_seen: leave out the items of the history.
        allow: only these ids may come; default: all.
        deny: these ids may not come.
        where: attribute -> condition, see `recsys.predicates.Condition`; all must hold.
        max_per: attribute -> m: at most m answers share a value of it; an item without a value is not bound.
        min_score: answers must score at least this.
        available: (V,) items that can be had at all; default: all.
    """

    exclude_seen: bool = True
    allow: Iterable[ItemId] | None = None
    deny: Iterable[ItemId] = ()
    where: Mapping[str, Condition] = field(default_factory=dict)
    max_per: Mapping[str, int] = field(default_factory=dict)
    min_score: float | None = None
    available: NDArray[np.bool_] | None = None

    def named(self) -> list[str]:
        """Names of the filters that can take items out one by one."""
        asked = {
            "allow": self.allow is not None,
            "deny": bool(self.deny),
            "where": bool(self.where),
            "exclude_seen": self.exclude_seen,
            "availability": self.available is not None,
        }
        return [name for name, used in asked.items() if used]

    def unknown_to(self, vocabulary: Vocabulary) -> list[ItemId]:
        """Ids of `allow` and `deny` that a model does not know, each once."""
        named = dict.fromkeys((*(self.allow or ()), *self.deny))
        return [each for each in named if not vocabulary.index(each)]


@dataclass(frozen=True)
class Question:
    """What comes next after a history, oldest first: original ids, unknown ones are ignored and named.

    For a model that reads text it may hold items that are described.
    """

    history: Sequence[ItemId | ItemText]
    k: int = 10
    filters: Filters = field(default_factory=Filters)


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
        unknown: ids of the request that the model does not know; they were ignored. Where several questions
            are asked at once, only those of the history, for the filters may be common to all.
        fallback: what answered instead of the model, because no known item was in the history; or None.
        fewer_because: why fewer than k items came; None where k came.
        model_version: of the bundle.
    """

    items: list[ScoredItem]
    unknown: list[ItemId]
    fallback: Literal["recent popularity"] | None
    fewer_because: str | None
    model_version: str

    def naming(self, ids: Iterable[ItemId]) -> Recommendations:
        """The same, with these among the unknown ids."""
        return replace(self, unknown=list(dict.fromkeys((*self.unknown, *ids))))

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for a JSON document."""
        return asdict(self)


def spread(search: Search, k: int, allowed: NDArray[np.bool_], groups: Sequence[tuple[Groups, int]]) -> Row:
    """The best k items of which at most so many share a value: down the ranking, what has no room is passed.

    What was passed over stays without room, so each search goes on among the items that still have some.

    Args:
        search: finds items for the question.
        k: answers.
        allowed: (V,) items that may come; it is written to.
        groups: an attribute, and how many answers may share a value of it.

    Returns:
        At most k item indices, best first, and their scores.
    """
    taken: list[tuple[int, float]] = []
    counts: list[dict[int, int]] = [{} for _ in groups]
    while len(taken) < k:
        indices, scores = search(min(OVERFETCH * (k - len(taken)), len(allowed)), allowed)
        found = np.flatnonzero(indices[0])
        if not len(found):
            break
        for index, score in zip(indices[0, found].tolist(), scores[0, found].tolist(), strict=True):
            codes = [group.of(index) for group, _ in groups]
            full = (
                most <= count.get(code, 0)
                for (_, most), count, has in zip(groups, counts, codes, strict=True)
                for code in has
            )
            if len(taken) < k and not any(full):
                taken.append((index, score))
                for count, has in zip(counts, codes, strict=True):
                    count.update({code: count.get(code, 0) + 1 for code in has})
        allowed[indices[0, found] - 1] = False
        for (group, most), count in zip(groups, counts, strict=True):
            allowed[group.rows_with({code for code, n in count.items() if n >= most})] = False
    best = np.array([index for index, _ in taken], dtype=np.int32)
    return best, np.array([score for _, score in taken], dtype=np.float32)


def why_fewer(filters: Filters, found: int, enough: int, k: int, n_items: int) -> str | None:
    """Why fewer than k items came, in words.

    Args:
        filters: of the question.
        found: items that were found.
        enough: those of them that score enough.
        k: what was asked for.
        n_items: size V of the catalogue.
    """
    if enough >= k:
        return None
    if enough < found:
        return f"only {enough} items that may come score at least {filters.min_score:g}"
    if filters.max_per:
        limits = ", ".join(f"{most} of each `{name}`" for name, most in filters.max_per.items())
        return f"no further item may come with at most {limits}"
    named = ", ".join(filters.named())
    return f"only {found} of {n_items} items may come" + (f" ({named})" if named else "")
