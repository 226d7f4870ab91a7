"""Sessions, limits and context against a plain reference in Python, and on a log that a person can check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.frame_types import Frame
from data_prep.limits import drop_fast, drop_long
from data_prep.prepare import prepare
from data_prep.sessions import cut_sessions
from recsys.config import ExperimentConfig, SessionsByDay, SessionsByGap, build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError

HOUR = 3_600
LOG = [  # user, item, seconds, session, device
    ("ann", 1, 0, "x", "tv"),
    ("ann", 2, 600, "x", "phone"),
    ("ann", 3, 600 + 1800, "y", "phone"),  # a pause of exactly the limit does not end a session
    ("ann", 1, 5 * HOUR, "y", "tv"),
    ("ann", 2, 25 * HOUR, "x", "tv"),
    ("bob", 1, 7 * HOUR, "x", "car"),
]
Events = list[tuple[int, int]]  # user, time
LOGS: st.SearchStrategy[Events] = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), max_size=60)


def frame(events: Events) -> Frame:
    rows = [(user, 0, time, row) for row, (user, time) in enumerate(events)]
    schema = dict.fromkeys(("sequence", "item", "time", "row"), pl.Int64)
    return nw.from_native(pl.DataFrame(rows, schema=schema, orient="row").lazy())


def rows(result: Frame) -> list[int]:
    return sorted(result.collect()["row"].to_list())


def config(folder: Path, sessions: object, **more: Any) -> ExperimentConfig:  # noqa: ANN401
    lines = ["user,item,at,visit,device,__x", *(",".join(map(str, row)) + "," for row in LOG)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    columns = {"sequence": "user", "item": "item", "time": "at", "session": "visit", "context": ["device"]}
    data = {"path": str(folder / "log.csv"), "columns": {**columns, **more.pop("columns", {})}}
    tree = {"name": "s", "prepared": str(folder / "out"), "data": data, "sessions": sessions, **more}
    return build_config(tree, where="test")


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ({"by": "gap"}, {"ann/1": [1, 2, 3], "ann/2": [1], "ann/3": [2], "bob/1": [1]}),
        ({"by": "gap", "minutes": 300}, {"ann/1": [1, 2, 3, 1], "ann/2": [2], "bob/1": [1]}),
        ("day", {"ann/1": [1, 2, 3, 1], "ann/2": [2], "bob/1": [1]}),
        ({"by": "day", "starts_at": 4}, {"ann/1": [1, 2, 3], "ann/2": [1, 2], "bob/1": [1]}),
        ("column", {"ann/x": [1, 2, 2], "ann/y": [3, 1], "bob/x": [1]}),
    ],
)
def test_sessions_become_sequences_with_their_context(
    tmp_path: Path, sessions: object, expected: dict[str, list[int]]
) -> None:
    report = prepare(config(tmp_path, sessions))
    data = PreparedData.load(report.path)
    found = {
        name: data.vocabulary.decode(data.sequences.values[start:stop])
        for name, start, stop in zip(
            data.ids.to_pylist(), data.sequences.offsets, data.sequences.offsets[1:], strict=False
        )
    }
    assert found == expected
    table = pq.read_table(report.path / "sequences.parquet")
    assert table["user"].to_pylist() == [name.partition("/")[0] for name in expected]
    if sessions == {"by": "gap"}:
        assert table["device"].to_pylist() == ["tv", "tv", "tv", "car"]
    assert any(f"{len(expected) - 2} sequences more" in line for line in report.lines())
    assert prepare(config(tmp_path, sessions)).reused


def test_no_two_people_share_a_session_by_column(tmp_path: Path) -> None:
    rows = ["a,x,1,b/c", "a/b,y,2,c", "a,x,3,b%2Fc", "a,x,4,", "b,y,5,"]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,at,visit", *rows]) + "\n")
    columns = {"sequence": "user", "item": "item", "time": "at", "session": "visit"}
    data = {"path": str(tmp_path / "log.csv"), "columns": columns}
    tree = {"name": "s", "prepared": str(tmp_path / "out"), "data": data, "sessions": "column"}
    report = prepare(build_config(tree, where="test"))
    table = pq.read_table(report.path / "sequences.parquet")
    assert dict(zip(table["id"].to_pylist(), table["user"].to_pylist(), strict=True)) == {
        "a/b%2Fc": "a", "a/b/c": "a/b", "a/b%252Fc": "a"
    }  # fmt: skip
    assert "session ids: removed 2 events, 1 sequences, 0 items" in "\n".join(report.lines())
    none = prepare(build_config({**tree, "sessions": "none", "prepared": str(tmp_path / "b")}, where="test"))
    assert "session" not in pq.read_schema(none.path / "sequences.parquet").names


@pytest.mark.parametrize("name", ["begins", "from_end", "item before", "withheld", "last", "fast", "n"])
def test_a_context_column_may_have_any_plain_name(tmp_path: Path, name: str) -> None:
    rows = ["a,x,1,q", "a,x,2,q", "a,y,3,q", "b,x,1,r", "b,z,2,r"]
    (tmp_path / "log.csv").write_text("\n".join([f"user,item,at,{name}", *rows]) + "\n")
    columns = {"sequence": "user", "item": "item", "time": "at", "context": [name]}
    tree = {
        "name": "s",
        "prepared": str(tmp_path / "out"),
        "data": {"path": str(tmp_path / "log.csv"), "columns": columns},
        "sessions": "gap",
        "clean": {"max_sequence_length": 2, "max_per_minute": 9, "max_events": 9, "repeats": "consecutive"},
        "split": {"kind": "item_cold", "items": 0.3},
    }
    kept = prepare(build_config(tree, where="test")).path / "sequences.parquet"
    assert pq.read_table(kept)[name].to_pylist() == ["q", "r"]


def test_context_is_kept_without_sessions_and_the_old_format_without_context(tmp_path: Path) -> None:
    kept = prepare(config(tmp_path, "none")).path / "sequences.parquet"
    assert pq.read_table(kept)["device"].to_pylist() == ["tv", "car"]
    (tmp_path / "b").mkdir()
    plain = prepare(config(tmp_path / "b", "none", columns={"context": [], "session": None}))
    assert pq.read_schema(plain.path / "sequences.parquet").names == [
        "id", "items", "times", "train_end", "valid_start", "test_start",
    ]  # fmt: skip
    assert "sessions" not in plain.manifest["settings"]


@given(LOGS, st.integers(1, 100))
def test_sessions_by_gap_equal_a_loop(events: Events, minutes: int) -> None:
    seconds = [(user, time * 6 * 10**6) for user, time in events]
    cut = cut_sessions(frame(seconds), SessionsByGap(minutes=minutes / 10)).collect().to_dict(as_series=False)
    found = dict(zip(cut["row"], cut["sequence"], strict=True))
    last: dict[int, int] = {}
    number: dict[int, int] = {}
    for row in sorted(range(len(events)), key=lambda row: (seconds[row][1], row)):
        user, time = seconds[row]
        pause = time - last[user] if user in last else None
        number[user] = number.get(user, 0) + (pause is None or pause > minutes * 6 * 10**6)
        last[user] = time
        assert found[row] == f"{user}/{number[user]}"


@given(LOGS, st.integers(1, 5), st.integers(1, 100))
def test_limits_equal_a_loop(events: Events, most: int, window: int) -> None:
    fast, long = set(), set()
    for user in {user for user, _ in events}:
        times = sorted(time for each, time in events if each == user)
        if any(sum(start <= time < start + window for time in times) > most for start in times):
            fast.add(user)
        if len(times) > most:
            long.add(user)
    for step, gone in (
        (drop_fast(frame(events), most, window), fast),
        (drop_long(frame(events), most), long),
    ):
        assert rows(step) == [row for row, (user, _) in enumerate(events) if user not in gone]


def test_bots_leave_before_sessions_are_cut_and_are_reported(tmp_path: Path) -> None:
    report = prepare(config(tmp_path, "gap", clean={"max_per_day": 3}))
    assert [(removal.step, removal.events, removal.sequences) for removal in report.removals[1:3]] == [
        ("rate", 5, 1),
        ("sessions", 0, 0),
    ]
    assert "rate: removed 5 events, 1 sequences, 2 items (clean.max_per_day=3)" in "\n".join(report.lines())
    (tmp_path / "b").mkdir()
    both = config(tmp_path / "b", "none", clean={"max_events": 4})
    assert [removal.sequences for removal in prepare(both).removals[1:2]] == [1]


@pytest.mark.parametrize(
    ("sessions", "columns", "message"),
    [
        (
            "gap",
            {"time": None},
            r"sessions\.by=gap needs times; set data\.columns\.time, or sessions\.by=column",
        ),
        ("column", {"session": None}, r"sessions\.by=column needs data\.columns\.session"),
        (
            "none",
            {"context": ["devise"]},
            r"no column `devise` \(data\.columns\.context\); did you mean `device`",
        ),
        ("none", {"session": None, "context": ["__x"]}, r"context column `__x` of .* has a name that the"),
        (
            "none",
            {"context": ["item"]},
            r"context column `item` of .* has a name that the prepared data set needs",
        ),
    ],
)
def test_settings_that_the_log_does_not_allow(
    tmp_path: Path, sessions: object, columns: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepare(config(tmp_path, sessions, columns=columns))


def test_a_rate_needs_times(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"clean\.max_per_minute needs times; set data\.columns\.time"):
        prepare(config(tmp_path, "none", columns={"time": None}, clean={"max_per_minute": 3}))


def test_days_begin_where_they_are_told_to() -> None:
    events = [(0, hour * HOUR * 10**6) for hour in (0, 23, 25, 29, 30)]
    cut = cut_sessions(frame(events), SessionsByDay(starts_at=-18.5)).collect()  # half past five
    assert cut.sort("row")["sequence"].to_list() == ["0/1", "0/2", "0/2", "0/2", "0/3"]
