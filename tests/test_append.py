"""Appending night after night against one preparation of the whole log, and every index where it was."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data_prep.append import append
from data_prep.prepare import Input, PrepareReport, build, check_input, prepare
from data_prep.quality import measure_quality
from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError

HEAD = "user,item,at,kind,device\n"
Row = tuple[str, str, int, str, str]
ROWS = st.lists(
    st.tuples(
        *(st.sampled_from(["u1", "u2", "u3", "u4", ""]), st.sampled_from("abcdef"), st.integers(0, 400)),
        *(st.sampled_from(["view", "buy"]), st.sampled_from(["tv", "phone"])),
    ),
    max_size=12,
)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"clean": {"min_sequence_length": 2, "min_item_count": 2}},
    {"clean": {"repeats": "first", "max_sequence_length": 3}, "split": "user_holdout"},
    {"clean": {"max_per_minute": 5, "max_events": 9, "repeats": "consecutive"}, "sessions": "gap"},
    {"split": {"kind": "global_time", "valid_from": 0.5, "test_from": 0.8}},
    {"split": {"kind": "leave_one_out", "targets": ["buy"]}},
]


def text(rows: list[Row]) -> str:
    return HEAD + "".join(f"{','.join(map(str, row))}\n" for row in rows)


def config(folder: Path, out: str = "out", **sections: object) -> ExperimentConfig:
    columns = {"sequence": "user", "item": "item", "time": "at", "event": "kind", "context": ["device"]}
    data = {"path": str(folder / "log"), "events": "*.csv", "columns": columns}
    tree = {"name": "shop", "prepared": str(folder / out), "data": data}
    return build_config({**tree, **sections}, where="test")


def log(folder: Path, **files: str) -> Path:
    (folder / "log").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "log" / f"{name}.csv").write_text(content)
    return folder


def meaning(path: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What a prepared data set says, by original ids; what has no event says nothing."""
    data = PreparedData.load(path)
    table = pl.read_parquet(path / "sequences.parquet")
    sequences = {
        row["id"]: row | {"items": data.vocabulary.decode(row["items"])}
        for row in table.to_dicts()
        if row["items"]
    }
    there = {item for row in sequences.values() for item in row["items"]}
    return sequences, {row["id"]: row["count"] for row in data.items.to_pylist() if row["id"] in there}


def outcome(report: PrepareReport | str) -> object:
    """What it means, and what the steps removed; or that it was refused."""
    if isinstance(report, str):
        return report
    cut = report.manifest["split"]
    counts = {key: value for key, value in report.manifest["counts"].items() if "gone" not in key}
    return meaning(report.path), report.removals, cut, counts


def attempt(job: Any, experiment: ExperimentConfig) -> PrepareReport | str:  # noqa: ANN401 -- prepare or append
    try:
        done: PrepareReport = job(experiment)
    except InputError as error:  # the same one, whatever file or folder it names
        return re.sub(r"\S*day-\d\.csv|\S+/(log|out|whole-\d)\b", "FILE", str(error))
    return done


def order(path: Path) -> tuple[list[Any], list[Any]]:
    data = PreparedData.load(path)
    return data.vocabulary.ids.to_pylist(), data.ids.to_pylist()


