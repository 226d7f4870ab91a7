"""The endpoint: a FastAPI application around one service, without globals and import-time work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Annotated, TypeVar

from anyio import to_thread
from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter

from recsys.answers import Recommendations
from recsys.recommender import Recommender
from recsys.vocabulary import ItemId
from serving import schemas
from serving.card import ModelCard, model_card
from serving.middleware import REQUEST_ID_HEADER, VERSION_HEADER, Cors, Gate, Guard
from serving.page import add_page
from serving.playlists import add_playlists
from serving.problems import RESPONSES, handle_problems
from serving.replies import one_of, told
from serving.service import Reply, Service, Settings, Similar
from serving.watched import Watched

_ANSWER = TypeAdapter(Recommendations)
_ANSWERS = TypeAdapter(list[Recommendations])
_IDS = TypeAdapter(Sequence[ItemId])

_Found = TypeVar("_Found")


def create_app(model: Recommender | Watched[Recommender], settings: Settings | None = None) -> FastAPI:
    """The endpoint.

    Every answer names the version of the model that made it, in the header X-Model-Version, and in the body
    where it is one of ours. Every error is a problem of RFC 9457.

    Args:
        model: what answers; a `serving.model.Model` is watched for the next one while the application runs.
        settings: default: as they stand in `Settings`.

    Raises:
        InputError: a table of the settings cannot be read.
    """
    settings = settings or Settings()
    watched = _constant(model) if isinstance(model, Recommender) else model
    service = Service(watched, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="recsys",
        summary="Next-item recommendations, similar items, playlists, and a look into the catalogue.",
        version="1",
        responses=RESPONSES,
        lifespan=lifespan,
    )
    _add_middleware(app, service, settings)
    handle_problems(app)
    _add_recommendations(app, service)
    add_playlists(app, service.playlists)
    _add_looks(app, service)
    _add_operations(app, service)
    add_page(app)
    return app


def _add_middleware(app: FastAPI, service: Service, settings: Settings) -> None:
    """The guard around CORS around the gate: what is added last stands outside."""
    keys = service.keys
    app.add_middleware(Gate, keys=lambda: keys.value if keys else None, deadline=settings.deadline)
    if settings.origins:
        app.add_middleware(
            Cors,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID_HEADER],
            expose_headers=[VERSION_HEADER, REQUEST_ID_HEADER],
        )
    app.add_middleware(Guard, metrics=service.metrics, version=lambda: service.version)


def _add_recommendations(app: FastAPI, service: Service) -> None:
    @app.post("/v1/recommend", response_model=schemas.RecommendResponse)
    async def recommend(asked: schemas.RecommendRequest, request: Request) -> Response:
        """What comes next after a history of original ids, or after the stored history of a user."""
        one_of("history", asked.history, "user", asked.user)
        if asked.user is not None:
            reply = await service.ask(service.histories_of([asked.user]), asked)
        else:
            reply = await service.ask([schemas.items_of(asked.history or [])], asked)
        return _single(request, reply)

    @app.post("/v1/recommend/batch", response_model=schemas.BatchResponse)
    async def recommend_batch(asked: schemas.BatchRequest, request: Request) -> Response:
        """The same for up to 256 histories, all answered by one model."""
        one_of("histories", asked.histories, "users", asked.users)
        histories = service.histories_of(asked.users) if asked.users is not None else asked.histories
        reply = await service.ask(histories or [], asked)
        version = reply.answers[0].model_version
        body = b'{"answers":%s,"unknown":%s,"model_version":"%s"}'
        parts = _ANSWERS.dump_json(reply.answers), _IDS.dump_json(reply.unknown), version.encode()
        return told(request, version, body % parts)

    @app.post("/v1/similar", response_model=schemas.RecommendResponse)
    async def similar(asked: schemas.SimilarRequest, request: Request) -> Response:
        """Items like one item."""
        return _single(request, await service.ask([Similar(asked.item)], asked))


def _single(request: Request, reply: Reply) -> Response:
    answer = reply.single
    return told(request, answer.model_version, _ANSWER.dump_json(answer))


def _add_looks(app: FastAPI, service: Service) -> None:
    @app.post("/v1/score")
    async def score(asked: schemas.ScoreRequest, request: Request) -> schemas.ScoreResponse:
        """What the model makes of single items after a history, also of items that it never met."""
        answer = await service.score(asked)
        request.state.model_version = answer.model_version
        return answer

    @app.get("/v1/items")
    async def items(
        request: Request,
        query: Annotated[str, Query(max_length=200, description="part of a title or id")] = "",
        limit: schemas.Answers = 20,
    ) -> schemas.ItemsResponse:
        """Items whose title or id contains the query; without one, the most frequent items."""
        recommender = service.model.value
        found = await _in_thread(partial(recommender.search_items, query, limit))
        request.state.model_version = recommender.model_version
        return schemas.ItemsResponse(
            items=[schemas.FoundItem(**asdict(item)) for item in found],
            model_version=recommender.model_version,
        )

    @app.get("/v1/model")
    async def model(request: Request) -> ModelCard:
        """What the model was trained on, its figures, and what its items can be filtered by."""
        recommender = service.model.value
        request.state.model_version = recommender.model_version
        regions = service.availability is not None and service.availability.value.has_regions
        return await _in_thread(
            partial(model_card, recommender, regions=regions, playlists=service.playlists.card)
        )


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> schemas.Health:
        """The process lives."""
        return schemas.Health(status="ok", model_version=service.version)

    @app.get("/readyz")
    async def readyz(request: Request) -> schemas.Readiness:
        """The model answers: every few seconds one recommendation is made to see it.

        Problems may name folders and hosts: where keys are asked for, whoever has none learns which there
        are and not what they say.
        """
        version = await service.ready()
        request.state.model_version = version
        problems = service.problems
        if not request.state.trusted:
            problems = dict.fromkeys(problems, "ask with a key, or see the log")
        return schemas.Readiness(status="ready", model_version=version, problems=problems)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and latencies for Prometheus."""
        service.metrics.items.set(len(service.model.value.vocabulary))
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _in_thread(find: Callable[[], _Found]) -> _Found:
    # At the deadline the request is answered at once; the thread ends by itself.
    return await to_thread.run_sync(find, abandon_on_cancel=True)


def _constant(recommender: Recommender) -> Watched[Recommender]:
    return Watched("model", tuple, lambda: recommender)
