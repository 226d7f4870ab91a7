from __future__ import annotations

import csv
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.answers import Filters, Question, Recommendations
from recsys.dataset import PreparedData
from recsys.encoding import encode_histories, item_vectors
from recsys.errors import InputError
from recsys.index import build_index
from recsys.models.protocol import Encoder
from recsys.recommender import Recommender
from serving.export import Shard, Wanted, export
from serving.export.files import exchange
from serving.export.wanted import day, id_hash, known_what
from tests.export.world import N_ITEMS, N_SEQUENCES, read
from tests.worlds import counting_bundle, prepared, ring


def lists(recommender: Recommender, data: PreparedData, k: int, filters: Filters) -> list[Recommendations]:
    """What the endpoint answers to every sequence."""
    histories = [data.vocabulary.decode(data.sequences[row]) for row in range(N_SEQUENCES)]
    answers = recommender.answer([Question(history, k, filters) for history in histories])
    assert not [answer for answer in answers if isinstance(answer, InputError)]
    return [answer for answer in answers if isinstance(answer, Recommendations)]


def test_every_sequence_gets_what_recommend_gives(
    tmp_path: Path, folder: Path, recommender: Recommender, data: PreparedData
) -> None:
    build_index(recommender.bundle, data.sequences, k=20)
    annoy = Recommender.load(folder / "bundle", backend="annoy")
    calls: list[tuple[int, int]] = []
    out = tmp_path / "recs.parquet"
    report = export(annoy, data, out, Wanted(k=9), block=7, progress=lambda *at: calls.append(at))
    assert calls == [(0, 26), (7, 26), (14, 26), (21, 26), (26, 26)]
    assert (report.rows, report.answers, report.fallback, report.short) == (26, 26 * 9, 1, 0)
    assert (report.backend, report.trained_on_this, report.where) == ("annoy", True, str(out))
    table = pq.read_table(out)
    assert {field.name: field.type for field in table.schema} == {
        "sequence": pa.string(),
        "items": pa.list_(pa.int64()),
        "scores": pa.list_(pa.float32()),
        "model_version": pa.string(),
        "generated_at": pa.timestamp("us", tz="UTC"),
    }
    assert table["sequence"].to_pylist() == data.ids.to_pylist()
    assert set(table["model_version"].to_pylist()) == {recommender.model_version}
    (moment,) = set(table["generated_at"].to_pylist())
    assert timedelta(0) <= datetime.now(UTC) - moment < timedelta(minutes=5)
    for line, answer in zip(table.to_pylist(), lists(annoy, data, 9, Filters()), strict=True):
        assert line["items"] == [item.id for item in answer.items]
        assert line["scores"] == [item.score for item in answer.items]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.parquet", "recs.parquet.manifest.json"]


@pytest.mark.parametrize(
    "filters",
    [
        Filters(deny=[10, 20], where={"year": {">=": 1995}}, min_score=0.5),
        Filters(max_per={"genres": 3}, exclude_seen=False),
        Filters(max_per={"year": 1, "genres": 50}, allow=[item * 10 for item in range(1, 41)]),
    ],
)
def test_the_filters_are_the_endpoints(
    tmp_path: Path, recommender: Recommender, data: PreparedData, filters: Filters
) -> None:
    out = tmp_path / "recs.jsonl"
    report = export(recommender, data, out, Wanted(k=8, filters=filters), block=10)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    answers = lists(recommender, data, 8, filters)
    assert [line["items"] for line in lines] == [[item.id for item in answer.items] for answer in answers]
    assert report.short == sum(answer.fewer_because is not None for answer in answers)


def test_formats_tell_the_same(tmp_path: Path, recommender: Recommender, data: PreparedData) -> None:
    for what, key, size in (("recommendations", "sequence", 26), ("similar-items", "item", N_ITEMS)):
        wanted = Wanted(what=known_what(what), k=4)
        for kind in ("parquet", "jsonl", "csv"):
            assert (
                export(recommender, data, tmp_path / f"{what}.{kind}", wanted, block=11).answers == 4 * size
            )
        expected = pq.read_table(tmp_path / f"{what}.parquet").to_pylist()
        lines = [json.loads(line) for line in (tmp_path / f"{what}.jsonl").read_text().splitlines()]
        assert [(line[key], line["items"]) for line in lines] == [
            (row[key], row["items"]) for row in expected
        ]
        assert lines[0]["scores"] == pytest.approx(expected[0]["scores"])
        with (tmp_path / f"{what}.csv").open() as stream:
            header, *cells = csv.reader(stream)
        assert header == [key, "rank", "item" if key == "sequence" else "similar", "score"]
        flat = [(row[key], rank, item) for row in expected for rank, item in enumerate(row["items"], 1)]
        assert [cell[:3] for cell in cells] == [[str(value) for value in each] for each in flat]
    (first,) = expected[:1]
    assert first["items"] == [each.id for each in recommender.similar(10, 4)]


