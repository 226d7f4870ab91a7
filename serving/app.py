"""The endpoint: a FastAPI application around one recommender, without globals and import-time work."""

from __future__ import annotations

import logging
from dataclasses import asdict
from http import HTTPStatus
from time import perf_counter
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.errors import InputError
from recsys.recommender import Recommender
from serving import schemas

VERSION_HEADER = "X-Model-Version"
LARGEST_BODY = 2 * 2**20  # bytes; the longest lists of ids, each of 60 characters, still fit

_LOG = logging.getLogger(__name__)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse} for status in (400, 404, 413, 422)
}


def create_app(recommender: Recommender) -> FastAPI:
    """The endpoint of one model.

    Endpoints are plain functions, which FastAPI runs in its thread pool; the recommender is safe for that.
    Every answer names the model version in the header X-Model-Version, and in the body where it is one of
    ours. Every error is `{"error": {"code", "message"}}`.
    """
    app = FastAPI(
        title="recsys",
        summary="Next-item recommendations, similar items and a look into the catalogue.",
        version=recommender.model_version,
        responses=_ERRORS,
    )
    registry = CollectorRegistry()
    app.add_middleware(_Instrumented, registry=registry, version=recommender.model_version)
    app.add_exception_handler(StarletteHTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(InputError, _on_input_error)
    _add_recommendations(app, recommender)
    _add_operations(app, recommender, registry)
    return app


def _add_recommendations(app: FastAPI, recommender: Recommender) -> None:
    version = recommender.model_version

    @app.post("/v1/recommend")
    def recommend(request: schemas.RecommendRequest) -> schemas.RecommendResponse:
        """What comes next after a history of original ids."""
        answer = recommender.recommend(
            request.history,
            request.k,
            exclude_seen=request.exclude_seen,
            allow=request.allow,
            deny=request.deny,
            where=request.where,
        )
        return schemas.RecommendResponse.model_validate(asdict(answer))

    @app.post("/v1/similar")
    def similar(request: schemas.SimilarRequest) -> schemas.SimilarResponse:
        """Items like one item."""
        if not recommender.vocabulary.index(request.item):
            raise HTTPException(404, f"item {request.item!r} is unknown to model {version}; see /v1/items")
        found = recommender.similar(request.item, request.k)
        return schemas.SimilarResponse(
            items=[schemas.Item(**asdict(item)) for item in found], model_version=version
        )

    @app.get("/v1/items")
    def items(
        query: Annotated[str, Query(max_length=200, description="part of a title or id")] = "",
        limit: schemas.Answers = 20,
    ) -> schemas.ItemsResponse:
        """Items whose title or id contains the query; without one, the most frequent items."""
        found = recommender.search_items(query, limit)
        return schemas.ItemsResponse(
            items=[schemas.FoundItem(**asdict(item)) for item in found], model_version=version
        )


def _add_operations(app: FastAPI, recommender: Recommender, registry: CollectorRegistry) -> None:
    version = recommender.model_version
    first = recommender.vocabulary.decode([1])
    size = Gauge("recsys_items", "Items that can be recommended.", registry=registry)
    size.set(len(recommender.vocabulary))

    @app.get("/healthz")
    def healthz() -> schemas.Health:
        """The process lives."""
        return schemas.Health(status="ok", model_version=version)

    @app.get("/readyz")
    def readyz() -> schemas.Health:
        """The model answers: one recommendation is made to see it."""
        recommender.recommend(first, k=1)
        return schemas.Health(status="ready", model_version=version)

    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Counts and latencies for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Instrumented:
    """Counts and times requests, names the model version, gives failures of ours the shape of errors.

    It also stops reading a body that is too large.
    """

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry, version: str) -> None:
        self._app = app
        self._version = version.encode()
        self._requests = Counter(
            "recsys_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "recsys_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:
                raise HTTPException(413, f"the body is larger than {LARGEST_BODY} bytes; send fewer ids")
            return message

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = [
                    (VERSION_HEADER.lower().encode(), self._version),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *ours]}
            await send(message)

        start = perf_counter()
        try:
            await self._app(scope, limited, named)
        except Exception:
            if status:  # part of the answer is out: nothing can be said any more
                raise
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            await _error(500, "the server failed; its log says more")(scope, receive, named)
        finally:
            # The route's own pattern: a label for every path that somebody tries would never end.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._requests.labels(route, str(status)).inc()
            self._seconds.labels(route).observe(perf_counter() - start)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    detail = schemas.ErrorDetail(code=HTTPStatus(status).name.lower(), message=message)
    body = schemas.ErrorResponse(error=detail).model_dump()
    return JSONResponse(body, status_code=status, headers=headers)


def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return _error(error.status_code, str(error.detail), dict(error.headers or {}))


def _on_bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
    return _error(422, "; ".join(problems))


def _on_input_error(_: Request, error: Exception) -> JSONResponse:
    return _error(400, str(error))
