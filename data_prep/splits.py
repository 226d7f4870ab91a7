"""Splits, as marks: [0, train_end) is training, [valid_start, test_start) validation, the rest test.

Written with narwhals, like the cleaning: lazy, no lists, no reliance on row order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import narwhals as nw
import numpy as np

from data_prep.cleaning import is_timed, positions
from data_prep.frame_types import ORDER, Frame
from data_prep.times import parse_moment
from recsys import schema
from recsys.config import GlobalTime, ItemCold, LeaveOneOut, LowResource, SplitConfig, UserHoldout
from recsys.errors import InputError

LENGTH = "length"  # int32 events of the sequence
WITHHELD = f"{schema.HELPER}withheld"  # whether the event is of an item that leaves training
_LAST, _BEFORE = "last", "before"  # places of the last two events that can be targets, -1 where there is none


@dataclass(frozen=True)
class Cuts:
    """Where validation and test begin, in microseconds since 1970 UTC."""

    valid_from: int
    test_from: int


def split_marks(events: Frame, split: SplitConfig, cuts: Cuts | None) -> Frame:
    """One row for each sequence: sequence, length, train_end, valid_start, test_start (int32).

    Args:
        events: the cleaned canonical frame.
        split: the `split` section.
        cuts: what `global_cuts` gave for it; only the split by global time has them.
    """
    if isinstance(split, GlobalTime):
        assert cuts is not None
        marks = _global_time(events, split, cuts)
    elif isinstance(split, UserHoldout):
        marks = _user_holdout(events, split)
    elif isinstance(split, ItemCold):
        marks = _item_cold(events, split)
    elif isinstance(split, LowResource):
        marks = _low_resource(events, split)
    else:
        marks = _leave_one_out(events, split)
    columns = (LENGTH, schema.TRAIN_END, schema.VALID_START, schema.TEST_START)
    return marks.select(schema.SEQUENCE, *(nw.col(column).cast(nw.Int32) for column in columns))


def training_counts(positioned: Frame, marks: Frame) -> Frame:
    """Item -> events in the training part (`count`); items that are not in it have 0.

    Args:
        positioned: events with their `position`.
        marks: what `split_marks` gave.
    """
    training = nw.col(schema.POSITION) < nw.col(schema.TRAIN_END)
    joined = positioned.join(marks, on=schema.SEQUENCE, how="inner")
    counted = joined.with_columns(training.cast(nw.Int64).alias(schema.ITEM_COUNT))
    return counted.group_by(schema.ITEM).agg(nw.col(schema.ITEM_COUNT).sum())


def global_cuts(events: Frame, split: SplitConfig) -> Cuts | None:
    """The two cuts of a split by global time, and None for every other split.

    A fraction f is the time of the event that stands at f of all events in time order; events at the very
    time of a cut belong to the later part, so that nothing of the future reaches training.

    Raises:
        InputError: the log has no time, a fraction is not between 0 and 1, or the cuts are out of order.
    """
    if not isinstance(split, GlobalTime):
        return None
    if not is_timed(events):
        raise InputError("split global_time needs times; set data.columns.time or choose split=leave_one_out")
    counts = events.group_by(schema.TIME).agg(nw.len().alias("n")).sort(schema.TIME).collect("pyarrow")
    times, before = counts[schema.TIME].to_numpy(), np.cumsum(counts["n"].to_numpy().astype(np.int64))

    def cut(value: str | float, key: str) -> int:
        if isinstance(value, str):
            return parse_moment(value, key)
        if not 0 < value < 1:
            raise InputError(f"{key} is {value}; expected a fraction between 0 and 1, or an ISO date")
        return int(times[np.searchsorted(before, int(value * before[-1]), side="right")])

    cuts = Cuts(cut(split.valid_from, "split.valid_from"), cut(split.test_from, "split.test_from"))
    if cuts.valid_from > cuts.test_from:
        raise InputError(
            f"split.valid_from ({split.valid_from}) lies after split.test_from ({split.test_from}); "
            "validation comes before test: exchange them"
        )
    return cuts


def check_targets(events: Frame, split: SplitConfig) -> None:
    """Refuse types of targets that the log does not have.

    Raises:
        InputError: the log has no event types, or none of that name.
    """
    if split.targets is None:
        return
    if schema.EVENT not in events.collect_schema():
        raise InputError("split.targets needs the types of events; set data.columns.event, or unset it")
    known = sorted(events.select(schema.EVENT).unique().collect("pyarrow")[schema.EVENT].to_list())
    if unknown := [name for name in split.targets if name not in known]:
        raise InputError(
            f"split.targets names `{unknown[0]}`, but no event left by the cleaning is of that type; there "
            f"are: {', '.join(known)}"
        )


def _leave_one_out(events: Frame, split: LeaveOneOut | LowResource) -> Frame:
    """Last target test, the one before it validation; a first event, with nothing before it, is neither."""
    last, before = nw.col(_LAST), nw.col(_BEFORE)
    placed = _last_places(events, split.targets)
    tested = placed.with_columns(
        nw.when(last >= 1).then(last).otherwise(nw.col(LENGTH)).alias(schema.TEST_START)
    )
    valid_start = nw.when(before >= 1).then(before).otherwise(nw.col(schema.TEST_START))
    return tested.with_columns(
        valid_start.alias(schema.VALID_START),
        valid_start.alias(schema.TRAIN_END),
    )


def _low_resource(events: Frame, split: LowResource) -> Frame:
    """As leave-one-out; of a sequence that does not train, all that comes before the targets is history."""
    marks = _leave_one_out(events, split)
    ids = marks.select(schema.SEQUENCE).collect("pyarrow")[schema.SEQUENCE].to_list()
    idle = [sequence for sequence in ids if drawn(split.seed, sequence) >= split.users]
    end = nw.when(nw.col(schema.SEQUENCE).is_in(idle)).then(nw.lit(0)).otherwise(nw.col(schema.TRAIN_END))
    return marks.with_columns(end.alias(schema.TRAIN_END))


def _last_places(events: Frame, targets: tuple[str, ...] | None) -> Frame:
    """Sequence, length, and the places of the last two events of these types, -1 where there is none."""
    lengths = _lengths(events)
    if targets is None:
        n = nw.col(LENGTH)
        return lengths.with_columns((n - 1).alias(_LAST), nw.max_horizontal(n - 2, nw.lit(-1)).alias(_BEFORE))
    found = positions(events).filter(nw.col(schema.EVENT).is_in(targets))
    from_end = nw.col(schema.ROW).cum_count(reverse=True).over(schema.SEQUENCE, order_by=ORDER)
    numbered = found.with_columns(from_end.alias("from_end"))
    at = nw.col(schema.POSITION)
    two = numbered.with_columns(
        nw.when(nw.col("from_end") == 1).then(at).alias(_LAST),
        nw.when(nw.col("from_end") == 2).then(at).alias(_BEFORE),
    )
    places = two.group_by(schema.SEQUENCE).agg(nw.col(_LAST).max(), nw.col(_BEFORE).max())
    joined = lengths.join(places, on=schema.SEQUENCE, how="left")
    return joined.with_columns(nw.col(_LAST).fill_null(-1), nw.col(_BEFORE).fill_null(-1))


def _global_time(events: Frame, split: GlobalTime, cuts: Cuts) -> Frame:
    if split.targets is not None:
        return _global_time_of_types(events, split.targets, cuts)
    time = nw.col(schema.TIME)
    flagged = events.with_columns(
        (time < cuts.valid_from).cast(nw.Int32).alias(schema.VALID_START),
        (time < cuts.test_from).cast(nw.Int32).alias(schema.TEST_START),
    )
    marks = flagged.group_by(schema.SEQUENCE).agg(
        nw.len().alias(LENGTH), nw.col(schema.VALID_START).sum(), nw.col(schema.TEST_START).sum()
    )
    return marks.with_columns(nw.col(schema.VALID_START).alias(schema.TRAIN_END))


def _global_time_of_types(events: Frame, targets: tuple[str, ...], cuts: Cuts) -> Frame:
    """Training ends at the cut; validation and test begin at the first target after theirs."""
    time, at = nw.col(schema.TIME), nw.col(schema.POSITION)
    target, tested = nw.col(schema.EVENT).is_in(targets), time >= cuts.test_from
    flagged = positions(events).with_columns(
        (time < cuts.valid_from).cast(nw.Int32).alias(schema.TRAIN_END),
        nw.when(target & (time >= cuts.valid_from) & ~tested).then(at).alias(schema.VALID_START),
        nw.when(target & tested).then(at).alias(schema.TEST_START),
    )
    marks = flagged.group_by(schema.SEQUENCE).agg(
        nw.len().cast(nw.Int32).alias(LENGTH),
        nw.col(schema.TRAIN_END).sum(),
        nw.col(schema.VALID_START).min(),
        nw.col(schema.TEST_START).min(),
    )
    for mark, otherwise in ((schema.TEST_START, LENGTH), (schema.VALID_START, schema.TEST_START)):
        found = nw.col(mark)
        marks = marks.with_columns(
            nw.when(~found.is_null()).then(found).otherwise(nw.col(otherwise)).alias(mark)
        )
    return marks


def _user_holdout(events: Frame, split: UserHoldout) -> Frame:
    """Held-out sequences train nothing; their last target is asked for, what is before it is its history."""
    lengths = _last_places(events, split.targets)
    ids = lengths.select(schema.SEQUENCE).collect("pyarrow")[schema.SEQUENCE].to_list()
    valid, test = held_out(ids, split)
    in_valid, in_test = nw.col(schema.SEQUENCE).is_in(valid), nw.col(schema.SEQUENCE).is_in(test)
    end = nw.col(LENGTH)
    held, last = in_valid | in_test, nw.when(nw.col(_LAST) >= 0).then(nw.col(_LAST)).otherwise(end)
    return lengths.with_columns(
        nw.when(held).then(nw.lit(0)).otherwise(end).alias(schema.TRAIN_END),
        nw.when(held).then(last).otherwise(end).alias(schema.VALID_START),
        nw.when(in_test).then(last).otherwise(end).alias(schema.TEST_START),
    )


def held_out(ids: list[int | str], split: UserHoldout) -> tuple[list[int | str], list[int | str]]:
    """Ids held out for validation and for test.

    Each id is drawn by a hash of the seed and itself, so that more data moves no sequence to another part.

    Raises:
        InputError: the fractions leave nothing to train on.
    """
    if split.valid + split.test >= 1:
        raise InputError(
            f"split.valid {split.valid} and split.test {split.test} leave no sequence to train on; "
            "their sum must be less than 1"
        )
    valid, test = [], []
    for sequence in ids:
        draw = drawn(split.seed, sequence)
        if draw < split.test:
            test.append(sequence)
        elif draw < split.test + split.valid:
            valid.append(sequence)
    return valid, test


def _item_cold(events: Frame, split: ItemCold) -> Frame:
    """A withheld item, at the end if at all, is the test target, and the event before it validation's."""
    flagged = flag_withheld(events, split).group_by(schema.SEQUENCE)
    withheld = nw.col(WITHHELD).cast(nw.Int32).sum()
    test_start = nw.col(LENGTH) - nw.col(WITHHELD)
    valid_start = test_start - (test_start >= 2).cast(nw.Int32)
    return flagged.agg(nw.len().cast(nw.Int32).alias(LENGTH), withheld).with_columns(
        test_start.alias(schema.TEST_START),
        valid_start.alias(schema.VALID_START),
        valid_start.alias(schema.TRAIN_END),
    )


def flag_withheld(events: Frame, split: ItemCold) -> Frame:
    """The events with a column that marks those of items that leave training."""
    ids = events.select(schema.ITEM).unique().collect("pyarrow")[schema.ITEM].to_list()
    withheld = [item for item in ids if drawn(split.seed, item) < split.items]
    return events.with_columns(nw.col(schema.ITEM).is_in(withheld).alias(WITHHELD))


def drawn(seed: int, key: int | str) -> float:
    """A number in [0, 1) by a hash of the seed and the key, so that more data moves no key."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _lengths(events: Frame) -> Frame:
    return events.group_by(schema.SEQUENCE).agg(nw.len().cast(nw.Int32).alias(LENGTH))
