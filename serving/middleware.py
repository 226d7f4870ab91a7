"""What happens to every request before and after its endpoint.

It gets an id, must name a key where keys are asked for, must not be too large or take too long; it is
counted, timed, traced and logged, without what was asked. A failure of ours becomes an answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from traceback import format_tb

from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import page
from serving.metrics import Metrics
from serving.problems import problem
from serving.security import ApiKeys
from serving.tracing import spans

VERSION_HEADER = "X-Model-Version"
REQUEST_ID_HEADER = "X-Request-Id"
LARGEST_BODY = 2 * 2**20  # bytes; the longest lists of ids, each of 60 characters, still fit
OPEN = page.PATHS | {"/healthz", "/readyz"}
"""What browsers and probes ask without a key."""

_OWN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_POLICY = "default-src 'none'; frame-ancestors 'none'"
# The documentation pages of FastAPI load their scripts from there.
_DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'self' "
    "'unsafe-inline' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; "
    "worker-src blob:; frame-ancestors 'none'"
)
_POLICIES = dict.fromkeys(page.PATHS, page.POLICY) | dict.fromkeys(
    ("/docs", "/docs/oauth2-redirect", "/redoc"), _DOCS_POLICY
)
_SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_LOG = logging.getLogger("recsys.serving")


@dataclass
class _Request:
    """What becomes known of one request."""

    id: str
    start: float
    status: int = 0
    size: int = 0
    complete: bool = False


class Guard:
    """The outer middleware: what every answer has, whoever made it, and what is told of it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, version: Callable[[], str]) -> None:
        """Wrap an application.

        Args:
            app: what answers, with a `Gate` in it.
            metrics: where requests are counted.
            version: the model in force, for answers that name no other.
        """
        self._app = app
        self._metrics = metrics
        self._version = version
        self._span = spans()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        own = headers.get(REQUEST_ID_HEADER.lower(), "")
        request = _Request(
            own if _OWN_ID.fullmatch(own) else f"{random.getrandbits(128):032x}", perf_counter()
        )
        if not {"content-length", "transfer-encoding"} & headers.keys():
            request.complete = True  # there is no body to wait for
        state = scope.setdefault("state", {})
        state["guarded"] = request

        async def limited() -> Message:
            message = await receive()
            request.size += len(message.get("body", b""))
            request.complete = not message.get("more_body", False)
            if request.size > LARGEST_BODY:
                raise HTTPException(413, f"the body is larger than {LARGEST_BODY} bytes; send fewer ids")
            return message

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                ours = {
                    VERSION_HEADER.lower(): state.get("model_version") or self._version(),
                    REQUEST_ID_HEADER.lower(): request.id,
                    "content-security-policy": _POLICIES.get(scope["path"], _POLICY),
                    **_SECURITY,
                }
                more = [(name.encode(), value.encode()) for name, value in ours.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        with self._span(f"{scope['method']} {scope['path']}"[:200], headers) as note:
            try:
                await self._app(scope, limited, named)
            finally:
                self._tell(scope, request, state.get("model_version") or self._version())
                note("http.response.status_code", request.status)
                note("recsys.request_id", request.id)

    def _tell(self, scope: Scope, request: _Request, version: str) -> None:
        # The route's own pattern: a label for every path that somebody tries would never end.
        route = getattr(scope.get("route"), "path", "unmatched")
        seconds = perf_counter() - request.start
        self._metrics.requests.labels(route, str(request.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if _LOG.isEnabledFor(logging.INFO):
            extra = {
                "event": "request",
                "request_id": request.id,
                "method": scope["method"],
                "route": route,
                "status": request.status,
                "ms": round(seconds * 1e3, 3),
                "bytes": request.size,
                "model_version": version,
            }
            _LOG.info("%s %s %s", scope["method"], route, request.status, extra=extra)


class Cors(CORSMiddleware):
    """Stands between the two others: what the gate refuses is readable too for the pages that may ask."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks whether it may ask; a refusal is a problem like any other."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        origin = request_headers["origin"]
        detail = (
            f"a page of {origin[:200]!r} may not ask so ({bytes(answer.body).decode()}); "
            "`recsys serve --cors-origin` names the pages that may"
        )
        return problem(answer.status_code, detail, {"vary": "Origin"})


class Gate:
    """The inner middleware: who may ask, and for how long."""

    def __init__(self, app: ASGIApp, *, keys: Callable[[], ApiKeys | None], deadline: float) -> None:
        """Wrap an application.

        Args:
            app: what answers.
            keys: whose keys open the endpoint; None: it is open.
            deadline: seconds from the end of a request's headers to its answer; a thread that computes it
                then goes on, though nobody waits; a beam search only to the end of its step.
        """
        self._app = app
        self._keys = keys
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        keys = self._keys()
        state["trusted"] = keys is None or bool(keys.name_of(Headers(scope=scope).get("authorization", "")))
        if state["trusted"] or scope["path"] in OPEN:
            await self._answer(scope, receive, send, state["guarded"])
        else:
            detail = "this endpoint asks for a key; send it as `Authorization: Bearer KEY`"
            await problem(401, detail, {"WWW-Authenticate": "Bearer"})(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request: _Request) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                await self._app(scope, receive, send)
            return
        except TimeoutError as error:
            if request.status:
                raise
            failed: Exception = error
            late = (504, "the answer took") if request.complete else (408, "the body took")
            answer = problem(late[0], f"{late[1]} longer than {self._deadline:g} s; ask again, or for less")
        except Exception as error:
            if request.status:  # part of the answer is out: nothing can be said any more
                raise
            failed = error
            answer = problem(500, "the server failed; its log says more under this request id")
        if answer.status_code == 500:
            # Without the error's message, which may hold what was asked.
            extra = {"event": "failure", "request_id": request.id, "error": type(failed).__name__}
            trace = "".join(format_tb(failed.__traceback__))
            _LOG.error("request %s failed: %s\n%s", request.id, type(failed).__name__, trace, extra=extra)
        await answer(scope, receive, send)
