"""Every bad input has an error of its own: what, where, the remedy."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from data_prep.folder import manifest_in
from data_prep.prepare import prepare, prepare_frame
from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.files import alone
from recsys.origins import check_settings

GOOD = "sequence,item,time\nu,1,10\nu,2,20\nu,3,30\n"


def config(
    folder: Path, path: str = "log.csv", data: dict[str, Any] | None = None, **sections: object
) -> ExperimentConfig:
    files = {"path": str(folder / path), **(data or {})}
    tree = {"name": "tiny", "prepared": str(folder / "out"), "data": files, **sections}
    return build_config(tree, where="test")


def refuse(experiment: ExperimentConfig, *parts: str) -> None:
    """Expect an InputError whose message has all these parts, and no half-written folder."""
    with pytest.raises(InputError) as caught:
        prepare(experiment)
    for part in parts:
        assert part in str(caught.value)
    assert not list(Path(experiment.prepared or "").parent.glob(".out*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(GOOD)
    return tmp_path


def test_missing_file(folder: Path) -> None:
    refuse(
        config(folder, "lgo.csv"),
        f"there is no file {folder / 'lgo.csv'}; set data.path to where the data is",
    )


def test_a_place_that_takes_nothing(folder: Path) -> None:
    asked = config(folder).model_copy(update={"prepared": "/dev/null/out"})
    refuse(asked, "/dev/null/out cannot be written (File exists)", "choose another folder with prepared=")


def test_a_folder_that_is_being_exchanged_is_left_alone(folder: Path) -> None:
    place = prepare(config(folder)).path
    aside, fresh = folder / ".out.1.old", folder / ".out.1.new"
    shutil.copytree(place, fresh)
    with ThreadPoolExecutor(1) as other:
        with alone(folder):
            place.rename(aside)
            found = other.submit(manifest_in, place)
            with pytest.raises(TimeoutError):
                found.result(0.2)
            fresh.rename(place)
        assert found.result(10) is not None
    assert aside.exists()


def test_no_path(folder: Path) -> None:
    refuse(
        build_config({"name": "x", "data": {}}, where="test"),
        "data.path is empty; expected a file, a glob or",
    )


def test_glob_that_matches_nothing(folder: Path) -> None:
    refuse(config(folder, "*.tsv"), f"data.path `{folder / '*.tsv'}` matches no file; check the pattern")


def test_folder_without_events(folder: Path) -> None:
    refuse(
        config(folder, ""), f"{folder} is a folder: set data.events to the log's file in it; it has: log.csv"
    )
    refuse(config(folder, "no", data={"events": "log.csv"}), "there is no folder", "the folder of log.csv")
    refuse(config(folder, data={"events": "log.csv"}), "is a file, but data.events names a file inside it")


def test_atomic_folder_with_two_logs(folder: Path) -> None:
    for name in ("a.inter", "b.inter"):
        (folder / name).write_text("user_id:token\titem_id:token\n1\t2\n")
    refuse(config(folder, "", data={"format": "atomic"}), "set data.events", "a.inter, b.inter")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "atomic", "sequences", "pairs"])
def test_empty_file(folder: Path, kind: str) -> None:
    (folder / "log.x").write_text("")
    refuse(
        config(folder, "log.x", data={"format": kind}), "log.x is empty (0 bytes); expected a log in format"
    )


@pytest.mark.parametrize("kind", ["csv", "sequences"])
def test_file_of_nothing(folder: Path, kind: str) -> None:
    (folder / "log.x").write_text("sequence,item\n" if kind == "csv" else "\n\n")
    refuse(config(folder, "log.x", data={"format": kind}), "log.x has no events; expected one row an event")
    (folder / "log.x.gz").write_bytes(gzip.compress(b""))
    refuse(config(folder, "log.x.gz", data={"format": kind}), "log.x.gz is empty once decompressed")


def test_missing_column(folder: Path) -> None:
    refuse(
        config(folder, data={"columns": {"item": "itm"}}),
        "log.csv has no column `itm` (data.columns.item); did you mean `item`? It has: sequence, item, time",
    )


def test_unparsable_time(folder: Path) -> None:
    (folder / "a.csv").write_text(GOOD)
    (folder / "b.csv").write_text(GOOD.replace("20", "noon"))
    refuse(
        config(folder, "[ab].csv", data={"columns": {"time": "time"}}),
        f"{folder / 'b.csv'} row 2: time `noon` is not a number of `s` (data.time_unit)",
    )


def test_no_time_at_all(folder: Path) -> None:
    (folder / "log.csv").write_text("sequence,item,time\nu,1,\nu,2,\n")
    refuse(
        config(folder, data={"columns": {"time": "time"}}),
        "log.csv has no time in any row; unset data.columns.time",
    )


def test_unparsable_rating(folder: Path) -> None:
    bad = config(folder, data={"columns": {"rating": "sequence"}}, clean={"min_rating": 3})
    refuse(bad, "log.csv row 1: rating `u` is not a number; correct the row")


def test_all_rows_filtered_away(folder: Path) -> None:
    refuse(
        config(folder, clean={"min_sequence_length": 4}),
        "no event is left: step `k-core`",
        "removed the last 3",
    )
    (folder / "log.csv").write_text("sequence,item\n,1\nu,\n")
    refuse(config(folder), "no event is left: step `validate` (events without ids) removed the last 2 events")


def test_nothing_to_train_on(folder: Path) -> None:
    split = {"kind": "global_time", "valid_from": "1960-01-01", "test_from": "1970-01-01"}
    timed = config(folder, data={"columns": {"time": "time"}}, split=split)
    refuse(timed, "no event is left for training; the split's cut lies before the first event")


def test_json_ids_of_mixed_type(folder: Path) -> None:
    rows = [{"sequence": "u", "item": 1}, {"sequence": "u", "item": "a"}]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refuse(
        config(folder, "log.jsonl", data={"format": "jsonl"}),
        "values of `item` in",
        "are of mixed type (number and string); expected all integers or all strings",
    )


def test_parquet_files_of_different_id_types(folder: Path) -> None:
    for name, item in (("a", 1), ("b", "x")):
        pl.DataFrame({"sequence": ["u"], "item": [item]}).write_parquet(folder / f"{name}.parquet")
    refuse(
        config(folder, "*.parquet", data={"format": "parquet"}),
        "item ids are of mixed type (Int64 in",
        "a.parquet and String in",
        "convert them to strings",
    )


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"sequence": ["u", "u"], "item": [1, "a"]}),
        pd.DataFrame({"sequence": ["u", "u"], "item": ["a", 1]}),
        pl.DataFrame({"sequence": ["u", "u"], "item": pl.Series([1, "a"], dtype=pl.Object)}),
    ],
)
def test_frames_with_ids_of_mixed_type(folder: Path, frame: object) -> None:
    with pytest.raises(InputError, match=r"of the frame of events|in the frame of events") as caught:
        prepare_frame(frame, config(folder))
    assert "are of mixed type" in str(caught.value)


def test_what_is_no_frame(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"the frame of events is a list; expected a pandas, Polars or Arrow table"
    ):
        prepare_frame([("u", 1)], config(folder))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "sequences"])
def test_truncated_gzip(folder: Path, kind: str) -> None:
    archive = gzip.compress(GOOD.encode() * 50)
    (folder / "log.gz").write_bytes(archive[:-12])
    refuse(
        config(folder, "log.gz", data={"format": kind}),
        "log.gz is a truncated gzip file; copy or download it again",
    )
    (folder / "log.gz").write_bytes(b"no gzip")
    refuse(config(folder, "log.gz", data={"format": kind}), "log.gz is not a sound gzip file")


@pytest.mark.parametrize(
    ("kind", "content"),
    [("csv", b"sequence,item\nu,\xff\xfe\n"), ("parquet", b"PAR1 no")],
)
def test_file_of_another_format(folder: Path, kind: str, content: bytes) -> None:
    (folder / "log.x").write_bytes(content)
    refuse(
        config(folder, "log.x", data={"format": kind}), f"log.x cannot be read as {kind}: ", "check the file"
    )


@pytest.mark.parametrize("kind", ["csv", "tsv", "atomic", "jsonl", "sequences", "pairs"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.encode("utf-16"), "is UTF-16 or UTF-32; expected UTF-8 text: save it as UTF-8"),
        (GOOD.encode("utf-16-le"), "is a binary file, UTF-16 or UTF-32 (it has zero bytes); expected UTF-8"),
        (bytes(range(256)), "is a binary file, UTF-16 or UTF-32 (it has zero bytes); expected UTF-8 text"),
    ],
)
def test_file_that_is_no_text(folder: Path, kind: str, content: bytes, message: str) -> None:
    (folder / "log.x").write_bytes(content)
    (folder / "log.gz").write_bytes(gzip.compress(content))
    for name in ("log.x", "log.gz"):
        refuse(config(folder, name, data={"format": kind}), f"{name} {message}")


@pytest.mark.parametrize("kind", ["jsonl", "amazon-2023"])
def test_json_that_is_no_utf8(folder: Path, kind: str) -> None:
    row = {"sequence": "u", "item": "i", "user_id": "u", "parent_asin": "i", "timestamp": 1}
    (folder / "log.x").write_bytes(json.dumps(row).encode().replace(b'"i"', b'"i\xe4"') + b"\n")
    refuse(config(folder, "log.x", data={"format": kind}), "log.x is not JSON lines", "Invalid UTF8")


def test_an_endless_field_does_not_fill_the_screen(folder: Path) -> None:
    (folder / "log.csv").write_text(GOOD.replace("20", "x" * 100_000))
    with pytest.raises(InputError, match=r"row 2: time `xxx.* \.\.\. .*correct the row or set") as caught:
        prepare(config(folder, data={"columns": {"time": "time"}}))
    assert len(str(caught.value)) < 2_000


def test_header_that_repeats_a_name(folder: Path) -> None:
    (folder / "log.csv").write_text("sequence,item,item\nu,1,2\n")
    refuse(config(folder), "log.csv has several columns `item`; expected a header of distinct names: rename")
    (folder / "log.csv").write_text("sequence,item,,\nu,1,,\n")  # columns without a name are nobody's
    assert prepare(config(folder)).manifest["counts"]["events"] == 1


def test_lines_that_are_not_json(folder: Path) -> None:
    refuse(
        config(folder, data={"format": "jsonl"}),
        "log.csv is not JSON lines",
        "expected one JSON object a line",
    )


def test_files_that_disagree(folder: Path) -> None:
    for name, head in (("a", "timestamp:float"), ("b", "note:token")):
        (folder / f"{name}.inter").write_text(f"user_id:token\titem_id:token\t{head}\n1\t2\t3\n")
    refuse(
        config(folder, "*.inter", data={"format": "atomic"}), "a.inter and", "b.inter do not both have time"
    )


def test_missing_item_table(folder: Path) -> None:
    refuse(config(folder, data={"items": "items.csv"}), "there is no file items.csv; set data.items")
    refuse(config(folder, data={"item_columns": {"title": "name"}}), "there is no item table: set data.items")
    (folder / "log.txt").write_text("u 1 2\n")
    refuse(
        config(folder, "log.txt", data={"format": "sequences", "items": "log.csv"}), "set data.items_format"
    )


def test_folder_given_as_item_table(folder: Path) -> None:
    (folder / "items").mkdir()
    for name in ("items", str(folder / "items")):
        refuse(
            config(folder, data={"items": name}),
            f"{folder / 'items'} is a folder; expected a file: set data.items",
        )


def test_time_outside_the_calendar(folder: Path) -> None:
    split = {"kind": "global_time", "valid_from": 0.4, "test_from": 0.7}
    for time in (-62_135_596_801, 253_402_300_800):
        (folder / "log.csv").write_text(GOOD.replace("20", str(time)))
        refuse(
            config(folder, data={"columns": {"time": "time"}}, split=split),
            f"log.csv row 2: time `{time}` is not a number of `s` (data.time_unit), or lies outside",
        )


def test_folder_of_another_data_set(folder: Path) -> None:
    prepare(config(folder))
    refuse(
        config(folder, clean={"min_item_count": 1, "repeats": "first"}),
        "already holds another data set, prepared from the same input with other settings",
        "clean.repeats was 'keep', is 'first'",
        "choose another folder with prepared=..., or delete",
    )
    (folder / "log.csv").write_text(GOOD + "u,4,40\n")
    refuse(
        config(folder),
        "already holds another data set, `tiny`, made from other input",
        "choose another folder",
    )


def test_a_setting_that_came_since_the_folder_was_prepared_has_its_default(folder: Path) -> None:
    asked = config(folder, clean={"min_item_count": 1, "repeats": "keep"})
    file = prepare(asked).path / "manifest.json"
    manifest = json.loads(file.read_text())
    stated = {name: manifest["settings"][name] for name in ("data", "clean", "split")}
    for section, keys in (
        ("data", ("columns", "item_columns")),
        ("clean", ("max_per_day",)),
        ("split", ("targets",)),
    ):
        for key in keys:
            del stated[section][key]
    file.write_text(json.dumps({**manifest, "settings": stated}))
    check_settings(asked, PreparedData.load(file.parent))
    assert prepare(asked).reused
    other = config(folder, clean={"max_per_day": 9})
    refuse(other, "with other settings (clean.max_per_day was None, is 9)")
    file.write_text(json.dumps({**manifest, "settings": {**stated, "clean": {"gone": 1}}}))
    refuse(asked, "clean.gone was 1, is None")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", "mine", "out is not empty and holds no prepared data set: choose another folder"),
        ("manifest.json", "{", "out is not empty and holds no prepared data set: choose another folder"),
        (
            "manifest.json",
            '{"kind": "bundle"}',
            "out holds a bundle, not a prepared data set: choose another",
        ),
    ],
)
def test_folder_of_something_else_is_left_alone(folder: Path, name: str, content: str, message: str) -> None:
    (folder / "out").mkdir()
    prepare(config(folder))  # an empty folder is free to use
    for file in (folder / "out").iterdir():
        file.unlink()
    (folder / "out" / name).write_text(content)
    refuse(config(folder), message)
    assert (folder / "out" / name).read_text() == content


def test_output_that_is_a_file(folder: Path) -> None:
    (folder / "out").write_text("mine")
    refuse(config(folder), f"{folder / 'out'} is a file; expected a folder for the prepared data set")


def test_dates_in_yaml_need_no_quotes(folder: Path) -> None:
    import yaml

    tree = yaml.safe_load("{start: 1970-01-01, end: 1970-01-02}")
    report = prepare(config(folder, data={"columns": {"time": "time"}}, clean=tree))
    assert re.fullmatch(r"clean.start=1970-01-01, clean.end=1970-01-02", report.removals[1].setting)