def test_vectors_give_the_scores(tmp_path: Path, recommender: Recommender, data: PreparedData) -> None:
    model = recommender.bundle.model
    assert isinstance(model, Encoder)
    tables = {}
    for what in ("item-vectors", "sequence-vectors"):
        wanted = Wanted(what=known_what(what))
        report = export(recommender, data, tmp_path / f"{what}.parquet", wanted, block=9)
        export(recommender, data, tmp_path / f"{what}.csv", wanted, block=1)
        tables[what] = pq.read_table(tmp_path / f"{what}.parquet")["vector"].to_pylist()
    assert report.fallback == 1
    assert tables["item-vectors"] == item_vectors(model).tolist()
    assert tables["sequence-vectors"][:-1] == encode_histories(model, data.sequences.take(range(25))).tolist()
    assert tables["sequence-vectors"][-1] is None, "u25 has no event"
    lines = (tmp_path / "sequence-vectors.csv").read_text().splitlines()
    assert lines[0] == "sequence," + ",".join(f"v{place}" for place in range(1, 18))
    assert (len(lines), lines[-1]) == (27, '"u25"' + "," * 17)
    counting = Recommender.load(counting_bundle(tmp_path / "knn", data, name="item_knn").folder)
    with pytest.raises(InputError, match="item-vectors are asked of model item_knn, which only counts"):
        export(counting, data, tmp_path / "none.parquet", Wanted(what="item-vectors"))
    report = export(counting, data, tmp_path / "knn.parquet", Wanted(what="similar-items", k=3))
    assert report.rows == N_ITEMS and pq.read_table(tmp_path / "knn.parquet")["items"][0].as_py() == [
        each.id for each in counting.similar(10, 3)
    ]


def test_some_sequences(tmp_path: Path, recommender: Recommender, data: PreparedData) -> None:
    out, ids = tmp_path / "recs.parquet", tmp_path / "ids.csv"
    ids.write_text("name,sequence\na,u4\nb,u2\nc,nobody\nd,u4\n")
    report = export(recommender, data, out, Wanted(k=2, only=ids))
    assert ([row[0] for row in read(str(out))], report.unknown) == (["u2", "u4"], ["nobody"])
    pq.write_table(pa.table({"any": pa.array([20, 10, 999])}), tmp_path / "items.parquet")
    wanted = Wanted(what="similar-items", k=2, only=tmp_path / "items.parquet")
    assert export(recommender, data, out, wanted).unknown == ["999"]
    assert pq.read_table(out)["item"].to_pylist() == [10, 20]
    assert data.times is not None
    cut = day(str(datetime.fromtimestamp(data.times[-1] / 1e6, UTC).date()))
    export(recommender, data, out, Wanted(k=2, since=cut))
    assert [row[0] for row in read(str(out))] == ["u24"]


def test_shards_and_partitions_are_the_whole(
    tmp_path: Path, recommender: Recommender, data: PreparedData
) -> None:
    export(recommender, data, tmp_path / "all.jsonl", Wanted(k=3))
    whole, rows = dict(read(str(tmp_path / "all.jsonl"))), []
    for number in (1, 2, 3):
        export(recommender, data, tmp_path / "recs.parquet", Wanted(k=3, shard=Shard(number, 3)), block=4)
        shard = read(str(tmp_path / f"recs-{number}-of-3.parquet"))
        assert shard, "a third of 26"
        rows += shard
    assert len(rows) == 26 and dict(rows) == whole
    for partitions in (4, 3):
        export(recommender, data, tmp_path / "recs", Wanted(k=3, partitions=partitions), block=4)
        assert len(read(str(tmp_path / "recs"))) == 26 and dict(read(str(tmp_path / "recs"))) == whole
    for number in range(3):
        ids = pq.read_table(tmp_path / f"recs/{number:05}-of-00003.parquet")["sequence"].combine_chunks()
        assert set(id_hash(ids) % 3) == {number}
    assert len(list((tmp_path / "recs").iterdir())) == 4, "three files and the manifest"


def test_the_manifest_states_model_counts_and_checksums(
    tmp_path: Path, recommender: Recommender, data: PreparedData
) -> None:
    wanted = Wanted(k=5, filters=Filters(deny=[10], max_per={"genres": 9}), shard=Shard(1, 2))
    report = export(recommender, data, tmp_path / "recs.csv", wanted)
    manifest = json.loads((tmp_path / "recs-1-of-2.csv.manifest.json").read_text())
    assert manifest["model_version"] == recommender.model_version
    assert (manifest["k"], manifest["allowed_items"], manifest["max_per"]) == (5, N_ITEMS - 1, {"genres": 9})
    assert (manifest["where"], manifest["allow"], manifest["deny"]) == ({}, None, 1)
    assert manifest["counts"] == {"rows": report.rows, "answers": report.answers, "short": 0, "fallback": 1}
    assert manifest["shard"] == [1, 2] and 0 < report.rows < 26
    content = (tmp_path / "recs-1-of-2.csv").read_bytes()
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["files"] == {"recs-1-of-2.csv": facts}


