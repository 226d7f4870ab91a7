"""Spark and Polars prepare the same content, of clean logs and of bad rows, and export the same lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.prepare import prepare, prepare_frame
from recsys.answers import Filters
from recsys.config import build_config
from recsys.errors import InputError
from serving.export import Wanted, export
from serving.export.spark import export as export_on_spark
from tests.benchmarks.prepare_scale import CONFIG, write_log
from tests.export.world import world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
COLUMNS = {
    "sequence": "user",
    "item": "item",
    "time": "at",
    "rating": "stars",
    "event": "kind",
    "session": "visit",
    "context": ["device"],
}
pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
SMALL = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "localhost",
    "spark.driver.memory": "512m",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
"""Little data: what compiles a query takes longer than what runs it."""


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """A Spark of two threads; `engine=spark` uses the session that runs."""
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master("local[2]")
        for name, value in SMALL.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        yield session
        session.stop()


def log(events: int = 500) -> pl.DataFrame:
    """A log with what logs have: no id here, no time there, copies, ties, repeats, ids beyond ASCII."""
    rng = np.random.default_rng(0)
    drawn = pl.DataFrame(
        {
            "user": rng.choice(np.array(["", "007", "7", "Zoë", "b/c", "c d", "e\u200b", "f", None]), events),
            "item": rng.choice([*"abcdefgh", "", "É", "e\u0301", "%41"], events),
            "at": rng.integers(-400, 400, size=events) * 900,  # before 1970 too
            "stars": rng.choice([1.0, 2.5, 5.0, np.nan, np.inf], events),
            "kind": rng.choice(["buy", "view"], events),
            "visit": rng.choice(["", "1", "a/b", "100%"], events),
            "device": rng.choice(np.array(["phone", "car", None]), events),
        }
    )
    untimed = pl.when(pl.Series(rng.random(events) > 0.02)).then("at").alias("at")
    return pl.concat([drawn.with_columns(untimed), drawn.tail(30)])


def made(folder: Path, tree: dict[str, Any], frame: pl.DataFrame | None = None) -> list[tuple[Any, ...]]:
    """Digest, counts and removals by each engine."""
    found = []
    for engine in ("polars", "spark"):
        sections = {"name": "x", "prepared": str(folder / engine), "engine": engine, **tree}
        config = build_config(sections, where="test")
        report = prepare(config) if frame is None else prepare_frame(frame, config)
        manifest = report.manifest
        found.append((manifest["content_digest"], manifest["counts"], manifest["removals"]))
    return found


WAYS: dict[str, dict[str, Any]] = {
    "sessions by gap": {
        "clean": {
            "max_per_minute": 20,
            "min_rating": 2,
            "repeats": "consecutive",
            "min_sequence_length": 2,
            "min_item_count": 3,
            "max_sequence_length": 9,
        },
        "sessions": {"by": "gap", "minutes": 200},
        "split": {"kind": "leave_one_out", "targets": ["buy"]},
    },
    "cuts in time": {
        "clean": {"repeats": "first", "min_sequence_length": 2, "start": "1969-12-29"},
        "sessions": {"by": "day", "starts_at": -5.5},
        "split": {"kind": "global_time", "targets": ["buy"]},
    },
    "cold items": {"sessions": "column", "split": {"kind": "item_cold", "items": 0.3}},
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # PySpark leaves a pipe open
def test_an_engine_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It comes first: no session runs yet that would be taken."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=r"needs Java 17 or newer, and Spark did not start: .*GATEWAY_EXITED"
    ):
        made(tmp_path, {"data": {"columns": COLUMNS}}, log(50))
    assert not (tmp_path / "spark").exists()
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(InputError, match=r"needs PySpark: pip install 'recsys\[spark\]'"):
        made(tmp_path, {"data": {"columns": COLUMNS}}, log(50))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_content_is_the_same(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    monkeypatch.setattr("data_prep.spark.SLICE", 400)
    polars, by_spark = made(tmp_path, {"data": {"columns": COLUMNS}, **way}, log())
    assert polars == by_spark
    assert 0 < polars[1]["events"] < 500
    assert polars[2][0]["step"] == "validate"
    assert polars[2][0]["events"] > 50
    names = pq.read_schema(tmp_path / "spark/sequences.parquet").names
    assert ("user" in names, "device" in names, "visit" in names) == (True, True, False)


def test_a_file_without_times_and_ids_that_are_numbers(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,visit\n7,1,x\n7,1,\n5,,x\n5,2,x\n,2,x\n7,3,x\n5,4,y\n6,9,z\n"
    )
    columns = {"sequence": "user", "item": "item", "session": "visit"}
    tree = {
        "data": {"path": str(tmp_path / "log.csv"), "columns": columns},
        "split": {"kind": "user_holdout", "valid": 0.4, "test": 0.2},
    }
    polars, by_spark = made(tmp_path, tree)
    assert polars == by_spark
    assert (polars[1]["events"], polars[2][0]["events"]) == (6, 2)
    assert "session" not in pq.read_schema(tmp_path / "spark/sequences.parquet").names


def test_spark_exports_the_same_lists(spark: SparkSession, tmp_path: Path) -> None:
    data, recommender = world(tmp_path)
    bundle = recommender.bundle.folder
    filters = Filters(deny=(3,), max_per={})
    export(recommender, data, tmp_path / "lists.parquet", Wanted(k=7, filters=filters))
    expected = pq.read_table(tmp_path / "lists.parquet").drop_columns(["generated_at"])
    rows = [data.sequences[row] for row in range(len(data.ids))]
    ids = [[10_000, *data.vocabulary.decode(row)] for row in rows]  # an unknown item changes nothing
    histories = spark.createDataFrame(pa.table({"items": ids, "sequence": data.ids.cast(pa.string())}))
    lists = export_on_spark(bundle, histories.repartition(3), 7, filters, block=4)
    found = lists.toArrow().sort_by("sequence")
    assert found.drop_columns(["generated_at"]).to_pylist() == expected.sort_by("sequence").to_pylist()
    assert len(set(found["generated_at"].to_pylist())) == 1
    with pytest.raises(InputError, match="the histories have columns items, id; expected `sequence` too"):
        export_on_spark(bundle, histories.withColumnRenamed("sequence", "id"))
    words = histories.selectExpr("sequence", "cast(items as array<string>) as items")
    with pytest.raises(InputError, match=r"`items` is array<string>; expected array<bigint>, .*: cast it"):
        export_on_spark(bundle, words)


@pytest.mark.slow
def test_five_million_generated_events(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    write_log(log, 5_000_000)
    (tmp_path / "scale.yaml").write_text(CONFIG)
    found = []
    for engine in ("polars", "spark"):
        command = ["prepare", str(tmp_path / "scale.yaml"), f"engine={engine}", f"data.path={log}"]
        command = [sys.executable, "-m", "recsys", *command, f"prepared={tmp_path / engine}"]
        memory = {"PYSPARK_SUBMIT_ARGS": "--master local[2] --driver-memory 3g pyspark-shell"}
        subprocess.run(command, env={**os.environ, **memory}, check=True)
        manifest = json.loads((tmp_path / engine / "manifest.json").read_text())
        found.append([manifest[key] for key in ("content_digest", "counts", "removals")])
    assert found[0] == found[1]
    assert found[0][2][0]["events"] > 400  # rows without an item


PLAIN = {"format": "sequences", "events": "sequences.txt"}
POSITIONS = {"sequence": "playlist_id", "item": "track_id", "time": "pos"}


@pytest.mark.external_data
@pytest.mark.parametrize(
    ("name", "data", "clean"),
    [
        ("ml-100k", {"format": "atomic"}, {"min_item_count": 5, "repeats": "first"}),
        ("amazon-beauty-bert4rec", {"format": "pairs", "events": "beauty.txt"}, {}),
        ("lastfm", PLAIN, {"min_item_count": 5}),
        ("amazon-beauty-5core", PLAIN, {}),
        ("yelp", PLAIN, {"min_sequence_length": 9}),
        ("spotify-playlists", {"events": "train_new_pos.csv", "columns": POSITIONS}, {"min_item_count": 2}),
    ],
)
def test_public_data_sets(
    spark: SparkSession, tmp_path: Path, name: str, data: dict[str, Any], clean: dict[str, Any]
) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not beside the project, in {DATA / name}")
    polars, by_spark = made(tmp_path, {"data": {**data, "path": str(DATA / name)}, "clean": clean})
    assert polars == by_spark
    print(name, *polars)
