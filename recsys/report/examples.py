"""Example users of a report: what they had, what came next, and what the model had recommended.

Shapes: `N` examples, `V` items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.dataset import PreparedData, Split
from recsys.evaluation import score_function

EXAMPLES = 10
SHOWN_HISTORY = 5
SHOWN_ITEMS = 10


@dataclass(frozen=True)
class ShownItem:
    """An item as a person reads it; `title` is the id where the item has none."""

    id: str
    title: str
    is_target: bool = False


@dataclass(frozen=True)
class Example:
    """One user's question and the model's answer.

    Attributes:
        user: original sequence id.
        events: length of the history.
        history: its last items, oldest first.
        target: the item that came next.
        rank: place of the target in the full ranking, from 1; None where it was taken out as seen.
        items: the first items of the ranking, best first.
    """

    user: str
    events: int
    history: list[ShownItem]
    target: ShownItem
    rank: int | None
    items: list[ShownItem]

    @property
    def hit(self) -> bool:
        """Whether the target is among the items shown."""
        return any(item.is_target for item in self.items)


def example_users(
    bundle: Bundle,
    data: PreparedData,
    gains: NDArray[np.float64],
    *,
    split: Split,
    exclude_seen: bool,
    seed: int = 0,
) -> list[Example]:
    """Ten users: five of those whose target was found and five of the others, by a seeded draw.

    Where one kind has fewer, the other has more.

    Args:
        bundle: the model.
        data: its prepared data.
        gains: what each target of the split gained, in their order; above 0 is a hit.
        split: whose targets.
        exclude_seen: take the items of the history out of the ranking.
        seed: of the draw.
    """
    targets = data.targets(split)
    places = _spread(gains > 0, np.random.default_rng(seed))
    histories, items = targets.histories.take(places), targets.items[places]
    scores_NV = score_function(bundle.model)(histories)
    if exclude_seen:
        scores_NV[histories.rows, histories.values - 1] = -np.inf
    names = _Names(bundle)
    ids = data.ids.take(targets.rows[places]).to_pylist()
    examples = []
    for row, place in enumerate(places):
        ranked = np.argsort(-scores_NV[row], kind="stable") + 1
        ranked = ranked[: int(np.isfinite(scores_NV[row]).sum())]  # what was taken out stands last
        rank = np.flatnonzero(ranked == items[row])
        examples.append(
            Example(
                user=str(ids[row]),
                events=int(targets.histories.lengths[place]),
                history=names.of(histories[row][-SHOWN_HISTORY:]),
                target=names.of(items[row : row + 1])[0],
                rank=int(rank[0]) + 1 if len(rank) else None,
                items=names.of(ranked[:SHOWN_ITEMS], target=int(items[row])),
            )
        )
    return examples


def _spread(hit: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of hits and of misses, each in random order, half of each where there are enough."""
    hits, misses = (rng.permutation(np.flatnonzero(kind)) for kind in (hit, ~hit))
    half = EXAMPLES // 2
    n_hits = min(len(hits), max(half, EXAMPLES - len(misses)))
    return np.concatenate([hits[:n_hits], misses[: EXAMPLES - n_hits]])


class _Names:
    """Titles of item indices, the id where an item has no title."""

    def __init__(self, bundle: Bundle) -> None:
        self._vocabulary = bundle.vocabulary
        self._catalogue = Catalogue(bundle.items, bundle.vocabulary)

    def of(self, indices: NDArray[np.int32] | NDArray[np.int64], target: int = 0) -> list[ShownItem]:
        ids, titles = self._vocabulary.decode(indices), self._catalogue.titles(indices)
        return [
            ShownItem(str(item), title or str(item), int(index) == target)
            for item, title, index in zip(ids, titles, indices, strict=True)
        ]
