"""Where targets stand in a model's ranking, and the head of that ranking, in blocks of users.

No (users, items) matrix is ever held: a block has at most `CELLS_PER_CHUNK` scores. A target's rank is
counted in the first K items of its row, and over the whole row only where it is tied with the last of them.

Shapes: `T` users, `B` users of a block, `V` items, `D` width, `K` listed items, `E` targets of all users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.dataset import Targets
from recsys.encoding import encode_histories
from recsys.errors import InputError
from recsys.metrics import BEYOND, Counts
from recsys.models.protocol import CountingModel, Encoder, Model
from recsys.schema import PAD
from recsys.sequences import Ragged
from recsys.topk import top_k

Scorer = Callable[[Ragged], NDArray[np.float32]]
"""B histories -> (B, V) scores, compared in float32, whatever they come in; -inf is the lowest of them."""
LOWEST = np.finfo(np.float32).min
"""What a score of -inf is ranked as: -inf itself marks an item that must not be ranked."""
CELLS_PER_CHUNK = 1 << 23
"""Scores held at once (32 MiB in float32): what bounds the memory of an evaluation; the fastest measured."""
ROWS_PER_CHUNK = 1024
ENCODED_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Ranks:
    """Where the targets of T users stand.

    Attributes:
        above: (E,) items that score higher than each target, exact below K; `BEYOND` from there on, and for
            a target that may not be ranked.
        level: (E,) items that score the same, the target among them; 1 where `above` is `BEYOND`.
        offsets: (T+1,) where each user's targets begin; the next item is the first of them.
        lists: (T, K) int32 best items, equal scores by index, 0 where no item is left; K is 0 for sampled
            candidates.
    """

    above: Counts
    level: Counts
    offsets: Counts
    lists: NDArray[np.int32]

    def missing(self, missed_E: NDArray[np.bool_]) -> Ranks:
        """The same with some targets beyond every K."""
        above, level = np.where(missed_E, BEYOND, self.above), np.where(missed_E, 1, self.level)
        return replace(self, above=above, level=level)


def score_function(model: Model, device: str | torch.device = "cpu") -> Scorer:
    """Dense scores of a model: B histories -> (B, V) float32, column j is item j+1."""
    if isinstance(model, CountingModel):
        return lambda histories: model.prior + model.scores(histories).toarray()
    table_VD = model.item_table().detach().to(device)

    def score(histories: Ragged) -> NDArray[np.float32]:
        vectors_BD = torch.from_numpy(encode_histories(model, histories, device)).to(device)
        with torch.inference_mode():
            scores: NDArray[np.float32] = (vectors_BD @ table_VD.float().T).cpu().numpy()
        return scores

    return score


def chunks(targets: Targets, n_items: int) -> Iterator[NDArray[np.int64]]:
    """Places 0..T-1 in chunks of similar history length, each small enough to hold its dense scores."""
    order = np.argsort(targets.histories.lengths, kind="stable")
    size = int(np.clip(CELLS_PER_CHUNK // n_items, 1, ROWS_PER_CHUNK))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.inference_mode()
def score_blocks(
    model: Model | Scorer, targets: Targets, n_items: int
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """Places in `targets` with the (B, V) scores of their histories, block by block.

    A block is the caller's to change, and may be overwritten by the next one. An encoder reads many histories
    at once, of which a block scores a few; its table is multiplied as a (D, V) copy in memory order.

    Raises:
        InputError: a scorer's answer is of another shape.
    """
    if not isinstance(model, Encoder):
        score = score_function(model) if isinstance(model, CountingModel) else model
        for places in chunks(targets, n_items):
            scores = np.asarray(score(targets.histories.take(places)))
            if scores.shape != (len(places), n_items):
                raise InputError(
                    f"the scorer answered {len(places)} histories with scores of shape {scores.shape}; "
                    f"expected ({len(places)}, {n_items}), column j the score of item j + 1"
                )
            copied = scores.astype(np.float32, order="C")  # a scorer may keep what it gave
            yield places, torch.from_numpy(np.maximum(copied, LOWEST, out=copied))
        return
    table_DV = model.item_table().detach().float().T.contiguous()
    blocks = list(chunks(targets, n_items))
    scores_BV = torch.empty(len(blocks[0]) if blocks else 0, n_items)
    for group in _groups(blocks, ENCODED_AT_ONCE):
        vectors = torch.from_numpy(encode_histories(model, targets.histories.take(np.concatenate(group))))
        start = 0
        for places in group:
            rows = scores_BV[: len(places)]
            torch.mm(vectors[start : start + len(places)], table_DV, out=rows)
            start += len(places)
            yield places, rows


def rank_all(
    model: Model | Scorer,
    targets: Targets,
    asked: Ragged,
    *,
    n_items: int,
    k: int,
    exclude_seen: bool,
    allowed_V: NDArray[np.bool_] | None = None,
) -> Ranks:
    """Rank the whole catalogue, or a part of it, for every user.

    Args:
        model: a model, or its dense scores.
        targets: T histories.
        asked: T ragged rows, the targets of each user.
        n_items: V.
        k: depth to which ranks are exact and lists are kept.
        exclude_seen: take the items of the history out of the ranking.
        allowed_V: items to rank, every target among them; default: all.

    Raises:
        InputError: a score is NaN, or a scorer's answer is of another shape.
    """
    depth = min(k, n_items)
    above = np.full(len(asked.values), BEYOND, dtype=np.int64)
    level = np.ones_like(above)
    lists = np.full((len(asked), depth), PAD, dtype=np.int32)
    with torch.inference_mode():
        for places, scores_BV in score_blocks(model, targets, n_items):
            if allowed_V is not None:
                scores_BV[:, torch.from_numpy(~allowed_V)] = -torch.inf
            if exclude_seen:
                seen = targets.histories.take(places)
                scores_BV[torch.from_numpy(seen.rows), torch.from_numpy(seen.values - 1).long()] = -torch.inf
            best_BK, columns_BK = top_k(scores_BV, depth)
            lists[places] = torch.where(best_BK > -torch.inf, columns_BK + 1, PAD).int().numpy()
            some = asked.take(places)
            entries = _entries(asked, places)
            above[entries], level[entries] = _counts(scores_BV, best_BK, some)
    return Ranks(above, level, asked.offsets, lists)


def _counts(scores_BV: torch.Tensor, best_BK: torch.Tensor, asked: Ragged) -> tuple[Counts, Counts]:
    """Items above and level of each target of a block."""
    rows = torch.from_numpy(asked.rows)
    scores_E = scores_BV[rows, torch.from_numpy(asked.values - 1).long()]
    listed_EK = best_BK[rows]
    above_E = (listed_EK > scores_E[:, None]).sum(dim=1)
    level_E = (listed_EK == scores_E[:, None]).sum(dim=1)
    last_E = listed_EK[:, -1]
    ranked_E = (scores_E >= last_E) & (scores_E > -torch.inf)
    # Ties with the last listed item may go on below it: count those rows in full, one row at a time.
    for entry in torch.nonzero(ranked_E & (scores_E == last_E)).flatten().tolist():
        level_E[entry] = torch.count_nonzero(scores_BV[rows[entry]] == scores_E[entry])
    above = np.where(ranked_E.numpy(), above_E.numpy(), BEYOND)
    return above, np.where(ranked_E.numpy(), level_E.numpy(), 1)


def _entries(asked: Ragged, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the values of the rows `places` stand in `asked.values`."""
    lengths = asked.lengths[places]
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(asked.offsets[places] - ends + lengths, lengths)


def _groups(blocks: list[NDArray[np.int64]], size: int) -> Iterator[list[NDArray[np.int64]]]:
    """Consecutive blocks, together about `size` users."""
    each = max(size // len(blocks[0]), 1) if blocks else 1
    for start in range(0, len(blocks), each):
        yield blocks[start : start + each]
