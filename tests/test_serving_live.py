"""What happens to a real server while it runs: new models, broken ones, tables, keys, signals."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.bundle import Bundle
from recsys.dataset import PreparedData
from recsys.index import build_index
from recsys.recommender import Recommender
from recsys.registry import promote, resolve_bundle, rollback
from serving.model import Model
from serving.security import new_key
from serving.server import SPARE_CONNECTIONS
from tests.mlflow_world import NAME, logged
from tests.mlflow_world import bundle as tiny_bundle
from tests.serving_world import Server, serving, until
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring

N_ITEMS = 200
HISTORY = ["i5", "i6", "i9"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepared(tmp_path_factory.mktemp("live") / "data", ring(N_ITEMS, 60), N_ITEMS)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> dict[str, Recommender]:
    """Two models that answer differently, by version."""
    folder = tmp_path_factory.mktemp("live")
    neural = encoder_bundle(folder / "neural", data)
    build_index(neural, data.sequences)
    counting = counting_bundle(folder / "counting", data, name="markov")
    return {each.model_version: Recommender.load(each.folder) for each in (neural, counting)}


def put(bundle: Bundle, place: Path) -> None:
    """Let a bundle take a place in one step, as `recsys train` does."""
    draft, former = place.with_name("draft"), place.with_name("former")
    shutil.copytree(bundle.folder, draft)
    if place.exists():
        place.rename(former)
    draft.rename(place)
    shutil.rmtree(former, ignore_errors=True)


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, Recommender]
) -> Iterator[tuple[Server, Path]]:
    """A server and the folder that it serves, where the first model lies."""
    folder = tmp_path_factory.mktemp("served")
    place = folder / "bundle"
    put(next(iter(bundles.values())).bundle, place)
    with serving(folder, str(place)) as server:
        yield server, place


def test_swaps_under_load_lose_no_request_and_answer_with_the_model_they_name(
    live: tuple[Server, Path], bundles: dict[str, Recommender]
) -> None:
    server, place = live
    first, second = bundles.values()
    expected = {
        version: [item.id for item in recommender.recommend(HISTORY, 20).items]
        for version, recommender in bundles.items()
    }
    assert expected[first.model_version] != expected[second.model_version]
    seen: list[str] = []
    failures: list[str] = []
    done = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=server.address, timeout=30) as client:
            while not done.is_set():
                response = client.post("/v1/recommend", json={"history": HISTORY, "k": 20})
                answer = response.json()
                version = answer.get("model_version", "")
                right = [item["id"] for item in answer.get("items", ())] == expected.get(version)
                if not right or response.headers["x-model-version"] != version:
                    failures.append(response.text)
                seen.append(version)

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for recommender in (second, first, second):
            put(recommender.bundle, place)
            until(lambda version=recommender.model_version: server.version() == version)  # type: ignore[misc]
    finally:
        done.set()
        for client in clients:
            client.join()
    assert 'recsys_changes_total{what="model"} 3.0' in server.metrics()
    assert failures == []
    assert set(seen) == set(bundles)


def test_a_broken_version_is_refused_and_the_old_one_goes_on(
    live: tuple[Server, Path], bundles: dict[str, Recommender]
) -> None:
    server, place = live
    good = next(iter(bundles.values()))
    put(good.bundle, place)
    until(lambda: server.version() == good.model_version)
    right = server.ask(history=HISTORY).json()
    forest = next(place.glob("index/*.ann"))
    with forest.open("r+b") as stream:  # in place, under the feet of whoever maps it
        stream.truncate(forest.stat().st_size // 2)
    until(server.problems)
    assert "was changed or damaged since it was built" in server.problems()["model"]
    assert str(forest) in server.problems()["model"]
    assert 'recsys_problem{what="model"} 1.0' in server.metrics()
    assert 'recsys_refusals_total{what="model"} 1.0' in server.metrics()
    assert server.ask(history=HISTORY).json() == right
    shutil.rmtree(place)
    until(lambda: "manifest" in server.problems().get("model", ""))
    assert server.ask(history=HISTORY).json() == right
    put(good.bundle, place)
    items = place / "items.parquet"
    table = pq.read_table(items)
    pq.write_table(table.set_column(1, "id", pa.array([f"x{row}" for row in range(len(table))])), items)
    until(lambda: "items.parquet has SHA-256" in server.problems().get("model", ""))
    assert server.ask(history=HISTORY).json() == right
    put(good.bundle, place)
    until(lambda: not server.problems())
    events = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert next(each["what"] for each in events if each.get("event") == "refused") == "model"


def test_an_alias_is_followed_and_a_vanished_registry_changes_nothing(
    tmp_path: Path, tracking_uri: str
) -> None:
    versions = []
    for name in ("markov", "popularity"):
        folder = tiny_bundle(tmp_path / name, name)
        versions.append(Bundle.load(folder).model_version)
        logged(tracking_uri, folder)
        promote(str(folder), model_name=NAME, tracking_uri=tracking_uri)
    asked = [tracking_uri]
    model = Model(lambda: resolve_bundle(f"models:/{NAME}@champion", asked[0]))
    assert model.value.model_version == versions[1] and not model.refresh()
    rollback(NAME, tracking_uri)
    assert model.refresh() and model.value.model_version == versions[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        asked[0] = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert not model.refresh() and "no tracking server answers at" in (model.problem or "")
    assert model.value.recommend(["item-1"]).model_version == versions[0]
    asked[0] = tracking_uri
    model.refresh()
    assert model.problem is None


@dataclass
class Guarded:
    """A server that asks for keys, with tables beside its model, and those files."""

    server: Server
    key: str
    line: str
    keys: Path
    stock: Path
    top: list[object]

    def write_stock(self, *rows: tuple[object, ...]) -> None:
        draft = self.stock.with_name("draft.csv")
        with draft.open("w", newline="") as stream:
            csv.writer(stream).writerows([("item", "available", "region"), *rows])
        draft.rename(self.stock)

    def answered(self, **body: object) -> list[object]:
        response = self.server.ask(k=2, **body)
        assert response.status_code == 200, response.text
        return [item["id"] for item in response.json()["items"]]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, Recommender]) -> Iterator[Guarded]:
    folder, good = tmp_path_factory.mktemp("guarded"), next(iter(bundles.values()))
    key, line = new_key("shop")
    keys, stock, stored = folder / "keys", folder / "stock.csv", folder / "stored.parquet"
    keys.write_text(f"# who may ask\n{line}\n")
    stock.write_text("item\n")
    pq.write_table(pa.table({"sequence": ["u1", "u2"], "items": [HISTORY, []]}), stored)
    options = ["--api-keys", str(keys), "--availability", str(stock), "--histories", str(stored)]
    options += ["--deadline-ms", "3000", "--queue", "8"]
    top = [item.id for item in good.recommend(HISTORY, 3).items]
    with serving(
        folder, str(good.bundle.folder), *options, "--deadline-ms", "3000", "--queue", "8"
    ) as server:
        refused = server.ask(history=HISTORY)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert server.client.get("/metrics").status_code == 401 and not server.problems()
        server.client.headers["authorization"] = f"Bearer {key}"
        yield Guarded(server, key, line, keys, stock, list(top))


def test_tables_are_followed_and_bad_ones_refused(guarded: Guarded) -> None:
    server, top, answered = guarded.server, guarded.top, guarded.answered
    guarded.write_stock((top[0], False, ""), (top[1], True, "de"))
    until(lambda: answered(history=HISTORY) == top[1:3])
    assert answered(user="u1") == answered(history=HISTORY, region="de") == top[1:3]
    assert answered(history=HISTORY, region="fr")[0] == top[2]
    assert server.ask(user="u3").status_code == 404
    both = server.client.post("/v1/recommend/batch", json={"users": ["u2", "u1"], "k": 2}).json()
    assert [each["fallback"] for each in both["answers"]] == ["recent popularity", None]
    guarded.write_stock((top[2], False, ""))
    until(lambda: answered(history=HISTORY) == top[:2])
    guarded.stock.write_text("thing\n1\n")
    until(lambda: "availability" in server.problems())
    assert answered(history=HISTORY) == top[:2]


def test_new_keys_open_and_requests_are_logged_without_what_was_asked(guarded: Guarded) -> None:
    server, (other, second_line) = guarded.server, new_key("app")
    guarded.keys.write_text(f"{guarded.line}\n{second_line}\n")
    until(lambda: server.client.get("/v1/items", headers={"authorization": f"Bearer {other}"}).is_success)
    named = server.client.post(
        "/v1/recommend", json={"history": ["i7"]}, headers={"x-request-id": "abc-1", "origin": "http://x"}
    )
    assert named.headers["x-request-id"] == "abc-1"
    assert "access-control-allow-origin" not in named.headers and "server" not in named.headers
    assert server.ask(user="u1").is_success
    log = server.log.read_text()
    records = [json.loads(each) for each in log.splitlines()]
    (mine,) = [each for each in records if each.get("request_id") == "abc-1"]
    assert (mine["route"], mine["status"]) == ("/v1/recommend", 200) and mine["ms"] > 0
    assert guarded.key not in log and "i7" not in log and "u1" not in log


def test_a_slow_body_and_too_many_connections_are_refused(guarded: Guarded) -> None:
    place = guarded.server.place
    with socket.create_connection(place, timeout=30) as slow:
        slow.sendall(
            f"POST /v1/recommend HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {guarded.key}\r\n"
            "content-type: application/json\r\ncontent-length: 100\r\n\r\n{".encode()
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    with ExitStack() as idle:
        for _ in range(8 + SPARE_CONNECTIONS):
            idle.enter_context(socket.create_connection(place, timeout=30))
        until(lambda: guarded.server.client.get("/healthz").status_code == 503)
    until(lambda: guarded.server.client.get("/healthz").is_success)


def test_sigterm_finishes_what_is_under_way(guarded: Guarded) -> None:
    server = guarded.server
    body = json.dumps({"histories": [HISTORY] * 256, "k": 100}).encode()
    head = (
        b"POST /v1/recommend/batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n" % (guarded.key.encode(), len(body))
    )
    with socket.create_connection(server.place, timeout=30) as connection:
        connection.sendall(head + body[:100])
        until(lambda: server.ask(history=[]).is_success)  # whoever came before is under way by now
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        connection.sendall(body[100:])
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 200"), received[:200]
    assert len(json.loads(received.partition(b"\r\n\r\n")[2])["answers"]) == 256
    assert server.process.wait(timeout=60) == 0
