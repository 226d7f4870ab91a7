"""What keeps one client from being the trouble of others: queues, failures, deadlines, keys, origins."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from recsys.answers import Question
from recsys.errors import InputError
from recsys.recommender import Recommender
from serving import schemas
from serving.app import create_app
from serving.batching import Overloaded
from serving.connections import connections
from serving.security import new_key
from serving.service import READY_FOR, WAITING_SCORES, Asked, Service, Settings
from serving.watched import Watched
from tests.serving_world import until
from tests.worlds import encoder_bundle, prepared, ring


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("guard")
    data = prepared(folder / "data", ring(50, 20), 50)
    return Recommender.load(encoder_bundle(folder / "bundle", data).folder)


def test_scoring_has_a_small_queue_of_its_own(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, real = threading.Event(), recommender.score

    def slow(*asked: Any) -> list[float | None]:  # noqa: ANN401
        assert go.wait(60)
        return real(*asked)

    monkeypatch.setattr(recommender, "score", slow)
    service = Service(Watched("model", tuple, lambda: recommender), Settings(threads=1))
    asked = schemas.ScoreRequest(history=["i1"], items=["i2"])

    async def run() -> None:
        under_way = [asyncio.ensure_future(service.score(asked)) for _ in range(WAITING_SCORES + 1)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=f"{WAITING_SCORES} questions are waiting already"):
            await service.score(asked)
        reply = await service.ask([["i1"]], schemas.Filtered())
        assert len(reply.single.items) == 10, "others need not wait for scores"
        go.set()
        answers = await asyncio.gather(*under_way)
        assert {each.model_version for each in answers} == {recommender.model_version}

    asyncio.run(run())
    service.stop()
    assert b'recsys_stage_seconds_count{stage="score"} 33.0' in service.metrics.text()


def test_a_question_that_fails_fails_alone(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    real = recommender.answer

    def spoilt(questions: Sequence[Question], *more: Any) -> list[Any]:  # noqa: ANN401
        if any("i13" in each.history for each in questions):
            raise KeyError("i13")
        if any("i14" in each.history for each in questions):
            raise InputError("not this one")
        return real(questions, *more)

    monkeypatch.setattr(recommender, "answer", spoilt)
    service = Service(Watched("model", tuple, lambda: recommender), Settings())
    asked = [["i1"], ["i13"], ["i2"], ["i14"], ["i3"], ["i4"]]
    alone = [schemas.Filtered() for _ in range(5)]
    batch = [Asked(each, alone[min(place, 4)]) for place, each in enumerate(asked)]
    answers = [each.answer for each in service._answer(batch)]
    service.stop()
    assert isinstance(answers[1], KeyError) and isinstance(answers[3], InputError)
    expected = [recommender.recommend([item]) for item in ("i1", "i2", "i3", "i4")]
    assert [answers[place] for place in (0, 2, 4, 5)] == expected


def test_a_slow_get_is_our_fault(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(recommender, "search_items", lambda *_: go.wait(5) and [])
    try:
        with TestClient(create_app(recommender, Settings(deadline=0.05))) as client:
            slow = client.get("/v1/items")
    finally:
        go.set()
    assert (slow.status_code, slow.json()["detail"]) == (
        504,
        "the answer took longer than 0.05 s; ask again, or for less",
    )


def test_readiness_asks_the_model_once_in_a_while(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked, now = recommender.answer, 0, 1000.0

    def counted(*each: Any) -> list[Any]:  # noqa: ANN401
        nonlocal asked
        asked += 1
        return real(*each)

    monkeypatch.setattr(recommender, "answer", counted)
    monkeypatch.setattr("serving.service.time.monotonic", lambda: now)
    with TestClient(create_app(recommender, Settings(watch=3600))) as client:
        assert [client.get("/readyz").status_code for _ in range(5)] == [200] * 5 and asked == 1
        now += READY_FOR + 1
        assert client.get("/readyz").status_code == 200 and asked == 2
        now += READY_FOR + 1
        monkeypatch.setattr(recommender, "answer", lambda *_: 1 / 0)
        assert [client.get("/readyz").status_code for _ in range(2)] == [500] * 2
        monkeypatch.setattr(recommender, "answer", real)
        assert client.get("/readyz").status_code == 200


def test_headers_must_come_in_time(recommender: Recommender) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(recommender), log_level="warning", http=connections(0.3))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        head = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        with socket.create_connection(listener.getsockname(), timeout=30) as half:
            half.sendall(head)
            assert half.recv(100) == b"", "closed without a word"
        with socket.create_connection(listener.getsockname(), timeout=30) as silent:
            assert silent.recv(100) == b""
        with socket.create_connection(listener.getsockname(), timeout=30) as slow:
            body = b'{"history": ["i1"], "k": 1}'
            slow.sendall(head + b"content-length: %d\r\n\r\n" % len(body))
            time.sleep(0.6)  # a body has until the deadline
            slow.sendall(body)
            received = slow.recv(65536)
            assert received.startswith(b"HTTP/1.1 200")
            slow.sendall(b"\r\n")  # no silence any more, and no request
            while part := slow.recv(65536):
                received += part
            assert received.count(b"HTTP/1.1") == 1
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def test_who_has_gone_is_not_answered(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun, real = threading.Event(), threading.Event(), recommender.answer
    histories: list[object] = []

    def slow(questions: Sequence[Question], *more: Any) -> list[Any]:  # noqa: ANN401
        histories.extend(each.history for each in questions)
        begun.set()
        assert go.wait(60)
        return real(questions, *more)

    monkeypatch.setattr(recommender, "answer", slow)
    service = Service(Watched("model", tuple, lambda: recommender), Settings(threads=1))

    async def run() -> None:
        first = asyncio.ensure_future(service.ask([["i1"]], schemas.Filtered()))
        await asyncio.to_thread(begun.wait, 60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):  # as the gate has it
                await service.ask([["i2"]], schemas.Filtered())
        third = asyncio.ensure_future(service.ask([["i3"]], schemas.Filtered()))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, third)

    asyncio.run(run())
    service.stop()
    assert histories == [["i1"], ["i3"]]


def test_cors_refusals_are_problems_and_refusals_of_the_gate_are_readable(
    recommender: Recommender, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(new_key("shop")[1])
    app = create_app(recommender, Settings(origins=("https://shop.example",), keys=tmp_path / "keys"))
    asked = {"access-control-request-method": "POST"}
    with TestClient(app) as client:
        mine, other = (
            client.options("/v1/recommend", headers={"origin": f"https://{name}.example", **asked})
            for name in ("shop", "evil")
        )
        refused = client.post("/v1/recommend", json={}, headers={"origin": "https://shop.example"})
    assert mine.status_code == 200, "a browser sends no key with that question"
    assert (other.status_code, other.headers["content-type"]) == (400, "application/problem+json")
    assert "a page of 'https://evil.example' may not ask so" in other.json()["detail"]
    for each in (mine, other):
        assert each.headers["x-request-id"] and each.headers["x-content-type-options"] == "nosniff"
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"


def test_strangers_learn_what_is_refused_and_not_where(recommender: Recommender, tmp_path: Path) -> None:
    key, line = new_key("shop")
    (tmp_path / "keys").write_text(line)
    model = Watched("model", tuple, lambda: recommender)
    model.problem = "/srv/secret is damaged"
    with TestClient(create_app(model, Settings(keys=tmp_path / "keys", watch=3600))) as client:
        stranger = client.get("/readyz")
        known = client.get("/readyz", headers={"authorization": f"Bearer {key}"})
    assert stranger.json()["problems"] == {"model": "ask with a key, or see the log"}
    assert known.json()["problems"] == {"model": "/srv/secret is damaged"}
    with TestClient(create_app(model, Settings(watch=3600))) as client:
        assert client.get("/readyz").json()["problems"] == {"model": "/srv/secret is damaged"}
