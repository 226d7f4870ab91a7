"""From a log to the prepared folder: content, determinism, reuse, frames, the real logs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.assemble import MARKS, sequence_table
from data_prep.digest import tables_digest
from data_prep.prepare import PrepareReport, prepare, prepare_frame
from recsys.config import ExperimentConfig, build_config, load_config
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.vocabulary import Vocabulary

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT.parent / "shared" / "data"

PLAYS = """user,track,at
u2,c,2024-01-05
u1,a,2024-01-01
u1,b,2024-01-03
u2,a,2024-01-01
u1,c,2024-01-02
u2,b,2024-01-01
u3,d,2024-01-09
u1,a,2024-01-04
,a,2024-01-04
"""
TRACKS = "track,name,bpm\na,Alpha,120\nb,Beta,\nc,Gamma,90\nz,Unheard,60\n"
COLUMNS = {"sequence": "user", "item": "track", "time": "at"}
DAY = 86_400_000_000
JAN_1 = 19_723 * DAY


def config(folder: Path, data: dict[str, Any] | None = None, **sections: object) -> ExperimentConfig:
    files = {"path": str(folder), "events": "plays.csv", "items": "tracks.csv", "columns": COLUMNS}
    tree = {"data": {**files, "item_columns": {"title": "name"}, **(data or {})}, **sections}
    return build_config({"name": "tiny", "prepared": str(folder / "out"), **tree}, where="test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plays.csv").write_text(PLAYS)
    (tmp_path / "tracks.csv").write_text(TRACKS)
    return tmp_path


def hashes(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def test_the_folder_holds_what_the_log_says(folder: Path) -> None:
    report = prepare(config(folder))
    data = PreparedData.load(report.path)
    assert data.ids.to_pylist() == ["u1", "u2", "u3"]
    # training: u1 has a c (of a c b a), u2 has a (of a b c: equal times follow the file), u3 has d
    assert data.items.to_pylist() == [
        {"index": 1, "id": "a", "count": 2, "title": "Alpha", "bpm": 120},
        {"index": 2, "id": "c", "count": 1, "title": "Gamma", "bpm": 90},
        {"index": 3, "id": "d", "count": 1, "title": None, "bpm": None},
        {"index": 4, "id": "b", "count": 0, "title": "Beta", "bpm": None},
    ]
    assert [
        data.vocabulary.decode(row) for row in (data.sequences[0], data.sequences[1], data.sequences[2])
    ] == [["a", "c", "b", "a"], ["a", "b", "c"], ["d"]]
    assert data.times is not None
    assert ((data.times - JAN_1) // DAY).tolist() == [0, 1, 2, 3, 0, 0, 4, 8]
    assert (data.train_end.tolist(), data.valid_start.tolist(), data.test_start.tolist()) == (
        [2, 1, 1],
        [2, 1, 1],
        [3, 2, 1],
    )
    assert data.targets("test").items.tolist() == [1, 2]
    assert pq.read_schema(report.path / "sequences.parquet").field("items").type == pa.large_list(pa.int32())
    assert pq.ParquetFile(report.path / "items.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_manifest_says_where_it_came_from(folder: Path) -> None:
    report = prepare(
        config(folder, split={"kind": "global_time", "valid_from": "2024-01-03", "test_from": "2024-01-05"})
    )
    manifest = json.loads((report.path / "manifest.json").read_text())
    assert manifest == report.manifest
    assert (manifest["format_version"], manifest["kind"], manifest["name"]) == (1, "prepared", "tiny")
    assert manifest["counts"] == {
        "events_read": 9,
        "sequences": 3,
        "items": 4,
        "events": 8,
        "training_events": 4,
        "history_events": 0,
        "validation_events": 2,
        "test_events": 2,
        "validation_targets": 1,
        "test_targets": 1,
    }
    assert manifest["id_types"] == {"sequence": "large_string", "item": "large_string"}
    assert manifest["split"]["valid_cut_microseconds"] == JAN_1 + 2 * DAY
    assert manifest["split"]["test_cut_date"] == "2024-01-05T00:00:00+00:00"
    assert manifest["settings"]["clean"]["duplicates"] == "drop"
    assert manifest["removals"][0] == {
        "step": "validate",
        "setting": "events without ids or time",
        "events": 1,
        "sequences": 0,
        "items": 0,
    }
    assert "every event is in exactly one part" in manifest["leakage_check"]
    tables = [pq.read_table(report.path / name) for name in ("sequences.parquet", "items.parquet")]
    assert manifest["content_digest"] == tables_digest(tables)
    written = hashes(report.path)
    assert manifest["files"] == {name: written[name] for name in ("sequences.parquet", "items.parquet")}


def test_the_summary_is_plain_text(folder: Path) -> None:
    lines = prepare(config(folder)).lines()
    assert lines[0] == f"{folder / 'out'}: 3 sequences, 4 items, 8 events"
    assert lines[1] == "  validate: removed 1 events, 0 sequences, 0 items (events without ids or time)"
    assert "  split leave_one_out: 4 training events, 2 validation and 2 test targets" in lines
    assert lines[-1] == "  note: item table: 1 of 4 items in the log are not in it"


def test_the_same_input_gives_the_same_bytes(folder: Path) -> None:
    first = prepare(config(folder))
    before = hashes(first.path)
    shutil.rmtree(first.path)
    second = prepare(config(folder))
    assert hashes(second.path) == before
    assert not second.reused
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []


def test_the_same_data_set_is_left_alone_and_a_damaged_one_rebuilt(folder: Path) -> None:
    first = prepare(config(folder))
    written = (first.path / "items.parquet").stat().st_mtime_ns
    again = prepare(config(folder))
    assert again.reused
    assert again.removals == first.removals
    assert "left as it is" in again.lines()[1]
    assert (first.path / "items.parquet").stat().st_mtime_ns == written
    before = hashes(first.path)
    (first.path / "sequences.parquet").write_bytes(b"damaged")
    assert not prepare(config(folder)).reused
    assert hashes(first.path) == before


@pytest.mark.parametrize("name", ["items.parquet", "sequences.parquet"])
def test_a_changed_file_is_refused_and_prepared_again(folder: Path, name: str) -> None:
    path = prepare(config(folder)).path
    table = pq.read_table(path / name)
    pq.write_table(table, path / name, compression="none")  # the same content in other bytes
    with pytest.raises(InputError, match=rf"{name} is not the file .* prepare the data set again"):
        PreparedData.load(path)
    assert not prepare(config(folder)).reused
    (path / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is not the file .* missing"):
        PreparedData.load(path)


def test_a_manifest_that_lacks_a_key_is_refused_and_written_again(folder: Path) -> None:
    path = prepare(config(folder)).path
    manifest = json.loads((path / "manifest.json").read_text())
    for key in ("content_digest", "removals"):
        less = {name: value for name, value in manifest.items() if name != key}
        (path / "manifest.json").write_text(json.dumps(less))
        if key == "content_digest":
            with pytest.raises(InputError, match=r"manifest.json lacks `content_digest`; .*recsys prepare"):
                PreparedData.load(path)
        assert not prepare(config(folder)).reused


def test_a_failed_replacement_keeps_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepare(config(folder)).path
    (path / "items.parquet").write_bytes(b"damaged")  # so that it is replaced
    before, rename = hashes(path), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("no such luck")
        return rename(self, target)

    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match=r"out cannot be written \(no such luck"),
    ):
        patch.setattr(Path, "rename", failing)
        prepare(config(folder))
    assert hashes(path) == before
    assert not list(folder.glob(".out*"))


def test_a_killed_replacement_is_undone_by_the_next_run(folder: Path) -> None:
    path = prepare(config(folder)).path
    path.rename(folder / ".out.1.old")
    (folder / ".out.1.new").mkdir()
    assert prepare(config(folder)).reused
    assert PreparedData.load(path).ids.to_pylist() == ["u1", "u2", "u3"]
    assert not (folder / ".out.1.old").exists()


def test_offsets_reach_beyond_32_bits() -> None:
    lengths = pl.Series([2**30] * 3, dtype=pl.Int32)
    marks = pl.DataFrame({"sequence": [1, 2, 3], "length": lengths, **dict.fromkeys(MARKS, 0)})
    events = pl.DataFrame({"sequence": [1], "item": [7], "position": [0]})
    # Arrow refuses that the events are not there, and names the span of the offsets: unwrapped, 3 * 2^30.
    with pytest.raises(pa.ArrowInvalid, match=rf"offsets \({3 * 2**30}\) larger than values array"):
        sequence_table(events, marks, Vocabulary(pa.array([7])), timed=False)


def test_small_and_large_lists_read_the_same(folder: Path) -> None:
    large = PreparedData.load(prepare(config(folder)).path)
    table = pq.read_table(large.path / "sequences.parquet")
    for name, kind in (("items", pa.int32()), ("times", pa.int64())):
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.list_(kind)))
    pq.write_table(table, large.path / "sequences.parquet")
    (large.path / "manifest.json").write_text('{"format_version": 1, "content_digest": "x"}')
    small = PreparedData.load(large.path)
    assert small.sequences.offsets.tolist() == large.sequences.offsets.tolist() == [0, 4, 7, 8]
    assert small.sequences.values.tolist() == large.sequences.values.tolist()
    assert small.times is not None
    assert large.times is not None
    assert small.times.tolist() == large.times.tolist()


def test_input_that_moved_is_the_same_input(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    prepare(config(folder))
    moved = tmp_path_factory.mktemp("moved")
    for name in ("plays.csv", "tracks.csv"):
        shutil.copy(folder / name, moved / name)
    assert prepare(config(folder, data={"path": str(moved)})).reused


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_frames_give_the_content_that_files_give(folder: Path, make: Callable[..., Any]) -> None:
    from_files = prepare(config(folder))
    plays = pl.read_csv(folder / "plays.csv").to_dict(as_series=False)
    tracks = pl.read_csv(folder / "tracks.csv")  # not pandas: it has no integers with gaps
    settings = config(folder).model_copy(update={"prepared": str(folder / "frames")})
    from_frames = prepare_frame(make(plays), settings, tracks)
    assert from_frames.manifest["content_digest"] == from_files.manifest["content_digest"]
    assert prepare_frame(make(plays), settings, tracks).reused


def test_one_changed_event_changes_the_digest(folder: Path) -> None:
    first = prepare(config(folder))
    (folder / "plays.csv").write_text(PLAYS.replace("u3,d", "u3,b"))
    second = prepare(config(folder).model_copy(update={"prepared": str(folder / "other")}))
    for key in ("input_digest", "content_digest", "vocabulary_hash"):
        assert first.manifest[key] != second.manifest[key]


def test_content_digests_ignore_layout_but_no_value() -> None:
    table = pa.table({"a": ["x", None, "yz"], "b": pa.array([[1], [], [2, 3]], pa.list_(pa.int32()))})
    digest = tables_digest([table])
    assert tables_digest([pa.concat_tables([table.slice(0, 1), table.slice(1)])]) == digest
    assert tables_digest([pa.concat_tables([table, table]).slice(3)]) == digest
    changed = [
        {"a": ["xy", None, "z"], "b": table["b"]},
        {"a": ["x", "", "yz"], "b": table["b"]},
        {"a": table["a"], "b": pa.array([[1, 2], [], [3]], pa.list_(pa.int32()))},
        {"a": table["a"], "b": pa.array([[1], [], [2, 3]], pa.list_(pa.int64()))},
        {"c": table["a"], "b": table["b"]},
    ]
    assert digest not in {tables_digest([pa.table(columns)]) for columns in changed}


def test_hold_out_counts_the_history_apart(folder: Path) -> None:
    split = {"kind": "user_holdout", "valid": 0.3, "test": 0.3, "seed": 3}
    counts = prepare(config(folder, split=split)).manifest["counts"]
    parts = ("training_events", "history_events", "validation_events", "test_events")
    assert sum(counts[part] for part in parts) == counts["events"]
    assert counts["training_events"] < counts["events"]


def test_the_built_in_sample_comes_through_the_same_readers(tmp_path: Path) -> None:
    pytest.importorskip("data_prep.sample", reason="the sample's generator is not there")
    tree = {"name": "sample", "data": {"format": "sample"}, "prepared": str(tmp_path / "prepared")}
    data = PreparedData.load(prepare(build_config(tree, where="test")).path)
    assert data.items["title"].null_count == 0
    assert not data.vocabulary.holds_integers
    assert data.times is not None
    kept = tree | {"data": {"format": "sample", "path": str(tmp_path / "sample")}}
    assert prepare(build_config(kept, where="test")).reused
    assert (tmp_path / "sample" / "plays.csv").is_file()


def prepare_real(tmp_path: Path, name: str, **data: object) -> PrepareReport:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the public data set {name} is not beside the project, in {folder}")
    tree = {"name": name, "data": {"path": str(folder), **data}, "prepared": str(tmp_path / name)}
    return prepare(build_config(tree, where="test"))


@pytest.mark.external_data
@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("lastfm", {"events": "sequences.txt", "format": "sequences"}, (1_090, 3_646, 52_551)),
        ("yelp", {"events": "sequences.txt", "format": "sequences"}, (30_431, 20_033, 316_354)),
        (
            "amazon-beauty-5core",
            {"events": "sequences.txt", "format": "sequences"},
            (22_363, 12_101, 198_502),
        ),
        ("amazon-beauty-bert4rec", {"events": "beauty.txt", "format": "pairs"}, (40_226, 54_542, 353_962)),
        (
            "spotify-playlists",
            {
                "events": "train_new_pos.csv",
                "items": "tracks.csv",
                "columns": {"sequence": "playlist_id", "item": "track_id", "time": "pos"},
            },
            (5_000, 13_536, 115_553),
        ),
    ],
)
def test_public_logs_have_their_stated_counts(
    tmp_path: Path, name: str, data: dict[str, Any], expected: tuple[int, ...]
) -> None:
    counts = prepare_real(tmp_path, name, **data).manifest["counts"]
    assert (counts["sequences"], counts["items"], counts["events"]) == expected


@pytest.mark.external_data
def test_movielens_by_its_own_configuration(tmp_path: Path) -> None:
    if not (DATA / "ml-100k").is_dir():
        pytest.skip(f"MovieLens 100K is not beside the project, in {DATA / 'ml-100k'}")
    overrides = [f"data.path={DATA / 'ml-100k'}", f"prepared={tmp_path / 'out'}"]
    report = prepare(load_config(PROJECT / "configs" / "ml-100k.yaml", overrides))
    counts = report.manifest["counts"]
    assert (counts["sequences"], counts["items"], counts["events"]) == (943, 1_682, 100_000)
    assert (counts["training_events"], counts["test_targets"]) == (98_114, 943)
    first = PreparedData.load(report.path).items.slice(0, 1).to_pylist()[0]
    assert (first["id"], first["title"], first["release_year"]) == (50, "Star Wars", "1977")