def bytes_of(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@hypothesis_settings(max_examples=20, deadline=None)
@given(
    nights=st.permutations(range(3)),
    days=st.lists(ROWS, min_size=3, max_size=3, unique_by=tuple),  # equal files are one: see below
    tree=st.sampled_from(SETTINGS),
)
def test_appending_in_any_order_is_preparing_the_whole_log(
    nights: list[int], days: list[list[Row]], tree: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = log(Path(place))
        before: tuple[list[Any], list[Any]] = ([], [])
        for number, night in enumerate(nights):
            log(folder, **{f"day-{night}": text(days[night])})  # a late one is sorted before earlier ones
            grown = attempt(append, config(folder, **tree))
            whole = attempt(prepare, config(folder, f"whole-{number}", **tree))
            assert outcome(grown) == outcome(whole)
            if isinstance(grown, PrepareReport):
                items, sequences = order(grown.path)
                assert (items[: len(before[0])], sequences[: len(before[1])]) == before
                before = items, sequences
                assert append(config(folder, **tree)).reused


FIRST = text([("u2", "a", 10, "view", "tv"), ("u2", "b", 20, "view", "tv"), ("u1", "b", 30, "buy", "tv")])
SECOND = text([("u0", "c", 5, "view", "tv"), ("u2", "c", 15, "view", "tv"), ("u1", "a", 40, "view", "tv")])


def test_late_events_land_where_they_belong_and_indices_stay(tmp_path: Path) -> None:
    append(config(log(tmp_path, one=FIRST)))
    assert order(tmp_path / "out") == (["a", "b"], ["u1", "u2"])
    report = append(config(log(tmp_path, two=SECOND)))
    assert order(report.path) == (["a", "b", "c"], ["u1", "u2", "u0"])
    sequences, _ = meaning(report.path)
    assert {name: row["items"] for name, row in sequences.items()} == {
        "u0": ["c"], "u1": ["b", "a"], "u2": ["a", "c", "b"]
    }  # fmt: skip
    assert "appended 1 log files with 3 events; 1 were known" in "\n".join(report.lines())
    assert report.manifest["grown_from"] and report.manifest["counts"]["events_read"] == 6


def test_the_same_file_twice_changes_nothing(tmp_path: Path) -> None:
    append(config(log(tmp_path, one=FIRST, two=SECOND)))
    files = bytes_of(tmp_path / "out")
    report = append(config(log(tmp_path, a_copy=FIRST)))
    assert report.reused and "no new log file; 2 are known" in "\n".join(report.lines())
    assert report.notices[-1] == "a_copy.csv is one.csv again, and was left out"
    (tmp_path / "log/one.csv").unlink()  # moved to an archive
    assert append(config(tmp_path)).reused
    assert bytes_of(tmp_path / "out") == files
    assert check_input(config(tmp_path)) == []
    log(tmp_path, three=HEAD)  # a day without an event
    assert append(config(tmp_path)).manifest["counts"]["events"] == 6
    assert append(config(tmp_path)).reused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("three", "\0\0\0", r"three\.csv"),
        ("three", "user;item\n1;2\n", r"three\.csv has no column `user`"),
        ("three", HEAD + "u1,a,soon,view,tv\n", r"three\.csv row 1.*`soon`"),
        ("one", SECOND, r"one\.csv has other content than when it was appended to .*out; give new events a"),
    ],
)
def test_a_bad_new_file_loses_nothing(tmp_path: Path, name: str, content: str, message: str) -> None:
    append(config(log(tmp_path, one=FIRST)))
    files = bytes_of(tmp_path / "out")
    log(tmp_path, **{"two": SECOND, name: content})
    with pytest.raises(InputError, match=message):
        append(config(tmp_path))
    assert bytes_of(tmp_path / "out") == files
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "out"]
    log(tmp_path, one=FIRST)
    (tmp_path / "log/three.csv").unlink(missing_ok=True)
    assert append(config(tmp_path)).manifest["counts"]["events_read"] == 6


def test_files_of_before_may_all_be_archived(tmp_path: Path) -> None:
    both = config(log(tmp_path, a1=FIRST, b1=SECOND))
    both = both.model_copy(update={"data": both.data.model_copy(update={"events": ("a*.csv", "b*.csv")})})
    assert append(both).manifest["counts"]["events"] == 6
    (tmp_path / "log/a1.csv").unlink()
    log(tmp_path, b2=text([("u5", "a", 50, "view", "tv")]))
    assert append(both).manifest["counts"]["events"] == 7
    for file in (tmp_path / "log").iterdir():
        file.unlink()
    assert "no new log file; 3 are known" in append(both).appended
    (tmp_path / "log").rmdir()
    with pytest.raises(InputError, match="there is no folder"):
        append(both)


