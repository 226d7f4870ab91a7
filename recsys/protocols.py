"""Sampled protocols: the next item against 100 negatives, seeded, and stored so that others rank the same.

Shapes: `T` users, `B` users of a block, `V` items, `N` = 100 negatives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.dataset import PreparedData, Split, Targets
from recsys.errors import InputError
from recsys.files import check_writable, written_file
from recsys.metrics import rank_counts
from recsys.models.popularity import item_counts
from recsys.models.protocol import Model
from recsys.ranking import Ranks, Scorer, score_blocks
from recsys.sequences import Ragged

Protocol = Literal["full", "pop-100", "uniform-100"]
NEGATIVES = 100
ROWS_PER_DRAW = 1024
ROWS_PER_CHECK = 1 << 14
QUICK_DRAWS = 256
"""Items drawn with replacement for each user before the rest is drawn exactly from what is left."""


def sampled_negatives(data: PreparedData, split: Split, protocol: Protocol, seed: int) -> NDArray[np.int32]:
    """(T, 100) negatives of every target of a split, aligned with `data.targets(split)`.

    Drawn without replacement, never from the user's own sequence: `pop-100` in proportion to the counts over
    all events, as BERT4Rec's authors draw them, `uniform-100` uniformly. They depend on the data and the seed
    alone, not on a model.

    Raises:
        InputError: fewer than 100 items are left to draw from.
    """
    counts_V = item_counts(data.sequences.values, len(data.vocabulary)).astype(np.float64)
    weights_V = counts_V if protocol == "pop-100" else np.ones_like(counts_V)
    rows, rng = data.targets(split).rows, np.random.default_rng(seed)
    size = int(np.clip((1 << 24) // len(weights_V), 1, ROWS_PER_DRAW))
    drawn = [
        draw_negatives(weights_V, data.sequences.take(rows[start : start + size]), rng)
        for start in range(0, len(rows), size)
    ]
    return np.concatenate([np.empty((0, NEGATIVES), np.int32), *drawn])


def draw_negatives(
    weights_V: NDArray[np.float64], own: Ragged, rng: np.random.Generator
) -> NDArray[np.int32]:
    """(B, 100) items without replacement in proportion to their weights, none of the user's own.

    Draws with replacement whose repetitions are left out are draws without replacement. Rows that come short
    after `QUICK_DRAWS` of them go on among the items that are left, in the order of log-weight + Gumbel
    noise, which is the same law (Kool et al. 2019, "Stochastic beams and where to find them", section 2).

    Raises:
        InputError: fewer than 100 items are left to draw from.
    """
    barred_BV = np.zeros((len(own), len(weights_V)), dtype=bool)
    barred_BV[:, weights_V <= 0] = True
    barred_BV[own.rows, own.values - 1] = True
    left = int((~barred_BV).sum(axis=1).min(initial=NEGATIVES))
    if left < NEGATIVES:
        raise InputError(
            f"{NEGATIVES} negatives were asked for, but a user has only {left} left to draw from; "
            "use --protocol full"
        )
    cumulative = np.cumsum(weights_V)
    draws = rng.random((len(own), QUICK_DRAWS)) * cumulative[-1]
    columns_BQ = np.minimum(np.searchsorted(cumulative, draws, side="right"), len(weights_V) - 1)
    fresh_BQ = _first_occurrences(columns_BQ) & ~np.take_along_axis(barred_BV, columns_BQ, axis=1)
    order = np.argsort(~fresh_BQ, axis=1, kind="stable")[:, :NEGATIVES]
    drawn_BN = np.take_along_axis(columns_BQ, order, axis=1)
    for row in np.flatnonzero(fresh_BQ.sum(axis=1) < NEGATIVES):
        found = columns_BQ[row][fresh_BQ[row]]
        barred_BV[row, found] = True
        rest = np.flatnonzero(~barred_BV[row])
        keys = np.log(weights_V[rest]) + rng.gumbel(size=len(rest))
        missing = NEGATIVES - len(found)
        drawn_BN[row] = np.r_[found, rest[np.argsort(-keys)[:missing]]]
    return (drawn_BN + 1).astype(np.int32)


def rank_sampled(
    model: Model | Scorer,
    data: PreparedData,
    split: Split,
    negatives: NDArray[np.int32],
) -> Ranks:
    """Ranks of the next item among itself and the negatives; other items of the split are not asked for.

    Raises:
        InputError: a score is NaN, or a scorer's answer is of another shape.
    """
    targets = data.targets(split)
    above = np.empty(len(targets.rows), dtype=np.int64)
    level = np.empty_like(above)
    for places, scores_BV in score_blocks(model, targets, len(data.vocabulary)):
        candidates = np.concatenate([targets.items[places, None], negatives[places]], axis=1)
        scores = np.take_along_axis(scores_BV.numpy(), candidates.astype(np.int64) - 1, axis=1)
        above[places], level[places] = rank_counts(scores, np.ones(len(places), dtype=np.int32))
    return Ranks(above, level, np.arange(len(above) + 1), np.empty((len(above), 0), np.int32))


def stored_negatives(
    file: Path | None, data: PreparedData, split: Split, protocol: Protocol, seed: int
) -> NDArray[np.int32]:
    """The negatives of a file, or new ones, which are then written there.

    The file is Parquet: `sequence` (original id), `target` and `negatives` (item indices, as in the prepared
    data's items.parquet), one row a user.

    Raises:
        InputError: the file is of other data, another split, protocol or seed, cannot be read, or is not what
            was written; or it cannot be written.
    """
    if file is None:
        return sampled_negatives(data, split, protocol, seed)
    targets = data.targets(split)
    facts = {"data": data.digest, "split": split, "protocol": protocol, "seed": str(seed)}
    if file.exists():
        return _read_negatives(file, facts, data, targets)
    check_writable(file)
    negatives = sampled_negatives(data, split, protocol, seed)
    columns = {
        "sequence": data.ids.take(pa.array(targets.rows)),
        "target": pa.array(targets.items),
        "negatives": pa.FixedSizeListArray.from_arrays(pa.array(negatives.ravel()), NEGATIVES),
    }
    with written_file(file) as draft:
        pq.write_table(pa.table(columns).replace_schema_metadata(facts), draft)
    return negatives


def _read_negatives(
    file: Path, facts: dict[str, str], data: PreparedData, targets: Targets
) -> NDArray[np.int32]:
    remedy = "name another file, which is then written, or remove this one"
    users, n_items = len(targets.rows), len(data.vocabulary)
    try:
        table = pq.read_table(file)
        asked = table["sequence"].combine_chunks().cast(data.ids.type), np.asarray(table["target"])
        lists = table["negatives"].combine_chunks()
        full = len(lists) == users and pc.all(pc.equal(pc.list_value_length(lists), NEGATIVES)).as_py()
        values = np.asarray(pc.list_flatten(lists))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(f"{file} holds no negatives ({error}); {remedy}") from error
    stored = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
    for key, wanted in facts.items():
        if stored.get(key) != wanted:
            raise InputError(
                f"the negatives in {file} are of {key} {stored.get(key, 'unknown')[:12]}, and {wanted[:12]} "
                f"was asked for; {remedy}"
            )
    whole = full and not lists.null_count and len(values) == users * NEGATIVES and values.dtype.kind in "iu"
    if not whole or values.min(initial=1) < 1 or values.max(initial=1) > n_items:
        raise InputError(
            f"the negatives in {file} are damaged; expected {users:,} rows of {NEGATIVES} item indices from "
            f"1 to {n_items:,}: {remedy}"
        )
    if not (asked[0].equals(data.ids.take(pa.array(targets.rows))) and (asked[1] == targets.items).all()):
        raise InputError(
            f"the rows of {file} are not the users and targets of this data in its order; {remedy}"
        )
    negatives = values.astype(np.int32).reshape(users, NEGATIVES)
    if wrong := _unlawful(negatives, data, targets.rows):
        raise InputError(f"the negatives in {file} are damaged: {wrong}; {remedy}")
    return negatives


def _unlawful(negatives: NDArray[np.int32], data: PreparedData, rows: NDArray[np.int64]) -> str:
    """What is wrong with (T, 100) negatives of the users `rows`, in words; empty if nothing is."""
    width = len(data.vocabulary) + 1
    for start in range(0, len(rows), ROWS_PER_CHECK):
        block_BN = np.sort(negatives[start : start + ROWS_PER_CHECK], axis=1)
        own = data.sequences.take(rows[start : start + ROWS_PER_CHECK])
        twice_B = (block_BN[:, 1:] == block_BN[:, :-1]).any(axis=1)
        keys_BN = np.arange(len(block_BN))[:, None] * width + block_BN
        own_B = np.isin(keys_BN, own.rows * width + own.values).any(axis=1)
        for wrong_B, words in ((twice_B, "an item twice"), (own_B, "an item of the user's own sequence")):
            if wrong_B.any():
                user = data.ids[int(rows[start + int(wrong_B.argmax())])].as_py()
                return f"the row of {user!r} has {words}"
    return ""


def _first_occurrences(values_BQ: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, Q) whether a value stands for the first time in its row."""
    order = np.argsort(values_BQ, axis=1, kind="stable")
    ordered = np.take_along_axis(values_BQ, order, axis=1)
    new = np.ones_like(ordered, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first
