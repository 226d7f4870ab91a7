"""Splits mark what they promise, and the leakage check catches tables that break them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.assemble import Tables, assemble
from data_prep.cleaning import positions
from data_prep.cold_items import withhold
from data_prep.frame_types import Frame
from data_prep.leakage import LeakageError, check_leakage
from data_prep.splits import Cuts, drawn, global_cuts, held_out, split_marks, training_counts
from recsys.config import GlobalTime, ItemCold, LeaveOneOut, LowResource, SplitConfig, UserHoldout
from recsys.errors import InputError

Rows = list[tuple[int, int, int]]
logs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=40)


def log(rows: Rows) -> Frame:
    """Lazy canonical events of (sequence, item, time) rows, given to the engine in reverse."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(("sequence", "item", "time"), pl.Int64), orient="row")
    return nw.from_native(frame.with_row_index("row").cast({"row": pl.Int64}).reverse().lazy())


def marks_of(rows: Rows, split: SplitConfig) -> dict[int, tuple[int, ...]]:
    events = log(rows)
    marks = split_marks(events, split, global_cuts(events, split)).sort("sequence").collect()
    return {row[0]: row[1:] for row in marks.rows()}


def tables_of(rows: Rows, split: SplitConfig) -> tuple[Tables, Cuts | None]:
    events = log(rows)
    cuts = global_cuts(events, split)
    placed = positions(events)
    marks = split_marks(events, split, cuts)
    native = (frame.collect().to_native() for frame in (placed, marks, training_counts(placed, marks)))
    return assemble(*native, None, True)[0], cuts  # type: ignore[call-arg]


def ordered(rows: Rows) -> dict[int, list[tuple[int, int]]]:
    """Sequence -> its (time, item) events in order, by plain Python."""
    sequences: dict[int, list[tuple[int, int]]] = {}
    for sequence, item, time in sorted(rows, key=lambda row: row[2]):  # stable: ties stay in row order
        sequences.setdefault(sequence, []).append((time, item))
    return sequences


def test_leave_one_out_of_short_sequences() -> None:
    rows = [(length, item, item) for length in (1, 2, 3, 5) for item in range(length)]
    # length, train_end, valid_start, test_start
    assert marks_of(rows, LeaveOneOut()) == {
        1: (1, 1, 1, 1),
        2: (2, 1, 1, 1),
        3: (3, 1, 1, 2),
        5: (5, 3, 3, 4),
    }


def test_global_time_gives_ties_at_a_cut_to_the_later_part() -> None:
    rows = [(0, item, time) for item, time in enumerate([0, 1, 2, 2, 2, 3, 4, 5, 6, 7])]
    split = GlobalTime(valid_from=0.4, test_from=0.8)
    assert global_cuts(log(rows), split) == Cuts(2, 6)
    assert marks_of(rows, split) == {0: (10, 2, 2, 8)}


def test_global_time_by_date() -> None:
    day = 86_400_000_000
    rows = [(0, 1, 0), (0, 2, day), (1, 1, day - 1), (1, 2, 2 * day)]
    split = GlobalTime(valid_from="1970-01-02", test_from="1970-01-03")
    assert marks_of(rows, split) == {0: (2, 1, 1, 2), 1: (2, 1, 1, 1)}


def test_user_holdout_takes_whole_sequences() -> None:
    ids: list[int | str] = list(range(200))
    split = UserHoldout(valid=0.2, test=0.3, seed=1)
    valid, test = held_out(ids, split)
    assert 20 < len(valid) < 60 < 80 > len(test) > 40
    marks = marks_of([(int(sequence), item, item) for sequence in ids for item in range(4)], split)
    expected = {
        i: (4, 0, 3, 4) if i in valid else (4, 0, 3, 3) if i in test else (4, 4, 4, 4) for i in range(200)
    }
    assert marks == expected


def test_user_holdout_is_stable_under_more_data_and_moves_with_the_seed() -> None:
    few, many = (held_out([f"u{i}" for i in range(size)], UserHoldout()) for size in (100, 300))
    assert set(few[0]) == set(many[0]) & {f"u{i}" for i in range(100)}
    assert held_out([f"u{i}" for i in range(100)], UserHoldout(seed=1)) != few


