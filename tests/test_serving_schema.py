"""What the OpenAPI document promises holds for whatever a client makes of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.types import ASGIApp

from recsys.recommender import Recommender
from serving.app import create_app
from serving.service import Settings
from tests.playlist_world import playlist_folder
from tests.spoilt import GOOD, spoilt
from tests.worlds import counting_bundle, prepared, ring

EXAMPLES = 20


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    folder = tmp_path_factory.mktemp("schema")
    data = prepared(folder / "data", ring(50, 20), 50)
    playlists = playlist_folder(folder / "of playlists").folder
    recommender = Recommender.load(counting_bundle(folder / "bundle", data, name="markov").folder)
    return create_app(recommender, Settings(playlists=playlists))


@pytest.fixture(scope="module")
def api_schema(app: ASGIApp) -> BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


PATHS = {
    "/v1/recommend": "post",
    "/v1/recommend/batch": "post",
    "/v1/score": "post",
    "/v1/similar": "post",
    "/v1/playlists/similar": "post",
    "/v1/playlists/continue": "post",
    "/v1/playlists/tracks": "get",
    "/v1/playlists/map": "get",
    "/v1/items": "get",
    "/v1/model": "get",
    "/healthz": "get",
    "/readyz": "get",
    "/metrics": "get",
}


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_as_the_document_says(api_schema: BaseSchema, path: str) -> None:
    operation = api_schema[path][PATHS[path]]

    @given(operation.as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Case[Any]) -> None:
        # What is right by the document can still be wrong for a model: an attribute that it does not have.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()


def test_no_path_of_the_document_is_left_out(api_schema: BaseSchema) -> None:
    assert set(api_schema) == set(PATHS)


def test_malformed_bodies_are_the_client_s_mistake(app: ASGIApp) -> None:
    rng = random.Random(0)
    with TestClient(app) as client:
        for _ in range(200):
            answer = client.post(
                "/v1/recommend", content=spoilt(GOOD, rng), headers={"content-type": "application/json"}
            )
            assert answer.status_code in (200, 400, 422), answer.text
            if answer.status_code != 200:
                assert answer.headers["content-type"] == "application/problem+json"