def test_new_events_of_known_items_are_welcome_and_other_items_are_not(
    tmp_path: Path, recommender: Recommender
) -> None:
    newer = prepared(tmp_path / "newer", ring(N_ITEMS, 5, seed=1), N_ITEMS, strings=False, timed=False)
    assert export(recommender, newer, tmp_path / "recs.parquet", Wanted(k=3)).trained_on_this is False
    with pytest.raises(InputError, match=r"--since needs the times of events, which .*newer does not have"):
        export(recommender, newer, tmp_path / "recs.parquet", Wanted(since=day("2026-01-01")))
    other = prepared(tmp_path / "other", ring(N_ITEMS, 5), N_ITEMS, strings=True)
    with pytest.raises(InputError, match=f"the {N_ITEMS} items of .*other .* are not the {N_ITEMS} of"):
        export(recommender, other, tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_bad_selections(tmp_path: Path, recommender: Recommender, data: PreparedData) -> None:
    (tmp_path / "ids.csv").write_text("a,b\n1,2\n")
    (tmp_path / "none.csv").write_text("sequence\nx\ny\n")
    (tmp_path / "bad.parquet").write_text("no")
    cases = [
        (Wanted(k=0), "k is 0; expected at least 1"),
        (Wanted(only=tmp_path / "ids.csv"), "has columns a, b; expected `sequence`, or a single column"),
        (Wanted(only=tmp_path / "none.csv"), r"none of the 2 ids of .* is a sequence of .* \(such as x, y\)"),
        (Wanted(only=tmp_path / "bad.parquet"), "bad.parquet cannot be read as parquet"),
        (Wanted(only=tmp_path / "ids.txt"), "ids.txt shall hold ids; expected a .csv with a header"),
        (Wanted(since=day("2999-01-01")), "none has an event since 2999-01-01.*; name an earlier date"),
        (Wanted(what="item-vectors", since=day("2020-01-01")), "--since is about events of sequences"),
        (Wanted(filters=Filters(where={"no": [1]})), "items have no attribute `no` to filter by"),
    ]
    for wanted, message in cases:
        with pytest.raises(InputError, match=message):
            export(recommender, data, tmp_path / "recs.parquet", wanted)
    for text in ("0/2", "3/2", "1", "a/b", "1/2/3"):
        with pytest.raises(InputError, match=f"shard is `{text}`; expected i/n with i from 1 to n"):
            Shard.read(text)
    with pytest.raises(InputError, match="`users` cannot be exported; known: recommendations, similar-items"):
        known_what("users")
    with pytest.raises(InputError, match="`soon` is no date; expected one such as"):
        day("soon")
    assert not (tmp_path / "recs.parquet").exists()


def test_bad_places(tmp_path: Path, recommender: Recommender, data: PreparedData) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo").touch()
    some = Wanted(partitions=2)
    cases: list[tuple[Path | str, Wanted, str]] = [
        (tmp_path / "no/recs.parquet", Wanted(), "there is no folder"),
        (tmp_path / "recs", Wanted(), r"recs names no format; end it in one of \.parquet, \.jsonl, \.csv"),
        (tmp_path / "recs.csv", some, "is for a folder of Parquet files, but .*recs.csv names a file"),
        (tmp_path / "full", some, "full exists and is not a folder that `recsys export` wrote"),
        (tmp_path / "recs", Wanted(partitions=0), "--partitions is 0; expected at least 1"),
        ("mysql://host/db", Wanted(), "cannot export to mysql://...; known: a path, sqlite:///FILE"),
        ("sqlite:///x.db", some, "--partitions is for folders, but sqlite://... is a database"),
        ("sqlite:///no/x.db", Wanted(), "expected sqlite:///FILE in a folder that exists"),
    ]
    for out, wanted, message in cases:
        with pytest.raises(InputError, match=message):
            export(recommender, data, out, wanted)
    assert (tmp_path / "full/photo").exists()
    with pytest.raises(InputError, match="--table recs is for databases"):
        export(recommender, data, tmp_path / "recs.csv", table="recs")
    with pytest.raises(InputError, match="block is 0; expected at least 1"):
        export(recommender, data, tmp_path / "recs.csv", block=0)


def test_folders_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    exchange(one, other)
    assert (one / "other").exists() and (other / "one").exists()
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: None)  # a C library without renameat2
    exchange(one, other)
    assert (one / "one").exists() and (other / "other").exists()
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    with pytest.raises(OSError, match="No such file"):
        exchange(one, tmp_path / "none")
