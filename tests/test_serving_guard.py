"""What keeps one client from being the trouble of others: queues, failures, deadlines, keys, origins."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from recsys.answers import Question
from recsys.errors import InputError
from recsys.recommender import Recommender
from serving import schemas
from serving.app import create_app
from serving.batching import Overloaded
from serving.security import new_key
from serving.service import WAITING_SCORES, Asked, Service, Settings
from serving.watched import Watched
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