def test_partitions_of_equal_rows_are_not_one(tmp_path: Path) -> None:
    def place(day: int) -> Path:
        return tmp_path / f"log/day={day}/part.parquet"

    for day in (1, 2):
        place(day).parent.mkdir(parents=True)
        pl.DataFrame({"user": [1, 1], "item": ["a", "b"]}).write_parquet(place(day))
    columns = {"sequence": "user", "item": "item", "time": "day"}
    data = {"path": str(tmp_path / "log"), "format": "parquet", "columns": columns}
    assert append(config(tmp_path, data=data)).manifest["counts"]["events"] == 4
    prepare(config(tmp_path, "whole", data=data))
    place(2).parent.rename(place(9).parent)
    with pytest.raises(InputError, match="whole already holds another data set, `shop`, made from other in"):
        prepare(config(tmp_path, "whole", data=data))


def test_what_another_run_appended_meanwhile_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(config(log(tmp_path, one=FIRST)))
    log(tmp_path, two=SECOND)

    def late(experiment: ExperimentConfig, source: Input) -> PrepareReport:
        monkeypatch.undo()
        log(tmp_path, three=text([("u4", "z", 1, "view", "tv")]))
        assert append(config(tmp_path)).manifest["counts"]["events"] == 7
        (tmp_path / "log/three.csv").unlink()
        return build(experiment, source)

    monkeypatch.setattr("data_prep.append.build", late)
    with pytest.raises(InputError, match=r"another run has changed .*out meanwhile; run the command again"):
        append(config(tmp_path))
    assert append(config(tmp_path)).manifest["counts"]["events"] == 7
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "out"]


def test_a_new_file_without_a_time_adds_nothing(tmp_path: Path) -> None:
    append(config(log(tmp_path, one=FIRST)))
    log(tmp_path, two=HEAD + "u1,a,,view,tv\n")
    report = append(config(tmp_path))
    counts = report.manifest["counts"]
    assert (counts["events_read"], counts["events"], report.removals[0].events) == (4, 3, 1)


def test_a_file_sent_again_with_more_makes_no_one_a_bot(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"clean": {"max_events": 3, "max_per_minute": 3}}
    append(config(log(tmp_path, one=FIRST), **limits))
    report = append(config(log(tmp_path, again=FIRST + "u7,a,90,view,tv\n"), **limits))
    assert report.manifest["counts"]["events"] == 4
    more = text([("u2", "c", 25, "view", "tv"), ("u2", "d", 26, "view", "tv")])
    assert "gone_sequences" in append(config(log(tmp_path, more=more), **limits)).manifest["counts"]


def test_values_of_a_category_are_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    columns = {"sequence": "user", "item": "item", "time": "at", "context": ["device"]}
    data = {"path": str(tmp_path / "log"), "format": "parquet", "columns": columns}
    for name, device in (("one", "tv"), ("two", "phone")):
        frame = pl.DataFrame({"user": [name], "item": ["a"], "at": [1], "device": [device]})
        frame.cast({"device": pl.Categorical}).write_parquet(tmp_path / f"log/{name}.parquet")
        report = append(config(tmp_path, data=data))
    assert pl.read_parquet(report.path / "sequences.parquet")["device"].to_list() == ["tv", "phone"]
    assert append(config(tmp_path, data=data)).reused


