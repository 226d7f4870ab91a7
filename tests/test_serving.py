from __future__ import annotations

import logging
import socket
from http import HTTPStatus
from pathlib import Path

import anyio
import httpx
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI

from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.index import build_index
from recsys.recommender import Recommender
from serving.app import create_app
from serving.export import Wanted, export
from serving.middleware import LARGEST_BODY
from serving.server import serve
from tests.worlds import encoder_bundle, prepared, ring

N_ITEMS = 300


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepared(tmp_path_factory.mktemp("serving") / "data", ring(N_ITEMS, 40), N_ITEMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Path:
    bundle = encoder_bundle(tmp_path_factory.mktemp("serving") / "bundle", data)
    build_index(bundle, data.sequences)
    return bundle.folder


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender.load(folder, backend="annoy")


@pytest.fixture
def app(recommender: Recommender) -> FastAPI:
    return create_app(recommender)


def call(
    app: FastAPI, method: str, path: str, body: object = None, *, raw: bytes | None = None, kind: bytes = b""
) -> httpx.Response:
    """Ask with a body as JSON, or with raw bytes that say they are of a kind."""
    headers = {b"content-type": kind} if kind else None

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=body, content=raw, headers=headers)

    return anyio.run(once)


def test_recommend(app: FastAPI, recommender: Recommender) -> None:
    body = {"history": ["i5", "nope", "i6"], "k": 4, "deny": ["i9"], "where": {"year": [1991, 1992]}}
    answer = call(app, "POST", "/v1/recommend", body)
    assert answer.status_code == 200
    expected = recommender.recommend(["i5", "i6"], k=4, deny=["i9"], where={"year": [1991, 1992]})
    assert answer.json() == {
        "items": [{"id": item.id, "score": item.score, "title": item.title} for item in expected.items],
        "unknown": ["nope"],
        "fallback": None,
        "fewer_because": None,
        "model_version": recommender.model_version,
    }
    assert answer.headers["x-model-version"] == recommender.model_version
    empty = call(app, "POST", "/v1/recommend", {"history": []}).json()
    assert empty["fallback"] == "recent popularity" and len(empty["items"]) == 10
    only = call(app, "POST", "/v1/recommend", {"history": ["i1"], "allow": ["i1"], "exclude_seen": False})
    assert [item["id"] for item in only.json()["items"]] == ["i1"]


def test_similar_and_items(app: FastAPI, recommender: Recommender) -> None:
    similar = call(app, "POST", "/v1/similar", {"item": "i5", "k": 3}).json()
    assert [item["id"] for item in similar["items"]] == [item.id for item in recommender.similar("i5", 3)]
    items = call(app, "GET", "/v1/items?query=song%2012&limit=3").json()
    assert items["items"][0] == {"id": "i12", "title": "Song 12", "count": items["items"][0]["count"]}
    assert len(items["items"]) == 3
    assert similar["model_version"] == items["model_version"] == recommender.model_version


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/v1/similar", {"item": "nope"}, 404, "item 'nope' is unknown to model"),
        ("GET", "/v2", None, 404, "Not Found"),
        ("GET", "/v1/recommend", None, 405, "Method Not Allowed"),
        ("POST", "/v1/recommend", {"history": [], "where": {"x": [1]}}, 400, "attribute `x`"),
        ("POST", "/v1/recommend", {"history": [], "k": 0}, 422, "#/k: Input should be"),
        ("POST", "/v1/recommend", {"history": [], "k": 1001}, 422, "#/k: Input should"),
        ("POST", "/v1/recommend", {"history": [], "k": True}, 422, "#/k: Input should"),
        ("POST", "/v1/recommend", {"history": [], "k": "3"}, 422, "#/k: Input should"),
        ("POST", "/v1/similar", {"item": "i5", "k": True}, 422, "#/k: Input should"),
        ("POST", "/v1/recommend", {"history": [], "min_score": True}, 422, "#/min_score: Input should"),
        ("POST", "/v1/recommend", {"history": [], "min_score": "0.5"}, 422, "#/min_score: Input should"),
        ("POST", "/v1/recommend", {"history": [], "min_score": 10**400}, 422, "expected a finite number"),
        ("POST", "/v1/recommend", {"history": ["i1"] * 10_001}, 422, "at most 10000 items"),
        ("POST", "/v1/recommend", {"history": [True]}, 422, "#/history/0"),
        ("POST", "/v1/recommend", {}, 400, "has neither of `history` and `user`; send one of them"),
        ("POST", "/v1/recommend", {"history": [], "user": 1}, 400, "has both of `history` and `user`"),
        ("POST", "/v1/recommend", {"user": "u1"}, 400, "no histories are stored here"),
        ("POST", "/v1/recommend/batch", {"histories": [[]] * 257}, 422, "at most 256 items"),
        ("POST", "/v1/recommend/batch", {"histories": []}, 422, "at least 1 item"),
        ("POST", "/v1/recommend", {"history": [], "max_per": {"year": 0}}, 422, "#/max_per/year: Input"),
        ("POST", "/v1/recommend", {"history": [], "where": {"year": {">": 1}}}, 422, "Extra inputs"),
        ("POST", "/v1/recommend", {"history": [], "where": {"year": {">=": "x"}}}, 400, "not to be compared"),
        ("POST", "/v1/similar", {"item": "i5", "max_per": {"x": 1}}, 400, "no attribute `x`"),
        ("POST", "/v1/recommend", {"histroy": []}, 422, "#/histroy: Extra inputs"),
        ("POST", "/v1/recommend", None, 422, "#: Field required"),
        ("GET", "/v1/items?limit=0", None, 422, "limit: "),
    ],
)
def test_errors_have_one_shape(
    app: FastAPI, method: str, path: str, body: object, status: int, message: str
) -> None:
    answer = call(app, method, path, body)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["type"]) == (status, status, "about:blank")
    assert problem["title"] == HTTPStatus(status).phrase
    assert message in problem["detail"]
    assert answer.headers["x-model-version"] and len(answer.headers["x-request-id"]) == 32