@settings(max_examples=50, deadline=None)
@given(logs)
def test_leave_one_out_puts_every_event_in_one_part(rows: Rows) -> None:
    tables, _ = tables_of(rows, LeaveOneOut())
    vocabulary = tables.items["id"].to_pylist()
    for row in tables.sequences.to_pylist():
        events = ordered(rows)[row["id"]]
        assert [
            (time, vocabulary[item - 1]) for time, item in zip(row["times"], row["items"], strict=True)
        ] == events
        length = len(events)
        parts = (row["train_end"], row["test_start"] - row["valid_start"], length - row["test_start"])
        assert parts == ((length - 2, 1, 1) if length > 2 else (1, 0, length - 1))
        assert row["train_end"] == row["valid_start"]


@settings(max_examples=50, deadline=None)
@given(logs, st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_global_time_lets_nothing_of_the_future_into_training(rows: Rows, one: float, two: float) -> None:
    split = GlobalTime(valid_from=min(one, two), test_from=max(one, two))
    cuts = global_cuts(log(rows), split)
    assert cuts is not None
    times = sorted(row[2] for row in rows)
    assert sum(time < cuts.valid_from for time in times) <= split.valid_from * len(rows)  # type: ignore[operator]
    for sequence, (length, train_end, valid_start, test_start) in marks_of(rows, split).items():
        events = [time for time, _ in ordered(rows)[sequence]]
        assert length == len(events)
        assert train_end == valid_start
        assert events[:train_end] == [time for time in events if time < cuts.valid_from]
        assert events[test_start:] == [time for time in events if time >= cuts.test_from]


@settings(max_examples=40, deadline=None)
@given(
    logs, st.sampled_from([LeaveOneOut(), GlobalTime(valid_from=0.5, test_from=0.7), UserHoldout(valid=0.3)])
)
def test_counts_are_training_events_and_every_table_passes_the_check(rows: Rows, split: SplitConfig) -> None:
    try:
        tables, cuts = tables_of(rows, split)
    except InputError as error:
        assert "no event is left for training" in str(error)
        return
    assert len(check_leakage(tables, split.kind, cuts)) >= 4
    training = sum(tables.mark("train_end"))
    assert sum(tables.items["count"].to_pylist()) == training
    ranked = list(zip(tables.items["count"].to_pylist(), tables.items["id"].to_pylist(), strict=True))
    assert ranked == sorted(ranked, key=lambda row: (-row[0], row[1]))
    assert {item for _, item in ranked} == {row[1] for row in rows}  # also those of the other parts


ROWS = [(sequence, item, 10 * item + sequence) for sequence in range(4) for item in range(5)]


def doctored(tables: Tables, column: str, change: Callable[[list[Any]], None]) -> Tables:
    """The tables with one column of the sequences changed by a function of its values."""
    values = tables.sequences[column].to_pylist()
    change(values)
    place = tables.sequences.column_names.index(column)
    kind = tables.sequences.schema.field(column).type
    return Tables(tables.sequences.set_column(place, column, pa.array(values, kind)), tables.items)


def put(row: int, value: object) -> Callable[[list[Any]], None]:
    def change(values: list[Any]) -> None:
        values[row] = value

    return change


@pytest.mark.parametrize(
    ("split", "column", "change", "message"),
    [
        (
            LeaveOneOut(),
            "train_end",
            put(1, 4),
            "training ends before validation, .*: broken by sequence `1` and 0 others",
        ),
        (LeaveOneOut(), "train_end", put(2, 2), "every event is in exactly one part: broken by sequence `2`"),
        (
            LeaveOneOut(),
            "test_start",
            put(0, 3),
            "one test event, and one for validation before it: broken by sequence `0`",
        ),
        (
            LeaveOneOut(),
            "times",
            put(3, [3, 13, 12, 33, 43]),
            "time never runs backwards in a sequence: broken by sequence `3`",
        ),
        (LeaveOneOut(), "id", put(1, 0), "every sequence stands once: broken by sequence `0`"),
        (
            LeaveOneOut(),
            "items",
            put(0, [5, 5, 5, 5, 5]),
            "item counts come from training events only: item `0`",
        ),
        (
            GlobalTime(valid_from=0.5, test_from=0.75),
            "test_start",
            put(2, 5),
            "wrong side of a cut in time: broken by sequence `2`",
        ),
        (
            GlobalTime(valid_from=0.5, test_from=0.75),
            "times",
            put(1, [1, 11, 22, 31, 41]),
            "wrong side of a cut",
        ),
    ],
)
def test_doctored_tables_fail_the_check(
    split: SplitConfig, column: str, change: Callable[[list[Any]], None], message: str
) -> None:
    tables, cuts = tables_of(ROWS, split)
    check_leakage(tables, split.kind, cuts)
    with pytest.raises(LeakageError, match=message):
        check_leakage(doctored(tables, column, change), split.kind, cuts)


def test_a_held_out_sequence_that_trains_fails_the_check() -> None:
    tables, _ = tables_of(
        [(i, item, item) for i in range(20) for item in range(3)], UserHoldout(valid=0.3, test=0.3)
    )
    held = int(np.flatnonzero(tables.mark("train_end") == 0)[0])
    with pytest.raises(LeakageError, match=f"trains nothing and has one target: broken by sequence `{held}`"):
        check_leakage(doctored(tables, "train_end", put(held, 1)), "user_holdout", None)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            GlobalTime(valid_from=1.5),
            r"split.valid_from is 1.5; expected a fraction between 0 and 1, or an ISO date",
        ),
        (GlobalTime(test_from="soon"), r"split.test_from is `soon`; expected an ISO 8601 date"),
        (
            GlobalTime(valid_from=0.9, test_from=0.8),
            r"split.valid_from \(0.9\) lies after split.test_from \(0.8\)",
        ),
        (
            UserHoldout(valid=0.5, test=0.5),
            r"split.valid 0.5 and split.test 0.5 leave no sequence to train on",
        ),
    ],
)
def test_impossible_splits_are_refused(split: SplitConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        marks_of(ROWS, split)


def test_global_time_needs_times() -> None:
    events = log(ROWS).with_columns(nw.lit(None).cast(nw.Int64).alias("time"))
    with pytest.raises(InputError, match=r"split global_time needs times; set data.columns.time"):
        global_cuts(events, GlobalTime())


def test_withheld_items_are_tested_and_never_trained() -> None:
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(30)), int(rng.integers(20)), time) for time in range(300)]
    split = ItemCold(items=0.3, seed=2)
    left, removal = withhold(log(rows), split)
    placed = positions(left)
    marks = split_marks(placed, split, None)
    native = (frame.collect().to_native() for frame in (placed, marks, training_counts(placed, marks)))
    tables = assemble(*native, None, True)[0]  # type: ignore[call-arg]
    assert "the items of the test have no training event" in check_leakage(tables, split.kind, None)
    withheld = {item for item in range(20) if drawn(split.seed, item) < split.items}
    ids = tables.items["id"].to_pylist()
    expected = ordered(rows)
    for row, sequence in enumerate(tables.sequences["id"].to_pylist()):
        items = [ids[at - 1] for at in tables.values[tables.offsets[row] : tables.offsets[row + 1]]]
        whole = [item for _, item in expected[sequence]]
        last = max((at for at, item in enumerate(whole) if item in withheld), default=None)
        warm = [item for item in whole[:last] if item not in withheld]
        assert items == (warm if last is None else [*warm, whole[last]])
        assert len(items) - tables.mark("test_start")[row] == (last is not None)
    assert removal.events == len(rows) - len(tables.values) > 0
    with pytest.raises(LeakageError, match="the items of the test have no training event"):
        counts = pa.array(tables.items["count"].to_numpy() + 1)
        place = tables.items.schema.get_field_index("count")
        trained = tables.items.set_column(place, "count", counts)
        check_leakage(Tables(tables.sequences, trained), split.kind, None)


def test_few_sequences_train_and_all_are_tested() -> None:
    rows = [(user, item, item) for user in range(50) for item in range(4)]
    few, many = (marks_of(rows, LowResource(users=users)) for users in (0.2, 0.6))
    training = [{user for user, marks in each.items() if marks[1]} for each in (few, many)]
    assert training[0] < training[1] and 3 < len(training[0]) < 20 < len(training[1]) < 40
    assert {marks[2:] for marks in few.values()} == {(2, 3)}
    tables, _ = tables_of(rows, LowResource(users=0.2))
    assert "a sequence trains whole or not at all" in check_leakage(tables, "low_resource", None)
