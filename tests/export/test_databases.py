from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as postgresql
import numpy as np
import pyarrow as pa
import pytest
import redis

from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.recommender import Recommender
from serving.export import Shard, Wanted, export
from serving.export.sql import SqlSink
from serving.export.wanted import Part, known_what
from tests.export.world import read
from tests.postgres import PASSWORD, postgres_server
from tests.redis_server import redis_server

PLACES = ("sqlite", "postgresql", "redis")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    file = tmp_path_factory.mktemp("sqlite") / "recs.db"
    with pytest.MonkeyPatch.context() as patch, postgres_server() as sql, redis_server() as cache:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield {"sqlite": f"sqlite:///{file}", "postgresql": sql, "redis": cache}


def lists(recommender: Recommender, data: PreparedData, k: int) -> dict[str, list[Any]]:
    found = recommender.recommend_batch(data.sequences, k)[0]
    return dict(zip(data.ids.to_pylist(), map(recommender.vocabulary.decode, found), strict=True))


def rows_of(address: str, query: str) -> list[tuple[Any, ...]]:
    if address.startswith("sqlite"):
        connection = sqlite3.connect(address.partition(":///")[2])
        found = connection.execute(query).fetchall()
        connection.commit()
        connection.close()
        return found
    with postgresql.connect(address) as server, server.cursor() as cursor:
        cursor.execute(query)
        answers = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        server.commit()
        return answers


