"""A log in a database or in an object store gives the very data set that the same log in a file gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data_prep.prepare import check_input, prepare
from recsys.config import ExperimentConfig, build_config
from recsys.errors import InputError
from tests.object_store import KEY, SECRET, object_store
from tests.postgres import PASSWORD, postgres_programs, postgres_server

ROWS = [("ann", 3, 100), ("bob", 1, 90), ("ann", 2, 95), ("ann", 1, 95), ("bob", 2, 120)]
TITLES = [(1, "One"), (2, "Two"), (3, "Three")]
COLUMNS = {"sequence": "who", "item": "what", "time": "at"}


def config(folder: Path, name: str, **data: Any) -> ExperimentConfig:  # noqa: ANN401
    tree = {
        "name": "shop",
        "prepared": str(folder / name),
        "data": {"columns": COLUMNS, "item_columns": {"id": "what", "title": "title"}, **data},
    }
    return build_config(tree, where="test")


@pytest.fixture
def content(tmp_path: Path) -> str:
    """Digest of what the log gives when it is a file; of equal times the smaller id comes first."""
    log = pl.DataFrame(ROWS, schema=["who", "what", "at"], orient="row").sort("at", "who", "what")
    log.write_csv(tmp_path / "log.csv")
    pl.DataFrame(TITLES, schema=["what", "title"], orient="row").write_csv(tmp_path / "items.csv")
    report = prepare(config(tmp_path, "plain", path=str(tmp_path), events="log.csv", items="items.csv"))
    return str(report.manifest["content_digest"])


def statements(types: str) -> list[str]:
    return [
        f"CREATE TABLE views ({types})",
        "INSERT INTO views VALUES " + ", ".join(map(str, ROWS)),
        "CREATE TABLE goods (what INTEGER, title TEXT)",
        "INSERT INTO goods VALUES " + ", ".join(map(str, TITLES)),
    ]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Address of a server with the tables, its password in the environment."""
    if postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    from adbc_driver_postgresql import dbapi

    with pytest.MonkeyPatch.context() as patch, postgres_server() as address:
        patch.setenv("PGPASSWORD", PASSWORD)
        with dbapi.connect(address) as connection, connection.cursor() as cursor:
            for statement in statements("who VARCHAR(10), what INTEGER, at BIGINT"):
                cursor.execute(statement)
            connection.commit()
        yield address


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    file = tmp_path / "shop.db"
    connection = sqlite3.connect(file)
    for statement in statements("who TEXT, what INTEGER, at INTEGER"):
        connection.execute(statement)
    connection.commit()
    connection.close()
    return f"sqlite:///{file}"


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_a_database_gives_what_a_file_gives(
    tmp_path: Path, content: str, kind: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(kind)
    table = config(tmp_path, "table", path=address, format="sql", events="views", items="goods")
    assert prepare(table).manifest["content_digest"] == content
    assert prepare(table).reused
    assert "is not read again" in check_input(table)[0]
    query = "SELECT who, what, at FROM views WHERE at > 0 ORDER BY at, who, what"
    asked = config(tmp_path, "query", path=address, format="sql", events=query, items="goods")
    assert prepare(asked).manifest["content_digest"] == content


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(InputError, match=r"there is no file .*none\.db"):
        prepare(config(tmp_path, "table", path=address, format="sql", events="views", items="goods"))
    assert not (tmp_path / "none.db").exists()


def test_postgres_times_and_a_wrong_password(
    postgres: str, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "SELECT who, what, to_timestamp(at) AS at FROM views ORDER BY at, who, what"
    asked = config(tmp_path, "times", path=postgres, format="sql", events=query, items="goods")
    assert prepare(asked).manifest["content_digest"] == content
    monkeypatch.setenv("PGPASSWORD", "a guess")
    with pytest.raises(InputError, match=r"cannot be reached: .*password authentication failed.*; check"):
        prepare(config(tmp_path, "x", path=postgres, format="sql", events="views", items="goods"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"events": "vews"},
            r"`SELECT \* FROM vews`.* failed: .*no such table.*; correct data\.ev",
        ),
        (
            {"events": "views", "columns": {**COLUMNS, "item": "wat"}},
            r"views has no column `wat`.*did you mean",
        ),
        (
            {"events": "views", "columns": {**COLUMNS, "time": None}},
            r"the rows of table views have no order",
        ),
        ({}, r"data\.format=sql needs data\.events: one table, or one query"),
        (
            {"path": "postgresql://me:secret@h/db", "events": "views"},
            r"data\.path holds a password",
        ),
        (
            {"path": "postgresql://me@h/db?sslmode=on&password=hunter2", "events": "views"},
            r"^test: data\.path holds a password, which would be written down with every run; take it out "
            r"and set PGPASSWORD, or use ~/\.pgpass$",
        ),
        (
            {"storage": {"aws_region": "x", "aws_secret_access_key": "hunter2"}, "events": "views"},
            r"^test: data\.storage holds a secret, `aws_secret_access_key`, which would be written down with "
            r"every run; take it out and set it in the environment$",
        ),
        ({"events": "views", "items": "log"}, r"data\.items=log takes item columns from files alone"),
        ({"events": "views", "items": None}, r"names a title or attributes, but there is no item table"),
        (
            {"path": "mysql://h/db", "events": "views"},
            r"data\.path is `mysql://h/db`; expected postgresql://",
        ),
        (
            {"path": "postgresql://me@127.0.0.1:1/db", "events": "views"},
            r"cannot be reached: .*; check",
        ),
    ],
)
def test_what_a_database_refuses(sqlite: str, tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(config(tmp_path, "out", **{"path": sqlite, "format": "sql", "items": "goods", **data}))
    assert not (tmp_path / "out").exists()


def test_a_partitioned_log_on_disk_and_in_an_object_store(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = pl.read_csv(tmp_path / "log.csv").with_columns(shop=pl.col("at") // 100)
    bucket = tmp_path / "store/bucket"
    for number in (0, 1):
        part = bucket / f"log/shop={number}/part.parquet"
        part.parent.mkdir(parents=True)
        log.filter(pl.col("shop") == number).drop("shop").write_parquet(part)
    pl.read_csv(tmp_path / "items.csv").write_parquet(bucket / "items.parquet")
    local = config(
        tmp_path, "local", path=str(bucket / "log"), format="parquet", items=str(bucket / "items.parquet")
    )
    assert prepare(local).manifest["content_digest"] == content
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with object_store(tmp_path / "store") as endpoint:
        store = {"aws_endpoint_url": endpoint, "aws_region": "us-east-1", "aws_allow_http": "true"}
        path = {"path": "s3://bucket/log/", "format": "parquet", "storage": store}
        remote = config(tmp_path, "remote", **path, items="s3://bucket/items.parquet")
        assert prepare(remote).manifest["content_digest"] == content
        assert prepare(remote).reused
        partition = {"columns": {**COLUMNS, "context": ["shop"]}}
        remote = config(tmp_path, "shop", **path, **partition, items="s3://bucket/items.parquet")
        data = local.data.model_dump() | partition
        for kept in (prepare(remote), prepare(config(tmp_path, "local shop", **data))):
            assert pl.read_parquet(kept.path / "sequences.parquet")["shop"].to_list() == [0, 0]
        with pytest.raises(InputError, match=r"s3://bucket/nothing/ cannot be read: .*; check the address"):
            prepare(config(tmp_path, "x", **{**path, "path": "s3://bucket/nothing/"}, items="items.parquet"))
        with pytest.raises(InputError, match=r"only Parquet is read from there: set data\.format=parquet"):
            prepare(config(tmp_path, "x", path="s3://bucket/log.csv", items="items.parquet"))
