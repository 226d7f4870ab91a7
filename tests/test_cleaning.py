"""Every cleaning step does what it says, on a lazy engine, whatever the order of the rows."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning import Removal, clean, k_core, positions
from data_prep.engines import PolarsEngine
from data_prep.frame_types import Frame
from recsys.config import CleanConfig
from recsys.errors import InputError

HOUR = 3_600_000_000


def log(rows: list[tuple[Any, ...]], ratings: list[float | None] | None = None) -> Frame:
    """Lazy canonical events of (sequence, item, time) rows, given to the engine in reverse."""
    types = {"sequence": pl.String, "item": pl.Int64, "time": pl.Int64}
    frame = pl.DataFrame(rows, schema=types, orient="row").with_row_index("row").cast({"row": pl.Int64})
    if ratings is not None:
        frame = frame.with_columns(pl.Series("rating", ratings, pl.Float64))
    return nw.from_native(frame.reverse().lazy())


def kept(frame: Frame) -> list[int]:
    return [int(row) for row in frame.sort("row").collect()["row"].to_list()]


def run(
    rows: list[tuple[Any, ...]], ratings: list[float | None] | None = None, **config: object
) -> tuple[list[int], Any]:
    events, removals = clean(log(rows, ratings), CleanConfig.model_validate(config))
    return kept(events), {removal.step: removal for removal in removals}


def test_events_without_ids_or_time_are_dropped_and_reported() -> None:
    rows = [("a", 1, 5), (None, 1, 5), ("b", None, 5), ("c", 2, None), ("a", 3, 6)]
    left, removals = run(rows)
    assert left == [0, 4]
    # sequences b and c and item 2 are gone altogether; a null id was never one of them
    assert removals["validate"] == Removal("validate", "events without ids or time", 3, 2, 1)


def test_a_log_without_time_keeps_its_repeats() -> None:
    left, removals = run([("a", 1, None), ("a", 1, None)])
    assert left == [0, 1]
    assert list(removals) == ["validate"]


def test_low_and_missing_ratings_go() -> None:
    left, removals = run([("a", 1, 1), ("a", 2, 2), ("a", 3, 3)], [4.0, 3.5, None], min_rating=4)
    assert left == [0]
    assert removals["rating"].events == 2


def test_time_range_is_half_open() -> None:
    rows = [("a", 1, 24 * HOUR - 1), ("a", 2, 24 * HOUR), ("a", 3, 48 * HOUR - 1), ("a", 4, 48 * HOUR)]
    assert run(rows, start="1970-01-02", end="1970-01-03")[0] == [1, 2]


def test_the_first_of_duplicates_stays() -> None:
    rows = [("a", 1, 5), ("a", 1, 5), ("a", 1, 6), ("b", 1, 5)]
    assert run(rows)[0] == [0, 2, 3]
    assert run(rows, duplicates="keep")[0] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("repeats", "expected"), [("keep", [0, 1, 2, 3, 4]), ("first", [1, 2]), ("consecutive", [1, 2, 4])]
)
def test_repeats_follow_time_not_rows(repeats: str, expected: list[int]) -> None:
    # in time order: rows 1, 0, 2, 4, 3 hold the items 1, 1, 2, 1, 1
    rows = [("a", 1, 2), ("a", 1, 1), ("a", 2, 3), ("a", 1, 5), ("a", 1, 4)]
    assert run(rows, repeats=repeats)[0] == expected


def test_the_newest_events_stay_and_ties_follow_rows() -> None:
    rows = [("a", 1, 9), ("a", 2, 5), ("a", 3, 5), ("a", 4, 1), ("b", 5, 0)]
    assert run(rows, max_sequence_length=2)[0] == [0, 2, 4]


def test_k_core_cascades() -> None:
    # item 3 is rare, without it c is short, without c item 2 is rare, without it b is short
    rows = [
        ("a", 1, 1),
        ("a", 4, 2),
        ("b", 1, 3),
        ("b", 2, 4),
        ("c", 2, 5),
        ("c", 3, 6),
        ("d", 1, 7),
        ("d", 4, 8),
    ]
    left, removals = run(rows, min_sequence_length=2, min_item_count=2)
    assert left == [0, 1, 6, 7]
    assert removals["k-core"] == Removal(
        "k-core", "clean.min_sequence_length=2, clean.min_item_count=2", 4, 2, 2
    )


def reference_core(events: list[tuple[int, int]], least: tuple[int, int]) -> list[int]:
    """Drop one offending event at a time until there is none: the definition."""
    alive = set(range(len(events)))
    while True:
        users, items = (Counter(events[row][side] for row in alive) for side in (0, 1))
        weak = {row for row in alive if users[events[row][0]] < least[0] or items[events[row][1]] < least[1]}
        if not weak:
            return sorted(alive)
        alive.discard(min(weak))


pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40)


@settings(max_examples=40, deadline=None)
@given(pairs, st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_k_core_is_the_largest_fixed_point(events: list[tuple[int, int]], least: tuple[int, int]) -> None:
    frame = log([(str(user), item, 0) for user, item in events])
    core = k_core(frame, *least)
    assert kept(core) == reference_core(events, least)
    assert kept(k_core(core, *least)) == kept(core)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1), st.randoms())
def test_the_order_of_rows_in_the_engine_changes_nothing(
    rows: list[tuple[int, int, int]], random: Random
) -> None:
    frame = log([(str(user), item, time) for user, item, time in rows])
    config = CleanConfig(repeats="consecutive", max_sequence_length=3)
    collected = frame.collect()
    order = random.sample(range(len(rows)), len(rows))
    shuffled = nw.from_native(collected.to_native()[order].lazy())
    first, second = (
        positions(clean(events, config)[0]).sort("row").collect().to_native() for events in (frame, shuffled)
    )
    assert first.equals(second.select(first.columns))


def test_positions_follow_time_then_row() -> None:
    placed = positions(log([("a", 1, 5), ("b", 1, 9), ("a", 2, 1), ("a", 3, 5)])).sort("row").collect()
    assert placed["position"].to_list() == [1, 0, 0, 2]
    assert placed["position"].dtype == nw.Int32


def test_steps_compute_a_frame_once_each() -> None:
    calls = []

    class Counting(PolarsEngine):
        def checkpoint(self, frame: Frame) -> Frame:
            calls.append(frame)
            return super().checkpoint(frame)

    clean(log([("a", 1, 5), ("a", 2, 6)]), CleanConfig(min_item_count=1, max_sequence_length=2), Counting())
    assert len(calls) == 3  # validate, duplicates, length


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), min_size=5))
def test_buckets_of_sequences_change_nothing(rows: list[tuple[int, int, int]]) -> None:
    frame = log([(str(user), item, time) for user, item, time in rows])
    config = CleanConfig(repeats="consecutive", max_sequence_length=3, min_item_count=1, max_events=9)
    (whole, once), (parts, bucketed) = (
        clean(frame, config, PolarsEngine(bucket)) for bucket in (len(rows), 2)
    )
    assert once == bucketed
    assert kept(whole) == kept(parts)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"min_rating": 6}, "step `rating` (clean.min_rating=6.0) removed the last 2 events; relax it"),
        ({"start": "2030-01-01"}, "step `time range` (clean.start=2030-01-01) removed the last 2 events"),
        (
            {"min_item_count": 2},
            "step `k-core` (clean.min_sequence_length=1, clean.min_item_count=2) removed the last",
        ),
    ],
)
def test_the_step_that_removes_the_last_event_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        run([("a", 1, 5), ("b", 2, 6)], [1.0, 2.0], **config)
    assert message in str(caught.value)


def test_settings_that_need_a_missing_column_say_so() -> None:
    with pytest.raises(InputError, match=r"clean.min_rating needs ratings; set data.columns.rating"):
        run([("a", 1, 5)], min_rating=3)
    with pytest.raises(InputError, match=r"clean.start and clean.end need times; set data.columns.time"):
        run([("a", 1, None)], end="2024-01-01")