@pytest.mark.parametrize("place", PLACES)
def test_killed_resumed_and_replaced(
    servers: dict[str, str], recommender: Recommender, data: PreparedData, place: str
) -> None:
    address = servers[place]

    def stop(done: int, _: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    export(recommender, data, address, Wanted(k=2), block=9)
    with pytest.raises(KeyboardInterrupt):
        export(recommender, data, address, Wanted(k=4), block=5, progress=stop)  # never finished
    with pytest.raises(KeyboardInterrupt):
        export(recommender, data, address, Wanted(k=3), block=5, progress=stop)
    seen = read(address)
    assert len(seen) == 26 and dict(seen) == lists(recommender, data, 2), "the former whole"
    report = export(recommender, data, address, Wanted(k=3), block=5)
    seen = read(address)
    assert report.resumed == 10 and len(seen) == 26 and dict(seen) == lists(recommender, data, 3)
    if place == "redis":
        with redis.Redis.from_url(address, decode_responses=True) as client:
            assert sorted(client.keys()) == ["recommendations", "recommendations:manifest"]
            manifest = json.loads(str(client.get("recommendations:manifest")))
    else:
        ((text,),) = rows_of(address, "SELECT manifest FROM recsys_exports WHERE name = 'recommendations'")
        manifest = json.loads(text)
        assert rows_of(address, "SELECT count(*) FROM recsys_export_parts") == [(0,)]
    assert (manifest["model_version"], manifest["counts"]["rows"]) == (recommender.model_version, 26)
    assert address.split("@")[-1] in report.where and PASSWORD not in report.where


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other", [3, 2])
def test_of_two_exports_at_once_readers_see_one_and_whole(
    servers: dict[str, str], recommender: Recommender, data: PreparedData, place: str, other: int
) -> None:
    address = servers[place]

    def meanwhile(done: int, _: int) -> None:
        if done == 10:
            export(recommender, data, address, Wanted(k=other), block=5)

    with pytest.raises(InputError, match=r"refused|has finished meanwhile"):
        export(recommender, data, address, Wanted(k=3), block=5, progress=meanwhile)
    seen = read(address)
    assert len(seen) == 26 and dict(seen) == lists(recommender, data, other)
    export(recommender, data, address, Wanted(k=3), block=5)
    assert dict(read(address)) == lists(recommender, data, 3)


@pytest.mark.parametrize("place", PLACES[:2])
def test_a_part_that_arrives_after_its_sender_was_killed_is_stored_once(
    servers: dict[str, str], recommender: Recommender, data: PreparedData, place: str
) -> None:
    part = Part(0, 0, np.arange(2))
    killed, sink = (SqlSink(servers[place], "late", Wanted()) for _ in range(2))
    with closing(killed), closing(sink):
        table = pa.table({"sequence": ["a", "b"], "model_version": ["1", "1"]})
        assert killed.begin("plan", table.schema) == sink.begin("plan", table.schema) == {}
        for each in (killed, sink):
            each.put(part, table, {"rows": 2})
        assert sink.publish([part], {"counts": {"rows": 2}}) == []
    assert rows_of(servers[place], "SELECT sequence FROM late ORDER BY 1") == [("a",), ("b",)]


@pytest.mark.parametrize("place", PLACES)
def test_shards_appear_together(
    servers: dict[str, str], recommender: Recommender, data: PreparedData, place: str
) -> None:
    address = servers[place]
    export(recommender, data, address, Wanted(k=2))
    for number, awaited in ((2, [1, 3]), (3, [1]), (1, [])):
        former = read(address)
        assert dict(former) == lists(recommender, data, 2)
        report = export(recommender, data, address, Wanted(k=5, shard=Shard(number, 3)), block=4)
        assert report.awaited == awaited
    seen = read(address)
    assert len(seen) == 26 and dict(seen) == lists(recommender, data, 5)


@pytest.mark.parametrize("place", PLACES[:2])
def test_every_kind_has_its_table(
    servers: dict[str, str], recommender: Recommender, data: PreparedData, place: str
) -> None:
    address = servers[place]
    for what, rows in (("similar-items", 60), ("item-vectors", 60), ("sequence-vectors", 26)):
        wanted = Wanted(what=known_what(what), k=3)
        assert export(recommender, data, address, wanted).rows == rows
        table = what.replace("-", "_")
        assert rows_of(address, f"SELECT count(*) FROM {table}") == [(rows,)]
    ((items,),) = rows_of(address, "SELECT items FROM similar_items WHERE item = 10")
    found = json.loads(items) if place == "sqlite" else items
    assert found == [each.id for each in recommender.similar(10, 3)]
    ((vector,),) = rows_of(address, "SELECT vector FROM sequence_vectors WHERE sequence = 'u25'")
    assert vector is None, "u25 has no event"


@pytest.mark.parametrize("place", PLACES[:2])
def test_views_and_strangers_tables_are_safe(
    servers: dict[str, str], recommender: Recommender, data: PreparedData, place: str
) -> None:
    address = servers[place]
    export(recommender, data, address, Wanted(k=2), table="nightly")
    rows_of(address, f"CREATE VIEW seen_by_{place} AS SELECT sequence FROM nightly")
    export(recommender, data, address, Wanted(k=3), table="nightly")
    assert rows_of(address, f"SELECT count(*) FROM seen_by_{place}") == [(26,)]
    rows_of(address, "CREATE TABLE payroll (name TEXT)")
    with pytest.raises(InputError, match="table payroll exists and no export wrote it; name another"):
        export(recommender, data, address, table="payroll")
    rows_of(address, 'CREATE TABLE "Wages" (a TEXT, b TEXT, c TEXT, d TEXT, e TEXT)')
    rows_of(address, """INSERT INTO "Wages" VALUES ('1', '2', '3', '4', '5')""")
    if place == "sqlite":  # where the case of a name says nothing
        with pytest.raises(InputError, match="table wages exists and no export wrote it"):
            export(recommender, data, address, table="wages")
    else:
        export(recommender, data, address, Wanted(k=2), table="wages")
        assert rows_of(address, "SELECT count(*) FROM wages") == [(26,)]
    assert rows_of(address, 'SELECT e FROM "Wages"') == [("5",)]
    for name in ("order", "Recs"):
        export(recommender, data, address, Wanted(k=2), table=name)
        assert rows_of(address, f'SELECT count(*) FROM "{name}"') == [(26,)]
    with pytest.raises(InputError, match=r"nightly exists with columns sequence, items, .* has item, vector"):
        export(recommender, data, address, Wanted(what="item-vectors"), table="nightly")
    with pytest.raises(InputError, match="table `a; drop`: expected letters, digits and `_`"):
        export(recommender, data, address, table="a; drop")


def test_a_strangers_hash_is_safe(
    servers: dict[str, str], recommender: Recommender, data: PreparedData
) -> None:
    with redis.Redis.from_url(servers["redis"], decode_responses=True) as client:
        client.hset("payroll", "name", "1")
        with pytest.raises(InputError, match="hash payroll exists and no export wrote it; name another"):
            export(recommender, data, servers["redis"], table="payroll")
        assert client.hgetall("payroll") == {"name": "1"}


def test_what_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, recommender: Recommender, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address, shown in (
        ("postgresql://me:secret@127.0.0.1:1/shop", "postgresql://me:***@127.0.0.1:1/shop table .* refused"),
        ("redis://me:secret@127.0.0.1:1/0", "redis://me:***@127.0.0.1:1/0 hash .* refused"),
    ):
        with pytest.raises(InputError, match=shown.replace("*", r"\*").replace(r".\*", ".*")) as error:
            export(recommender, data, address)
        assert "secret" not in str(error.value)
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(InputError, match=r"refused .*not a database"):
        export(recommender, data, f"sqlite:///{tmp_path / 'text.db'}")
    for module, address, extra in (
        ("adbc_driver_sqlite.dbapi", f"sqlite:///{tmp_path / 'x.db'}", "sql"),
        ("adbc_driver_postgresql.dbapi", "postgresql://localhost/shop", "sql"),
        ("redis", "redis://localhost", "redis"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"install it with the extra `recsys\[{extra}\]`"):
            export(recommender, data, address)
