"""Spark and Polars prepare the same content, of clean logs and of bad rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from data_prep.prepare import prepare, prepare_frame
from recsys.config import build_config
from recsys.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
COLUMNS = {"sequence": "user", "item": "item", "time": "at", "event": "kind", "context": ["device"]}


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """A Spark of two threads; `engine=spark` uses the session that runs."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    small = builder.config("spark.driver.memory", "512m").config("spark.driver.host", "localhost")
    session = small.config("spark.sql.shuffle.partitions", "2").getOrCreate()
    yield session
    session.stop()


def log(events: int = 400) -> pl.DataFrame:
    """A log with what logs have: no id here, no time there, copies, ties, repeats, ids beyond ASCII."""
    rng = np.random.default_rng(0)
    drawn = pl.DataFrame(
        {
            "user": rng.choice(["", "007", "7", "Zoë", "b", "c d", "e\u200b", "f"], events),
            "item": rng.choice([*"abcdefgh", "", "É", "e\u0301"], events),
            "at": 1_700_000_000 + rng.integers(40, size=events) * 900,
            "kind": rng.choice(["buy", "view"], events),
            "device": rng.choice(["phone", "car"], events),
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
    "sessions": {
        "clean": {
            "max_per_minute": 20,
            "repeats": "consecutive",
            "min_sequence_length": 2,
            "min_item_count": 3,
            "max_sequence_length": 9,
        },
        "sessions": {"by": "gap", "minutes": 20},
    },
    "cuts in time": {
        "clean": {"repeats": "first", "min_sequence_length": 2},
        "split": {"kind": "global_time", "targets": ["buy"]},
    },
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_content_is_the_same(spark: SparkSession, tmp_path: Path, way: dict[str, Any]) -> None:
    polars, by_spark = made(tmp_path, {"data": {"columns": COLUMNS}, **way}, log())
    assert polars == by_spark
    assert 0 < polars[1]["events"] < 400
    assert "device" in pq.read_schema(tmp_path / "spark/sequences.parquet").names


def test_a_log_without_times_and_ids_that_are_numbers(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("7 1\n7 1\n5 2\n7 3\n5 4\n6 9\n")
    tree = {
        "data": {"path": str(tmp_path / "log.txt"), "format": "pairs"},
        "split": {"kind": "user_holdout", "valid": 0.4, "test": 0.2},
    }
    polars, by_spark = made(tmp_path, tree)
    assert polars == by_spark
    assert polars[1]["events"] == 6


def test_an_engine_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    def fails(builder: object) -> None:
        raise PySparkRuntimeError("no Java gateway")

    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", fails)
    with pytest.raises(InputError, match=r"engine=spark needs Java 17 or newer, .*: no Java gateway"):
        made(tmp_path, {"data": {"columns": COLUMNS}}, log(50))
    assert not (tmp_path / "spark").exists()
    monkeypatch.setitem(__import__("sys").modules, "pyspark.sql", None)
    with pytest.raises(InputError, match=r"needs PySpark: pip install 'recsys\[spark\]'"):
        made(tmp_path, {"data": {"columns": COLUMNS}}, log(50))


@pytest.mark.external_data
@pytest.mark.parametrize(
    ("name", "data", "clean"),
    [
        ("ml-100k", {"path": "ml-100k", "format": "atomic"}, {"min_item_count": 5, "repeats": "first"}),
        ("beauty", {"path": "amazon-beauty-bert4rec/beauty.txt", "format": "pairs"}, {}),
        ("lastfm", {"path": "lastfm/sequences.txt", "format": "sequences"}, {"min_item_count": 5}),
        ("beauty-5core", {"path": "amazon-beauty-5core/sequences.txt", "format": "sequences"}, {}),
        ("yelp", {"path": "yelp/sequences.txt", "format": "sequences"}, {"min_sequence_length": 9}),
    ],
)
def test_public_data_sets(
    spark: SparkSession, tmp_path: Path, name: str, data: dict[str, str], clean: dict[str, Any]
) -> None:
    polars, by_spark = made(tmp_path, {"data": {**data, "path": str(DATA / data["path"])}, "clean": clean})
    assert polars == by_spark