def test_an_invalid_request_is_told_every_place(app: FastAPI) -> None:
    problem = call(app, "POST", "/v1/recommend", {"history": [True], "where": {"a/b~": 1}, "k": 0}).json()
    pointers = {each["pointer"] for each in problem["errors"]}
    assert pointers == {"#/k", "#/history/0", "#/where/a~1b~0"}
    assert call(app, "GET", "/v1/items?limit=0").json()["errors"][0]["parameter"] == "limit"


JSON = b"application/json"
HISTORY = b'{"history": ["i1"], '


@pytest.mark.parametrize(
    ("kind", "raw", "status", "message"),
    [
        (JSON, HISTORY + b'"where": {"year": [%d]}}' % 2**70, 400, "attribute `year` is of type int64"),
        (JSON, HISTORY + b'"where": {"year": [NaN]}}', 400, "attribute `year` is of type int64"),
        (JSON, HISTORY + b'"where": {"year": [-Infinity]}}', 400, "attribute `year` is of type int64"),
        (JSON, b'{"history": ["\\ud800"]}', 422, "#/history/0: Value error, half a surrogate pair"),
        (JSON, HISTORY + b'"deny": ["\\ud800"]}', 422, "#/deny/0: Value error, half a surrogate pair"),
        (JSON, HISTORY + b'"where": {"title": ["\\ud800"]}}', 422, "#/where/title/0: Value error, half"),
        (JSON, HISTORY + b'"where": {"\\ud800": ["a"]}}', 422, "half a surrogate pair"),
        (JSON, HISTORY + b'"\\ud800": 1}', 422, "#: "),
        (JSON, b'{"history": [NaN]}', 422, "#/history/0"),
        (JSON, HISTORY + b'"k": Infinity}', 422, "#/k"),
        (JSON, b'{"history": [1%s]}' % (b"0" * 5000), 400, "parsing the body"),
        (JSON, b"[" * 100_000 + b"]" * 100_000, 400, "parsing the body"),
        (JSON, b'{"history": ["\xff"]}', 400, "parsing the body"),
        (JSON, b'{"history"', 422, "JSON decode error"),
        (JSON, b"", 422, "#: Field required"),
        (JSON, b"null", 422, "#: "),
        (b"text/plain", b"i1", 422, "#: "),
        (b"application/json; charset=\xff", b"\xff", 400, "parsing the body"),
        (
            JSON,
            HISTORY + b'"x": "' + b"a" * LARGEST_BODY + b'"}',
            413,
            "the body is larger than 2097152 bytes",
        ),
    ],
)
def test_whatever_a_client_sends_is_not_our_failure(
    app: FastAPI, kind: bytes, raw: bytes, status: int, message: str
) -> None:
    answer = call(app, "POST", "/v1/recommend", raw=raw, kind=kind)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert message in answer.json()["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_longest_lists_fit_into_a_body(app: FastAPI) -> None:
    ids = [f"{number:060d}" for number in range(10_000)]
    answer = call(app, "POST", "/v1/recommend", {"history": ids, "allow": ids, "deny": ids})
    assert answer.status_code == 200 and len(answer.json()["unknown"]) == len(ids)


def test_a_batch_names_unknown_ids_of_its_filters_once(app: FastAPI) -> None:
    single = call(app, "POST", "/v1/recommend", {"history": ["nope"], "allow": ["i1", "gone"]}).json()
    assert single["unknown"] == ["nope", "gone"]
    assert call(app, "POST", "/v1/similar", {"item": "i1", "deny": ["gone"]}).json()["unknown"] == ["gone"]
    deny = [f"{number:060d}" for number in range(500)]
    body = {"histories": [["nope"], *[[]] * 19], "k": 1, "deny": deny}
    answer = call(app, "POST", "/v1/recommend/batch", body)
    assert answer.json()["unknown"] == deny
    assert [each["unknown"] for each in answer.json()["answers"][:2]] == [["nope"], []]
    assert len(answer.content) < 60_000, "not 20 times 500 ids"


def test_both_halves_of_a_surrogate_pair_are_text(app: FastAPI) -> None:
    raw = b'{"history": ["\\ud83c\\udfb5"]}'
    assert call(app, "POST", "/v1/recommend", raw=raw, kind=JSON).json()["unknown"] == ["\N{MUSICAL NOTE}"]


def test_a_failure_of_ours_is_an_answer_too(
    app: FastAPI,
    recommender: Recommender,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("i1")

    monkeypatch.setattr(recommender, "answer", fail)
    caplog.set_level(logging.INFO)
    answer = call(app, "POST", "/v1/recommend", {"history": ["i1"]})
    assert answer.status_code == 500
    assert answer.json()["title"] == "Internal Server Error"
    assert answer.json()["detail"] == "the server failed; its log says more under this request id"
    assert f"request {answer.headers['x-request-id']} failed: KeyError" in caplog.text
    assert "in fail" in caplog.text and "'i1'" not in caplog.text, "where it failed, not what was asked"
    assert call(app, "GET", "/readyz").status_code == 500, "a model that cannot answer is not ready"
    assert call(app, "GET", "/healthz").status_code == 200
    assert 'route="/v1/recommend",status="500"} 1.0' in call(app, "GET", "/metrics").text


def test_operations(app: FastAPI, recommender: Recommender) -> None:
    version = recommender.model_version
    assert call(app, "GET", "/healthz").json() == {"status": "ok", "model_version": version}
    assert call(app, "GET", "/readyz").json() == {
        "status": "ready",
        "model_version": version,
        "problems": {},
    }
    call(app, "POST", "/v1/recommend", {"history": ["i1"]})
    for path in ("/a", "/b", "/v1/items"):
        call(app, "GET", path)
    text = call(app, "GET", "/metrics").text
    assert 'recsys_requests_total{route="unmatched",status="404"} 2.0' in text
    assert 'recsys_requests_total{route="/v1/items",status="200"} 1.0' in text
    assert 'recsys_request_seconds_count{route="/v1/items"} 1.0' in text
    assert f"recsys_items {float(N_ITEMS)}" in text
    assert "/v1/items" not in call(create_app(recommender), "GET", "/metrics").text, "apps share nothing"
    document = call(app, "GET", "/openapi.json").json()
    paths = {
        "/v1/recommend",
        "/v1/recommend/batch",
        "/v1/score",
        "/v1/similar",
        "/v1/playlists/similar",
        "/v1/playlists/continue",
        "/v1/playlists/tracks",
        "/v1/playlists/map",
        "/v1/items",
        "/v1/model",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert set(document["paths"]) == paths
    assert document["components"]["schemas"]["RecommendRequest"]["examples"][0]["history"]
    responses = document["paths"]["/v1/recommend"]["post"]["responses"]
    assert responses["422"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    for stage in ("queue", "filter", "encode", "search"):
        assert f'recsys_stage_seconds_count{{stage="{stage}"}}' in text
    assert f'recsys_model{{version="{version}"}} 1.0' in text and 'recsys_problem{what="model"} 0.0' in text


def test_a_port_in_use_is_an_input_error(recommender: Recommender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1:{port} .* give another --port"):
            serve(recommender, port=port)


def test_the_endpoint_answers_what_export_writes(
    tmp_path: Path, app: FastAPI, recommender: Recommender, data: PreparedData
) -> None:
    export(recommender, data, tmp_path / "recs.parquet", Wanted(k=20))
    lines = pq.read_table(tmp_path / "recs.parquet").to_pylist()
    histories = [data.vocabulary.decode(data.sequences[row]) for row in range(len(data.sequences))]
    body = {"histories": histories, "k": 20}
    answers = call(app, "POST", "/v1/recommend/batch", body).json()["answers"]
    for answer, line in zip(answers, lines, strict=True):
        assert [item["id"] for item in answer["items"]] == line["items"]
        assert [item["score"] for item in answer["items"]] == pytest.approx(line["scores"], abs=1e-5)
        assert answer["model_version"] == line["model_version"]