def test_an_older_version_of_a_sibling_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".out.eu.77.old").mkdir()
    append(config(log(tmp_path, one=FIRST)))
    append(config(log(tmp_path, two=SECOND)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".out.eu.77.old", "log", "out"]


def test_ids_keep_their_type(tmp_path: Path) -> None:
    digits = text([("1", "7", 1, "view", "tv"), ("1", "8", 2, "view", "tv")])
    append(config(log(tmp_path, one=digits)))
    log(tmp_path, two=text([("2", "x7", 1, "view", "tv")]))
    with pytest.raises(InputError, match=r"two\.csv has item ids that are no whole numbers, such as `x7`"):
        append(config(tmp_path))
    mixed = config(log(tmp_path), "mixed")
    append(mixed)
    assert order(mixed.prepared_path)[0] == ["7", "x7", "8"]
    log(tmp_path, three=text([("2", "9", 5, "view", "tv")]))  # digits beside text are text
    assert set(order(append(mixed).path)[0]) == {"7", "8", "9", "x7"}


def test_what_cannot_be_appended_to_is_refused(tmp_path: Path) -> None:
    log(tmp_path, one=FIRST)
    prepare(config(tmp_path))
    with pytest.raises(InputError, match="out was prepared without --append and keeps no events to add to"):
        append(config(tmp_path))
    append(config(tmp_path, "kept"))
    with pytest.raises(InputError, match=r"other settings .clean\.min_item_count was 1, is 2"):
        append(config(tmp_path, "kept", clean={"min_item_count": 2}))
    log(tmp_path, two=SECOND)
    with pytest.raises(InputError, match=r"two\.csv was not appended to .*kept yet: run `recsys prepare`"):
        check_input(config(tmp_path, "kept"))
    with pytest.raises(
        InputError, match=r"kept already holds another data set, `shop`, made from other .* with --append, "
    ):
        prepare(config(tmp_path, "kept"))
    sources = (({"items": "log"}, "no item columns of a log"), ({"format": "sql"}, "adds log files"))
    for source, words in sources:
        tree = config(tmp_path).model_dump(mode="json")
        tree["data"] |= source
        with pytest.raises(InputError, match=words):
            append(build_config(tree, where="test"))
    (tmp_path / "log/two.csv").unlink()
    sound = (tmp_path / "kept/items.parquet").read_bytes()
    (tmp_path / "kept/items.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match="kept keeps log files that were appended, and is damaged; restore"):
        prepare(config(tmp_path, "kept"))
    log(tmp_path, two=SECOND)
    with pytest.raises(
        InputError, match="kept is not what its manifest states, so that its indices are lost"
    ):
        append(config(tmp_path, "kept"))
    (tmp_path / "kept/items.parquet").write_bytes(sound)
    next((tmp_path / "kept/log").iterdir()).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"cannot be read .*: delete .*kept and prepare the whole log"):
        append(config(tmp_path, "kept"))
    shutil.rmtree(tmp_path / "kept")
    assert append(config(tmp_path, "kept")).manifest["counts"]["events"] == 6


def test_what_is_gone_keeps_its_index(tmp_path: Path) -> None:
    """A late file makes a bot of a user: her row is empty then, and what she alone had counts 0."""
    bots = [[("u9", "z", second, "view", "tv") for second in seconds] for seconds in ((0, 1, 2), (3, 4))]
    other: list[Row] = [("u1", "a", 1, "view", "tv"), ("u1", "b", 2, "view", "tv")]
    limits: dict[str, Any] = {"clean": {"max_events": 4}}
    append(config(log(tmp_path, one=text([*bots[0], *other])), **limits))
    items, sequences = order(tmp_path / "out")
    report = append(config(log(tmp_path, two=text(bots[1])), **limits))
    assert order(report.path) == (items, sequences)
    data = PreparedData.load(report.path)
    assert data.sequences.lengths.tolist() == [2, 0]
    assert {row["id"]: row["count"] for row in data.items.to_pylist()}["z"] == 0
    assert data.targets("test").rows.tolist() == [0]
    counts = report.manifest["counts"]
    assert (counts["sequences"], counts["gone_sequences"]) == (1, 1)
    assert (counts["items"], counts["gone_items"]) == (2, 1)
    quality = measure_quality(report.path, report.path)
    assert quality["lengths"]["histogram"][-1] == {"from": 2, "to": 3, "count": 1}
    assert quality["popularity"]["histogram"] == [{"from": 1, "to": 1, "count": 2}]
    assert (quality["density"], quality["lengths"]["min"]) == (1, 2)
    assert quality["drift"]["items"] == {"was": 2, "is": 2, "new": 0, "gone": 0, "kept": 2}
