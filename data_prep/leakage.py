"""The check that runs on every prepared set before it is written: no training event may know the future.

It looks at the finished tables alone, not at how they were made.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.assemble import MARKS, Tables
from data_prep.splits import Cuts
from recsys import schema


class LeakageError(RuntimeError):
    """The prepared tables break the rules of their split: a fault of this program, not of the input."""


def check_leakage(
    tables: Tables, kind: str, cuts: Cuts | None, targets: tuple[str, ...] | None = None
) -> list[str]:
    """Check the rules of a split.

    Args:
        tables: the finished tables.
        kind: of the split, such as `leave_one_out`.
        cuts: of a split by global time.
        targets: types of events that a target can be of; None for all.

    Returns:
        What was checked, in words.

    Raises:
        LeakageError: a rule is broken; the message names the rule and the first sequence or item.
    """
    lengths = np.diff(tables.offsets)
    train_end, valid_start, test_start = (tables.mark(mark) for mark in MARKS)
    ids = tables.sequences[schema.SEQUENCE_ID]

    def rule(name: str, holds: NDArray[np.bool_]) -> str:
        if not holds.all():
            first = int(np.argmin(holds))
            raise LeakageError(
                f"{name}: broken by sequence `{ids[first].as_py()}` and {np.sum(~holds) - 1} others"
            )
        return name

    ordered = (
        (train_end >= 0) & (train_end <= valid_start) & (valid_start <= test_start) & (test_start <= lengths)
    )
    passed = [
        rule("every sequence stands once", _unique(ids.to_numpy())),
        rule("training ends before validation, validation before test", ordered),
    ]
    if tables.times is not None:
        backwards = (
            np.flatnonzero(np.diff(tables.times) < 0) + 1
        )  # where an event is older than the one before
        steps_back = np.isin(backwards, tables.offsets, invert=True)
        rows = np.searchsorted(tables.offsets, backwards[steps_back], side="right") - 1
        passed.append(rule("time never runs backwards in a sequence", ~np.isin(np.arange(len(ids)), rows)))
    is_target = tables.of_types(targets)
    begun = np.zeros(len(is_target) + 1, dtype=np.int64)  # targets before each event
    np.cumsum(is_target, out=begun[1:])

    def between(start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """(S,) targets among the events [start, stop) of each sequence."""
        first = tables.offsets[:-1]
        count: NDArray[np.int64] = begun[first + stop] - begun[first + start]
        return count

    in_valid, in_test = between(valid_start, test_start), between(test_start, lengths)
    if targets is not None:
        at = [np.minimum(mark + 1, lengths) for mark in (valid_start, test_start)]
        begins = ((valid_start == test_start) | (between(valid_start, at[0]) == 1)) & (
            (test_start == lengths) | (between(test_start, at[1]) == 1)
        )
        passed.append(rule(f"validation and test begin with an event of {', '.join(targets)}", begins))
    if kind == "user_holdout":
        all_training = train_end == lengths
        asked = np.minimum(between(np.zeros_like(lengths), lengths), 1)
        one_target = (train_end == 0) & (in_valid + in_test == asked)
        passed.append(
            rule("a held-out sequence trains nothing and has one target", all_training | one_target)
        )
    elif kind == "low_resource":
        passed.append(
            rule("a sequence trains whole or not at all", (train_end == valid_start) | (train_end == 0))
        )
    elif targets is None or kind == "leave_one_out":
        passed.append(rule("every event is in exactly one part", train_end == valid_start))
    else:
        passed.append(rule("every target is in exactly one part", between(train_end, valid_start) == 0))
    if kind == "item_cold":
        tested = tables.values[tables.offsets[1:] - 1]
        untrained = np.asarray(tables.items[schema.ITEM_COUNT])[tested - 1] == 0
        passed.append(
            rule("the items of the test have no training event", untrained | (test_start == lengths))
        )
    if kind in ("leave_one_out", "low_resource"):
        possible = between(np.minimum(1, lengths), lengths)  # a first event has no history
        one_each = (in_test == (possible >= 1)) & (in_valid == (possible >= 2))
        passed.append(rule("one test event, and one for validation before it", one_each))
    if cuts is not None:
        within = _within_cuts(tables, cuts, is_target)
        passed.append(rule("no event lies on the wrong side of a cut in time", within))
    passed.append(_check_counts(tables))
    return passed


def _unique(ids: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(S,) whether no earlier row has the id."""
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return first


def _within_cuts(tables: Tables, cuts: Cuts, is_target: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(S,) whether training < valid_from <= validation < test_from <= test holds for all its events.

    Of the last two parts only targets (E,) count: what else stands there is asked of nobody.
    """
    assert tables.times is not None
    lengths = np.diff(tables.offsets)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(rows)) - tables.offsets[rows]
    trained = places < tables.mark(schema.TRAIN_END)[rows]
    tested = places >= tables.mark(schema.TEST_START)[rows]
    late = tables.times >= cuts.test_from
    broken = (trained != (tables.times < cuts.valid_from)) | (is_target & (tested != late))
    wrong = np.bincount(rows, weights=broken, minlength=len(lengths))
    return np.equal(wrong, 0)


def _check_counts(tables: Tables) -> str:
    """Item counts are those of the training part, and nothing else."""
    name = "item counts come from training events only"
    lengths = np.diff(tables.offsets)
    places = np.arange(len(tables.values)) - np.repeat(tables.offsets[:-1], lengths)
    training = tables.values[places < np.repeat(tables.mark(schema.TRAIN_END), lengths)]
    stated = np.asarray(tables.items[schema.ITEM_COUNT])
    counted = np.bincount(training, minlength=len(stated) + 1)[1:]
    if not np.array_equal(counted, stated):
        first = int(np.argmax(counted != stated))
        item = tables.items[schema.ITEM_ID][first].as_py()
        raise LeakageError(
            f"{name}: item `{item}` has {stated[first]}, its training events are {counted[first]}"
        )
    return name
