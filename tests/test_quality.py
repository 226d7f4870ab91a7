"""The quality report against figures that a person can count, and what it finds in a log with faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from data_prep.quality import measure_quality
from data_prep.quality_page import render_quality
from data_prep.sample import write_sample
from recsys.config import build_config
from recsys.errors import InputError

LOG = [  # user, item, day
    ("a", 1, 0), ("a", 1, 1), ("a", 2, 1), ("a", 3, 30),
    ("b", 1, 0), ("b", 2, 2), ("b", 1, 31), ("b", 9, 32),
]  # fmt: skip


def prepared(folder: Path, rows: list[tuple[str, int, int]], name: str = "out", **more: object) -> Path:
    file = folder / f"{name}.csv"
    text = "\n".join(["sequence,item,time", *(f"{user},{item},{day * 86_400}" for user, item, day in rows)])
    file.write_text(text + "\n")
    data = {"path": str(file), "columns": {"time": "time"}}
    tree = {"name": "<q>", "prepared": str(folder / name), "data": data, **more}
    return prepare(build_config(tree, where="test")).path


def test_the_figures_are_those_that_a_person_counts(tmp_path: Path) -> None:
    report = measure_quality(prepared(tmp_path, LOG))
    assert report["density"] == 8 / (2 * 4)
    assert (report["lengths"]["median"], report["lengths"]["mean"]) == (4, 4)
    assert report["lengths"]["histogram"][-1] == {"from": 4, "to": 7, "count": 2}
    popularity = report["popularity"]
    assert (popularity["max"], popularity["items_seen_once"], popularity["items_with_half_of_events"]) == (
        4,
        2,
        1,
    )
    assert popularity["share_of_events"]["top_10_percent"] == 0.5
    assert popularity["gini"] == pytest.approx((4 * 3 + 2 * 1 - 1 * 1 - 1 * 3) / (4 * 8))
    assert report["repeats"] == {"events": 2 / 8, "direct": 1 / 8, "sequences": 1.0}
    assert report["targets"]["validation"] == {"count": 2, "never_trained": 0.0, "in_history": 0.5}
    assert report["targets"]["test"] == {"count": 2, "never_trained": 1.0, "in_history": 0.0}
    time = report["time"]
    assert (time["first"], time["days"], time["equal_times"]) == ("1970-01-01T00:00:00Z", 32.0, 1 / 6)
    assert (time["longest_silence_days"], time["longest_silence_from"]) == (28.0, "1970-01-03T00:00:00Z")
    assert time["pause_seconds"]["max"] == 29 * 86_400
    assert sum(time["events"]) == 8
    assert report["leakage"]["passed"]
    assert [words.split(":")[0] for words in report["findings"]] == [
        "100.0% of the test targets never occur in training",
        "50.0% of the validation targets are in their own history",
        "16.7% of the events have the time of the one before them",
        "nothing happened for 28.0 days from 1970-01-03T00",
    ]
    assert json.loads(json.dumps(report)) == report


def test_drift_is_nothing_against_itself_and_all_against_another_world(tmp_path: Path) -> None:
    now = prepared(tmp_path, LOG)
    same = measure_quality(now, now)["drift"]
    assert same["popularity_bits"] == 0
    assert same["items"] == {"was": 4, "is": 4, "new": 0, "gone": 0, "kept": 4}
    assert same["largest_changes"] == []
    other = prepared(tmp_path, [(user.upper(), item + 100, day) for user, item, day in LOG[:-1]], "other")
    drift = measure_quality(other, now)["drift"]
    assert drift["popularity_bits"] == pytest.approx(1)
    assert drift["sequences"] == {"was": 2, "is": 2, "new": 2, "gone": 2, "kept": 0}
    assert drift["events"] == {"was": 8, "is": 7}
    findings = measure_quality(other, now)["findings"]
    assert "item popularity moved by 1.00 bits (1 is nothing in common)" in findings
    assert f"1 events fewer than in {now}" in findings


def test_drift_is_measured_against_an_earlier_report_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then, now = prepared(tmp_path, LOG), prepared(tmp_path, [*LOG[:-1], ("c", 7, 40), ("c", 8, 41)], "now")
    by_folder = measure_quality(now, then)["drift"]
    file = tmp_path / "report.json"

    def by_report() -> dict[str, Any]:
        file.write_text(json.dumps(measure_quality(then)))
        found: dict[str, Any] = measure_quality(now, file)["drift"]
        return found

    whole = by_report()  # it keeps all four items: only which sequences are new is unknown
    assert whole == by_folder | {"against": str(file), "sequences": {"was": 2, "is": 3}}
    assert by_folder["items"] == {"was": 4, "is": 5, "new": 2, "gone": 1, "kept": 3}
    monkeypatch.setattr("data_prep.drift.LEADING", 1)
    part = by_report()  # item 1 had 4 events of 8, now has 4 of 9
    assert (part["items"], part["compared_items"]) == ({"was": 4, "is": 5}, 1)
    assert part["largest_changes"] == [{"item": 1, "was": 4 / 8, "is": 4 / 9}]
    assert 0 < part["popularity_bits"] < by_folder["popularity_bits"]
    assert "the report kept 1 items, and all others count as one" in " ".join(
        render_quality(measure_quality(now, file)).split()
    )
    file.write_text("[1]")
    with pytest.raises(
        InputError, match=r"report\.json is no quality report .*recsys quality PREPARED --json"
    ):
        measure_quality(now, file)


def test_the_page_says_what_was_measured_and_escapes_it(tmp_path: Path) -> None:
    now = prepared(tmp_path, LOG)
    page = render_quality(measure_quality(now, now))
    assert "<h1>&lt;q&gt; · data quality</h1>" in page
    for part in ("100.0% of the test targets", "Passed", "Drift", "<svg", "longest silence"):
        assert part in page
    assert "http" not in page.replace("http-equiv", "")
    untimed = tmp_path / "untimed"
    (tmp_path / "u.csv").write_text("sequence,item\na,1\na,2\n")
    tree: dict[str, Any] = {"name": "u", "prepared": str(untimed), "data": {"path": str(tmp_path / "u.csv")}}
    prepare(build_config(tree, where="test"))
    assert "<h2>Time</h2>" not in render_quality(measure_quality(untimed))


def test_a_split_by_time_is_checked_against_its_cuts(tmp_path: Path) -> None:
    split = {"kind": "global_time", "valid_from": 0.5, "test_from": 0.75}
    report = measure_quality(prepared(tmp_path, LOG, split=split))
    assert "no event lies on the wrong side of a cut in time" in report["leakage"]["rules"]


def test_targets_of_one_type_are_checked_as_such(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "sequence,item,time,kind\na,1,1,buy\na,2,2,buy\na,3,3,buy\na,4,4,view\nb,1,1,view\nb,2,2,buy\n"
    )
    tree = {
        "name": "typed",
        "prepared": str(tmp_path / "out"),
        "data": {"path": str(tmp_path / "log.csv"), "columns": {"time": "time", "event": "kind"}},
        "split": {"kind": "leave_one_out", "targets": ["buy"]},
    }
    report = measure_quality(prepare(build_config(tree, where="test")).path)
    assert report["leakage"]["passed"]
    assert "validation and test begin with an event of buy" in report["leakage"]["rules"]


def test_the_sample_is_sound(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", users=100, playlists=20)
    tree = {
        "name": "s",
        "data": {"format": "sample", "path": str(tmp_path / "sample")},
        "prepared": str(tmp_path / "p"),
    }
    report = measure_quality(prepare(build_config(tree, where="test")).path)
    assert report["leakage"]["passed"]
    assert 0 < report["popularity"]["gini"] < 1


def test_what_is_no_prepared_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds no prepared data set .*name the folder that `recsys prepare` wrote"
    ):
        measure_quality(tmp_path)
    folder = prepared(tmp_path, LOG)
    shutil.copy(folder / "items.parquet", folder / "sequences.parquet")
    with pytest.raises(InputError, match=r"out is not what its manifest states; prepare the data set again"):
        measure_quality(folder)
