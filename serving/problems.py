"""Errors as RFC 9457 problem details, all of them, and in the OpenAPI document too."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from recsys.errors import InputError, UnknownItem
from serving import schemas
from serving.batching import Overloaded

MEDIA_TYPE = "application/problem+json"
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (400, 401, 404, 408, 413, 422, 500, 503, 504)
}

SHOWN, MOST = 5, 100  # places of an invalid request in the text, and in the list


def problem(
    status: int,
    detail: str,
    headers: dict[str, str] | None = None,
    errors: list[schemas.FieldProblem] | None = None,
) -> JSONResponse:
    """The answer to a request that failed."""
    content = schemas.Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    body = content.model_dump(exclude_none=True)
    return JSONResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Give every error of an application this form, and say so in its document."""
    app.add_exception_handler(StarletteHTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(InputError, lambda _, error: problem(400, str(error)))
    app.add_exception_handler(UnknownItem, lambda _, error: problem(404, str(error)))
    app.add_exception_handler(Overloaded, _on_overload)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for path in described()["paths"].values():
                for operation in path.values():
                    for status, response in operation["responses"].items():
                        if status >= "400":  # FastAPI writes the media type of the good answer
                            response["content"] = {MEDIA_TYPE: next(iter(response["content"].values()))}
        return described()

    app.openapi = openapi  # type: ignore[method-assign]


def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    found = []
    for each in problems:
        (place, *inside), detail = each["loc"], each["msg"]
        path = _path(inside, error.body, each["type"] == "missing") if place == "body" else inside
        pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
        named = {"pointer": f"#{pointer}"} if place == "body" else {"parameter": str(inside[0])}
        found.append(schemas.FieldProblem(**named, detail=detail))
    shown = [f"{each.pointer or each.parameter}: {each.detail}" for each in found[:SHOWN]]
    return problem(422, "; ".join(shown), errors=found[:MOST])


def _path(location: list[int | str], body: object, missing: bool) -> list[int | str]:
    """The parts of an error's location that lead into the body; the others name types that were tried."""
    path = []
    for part in location:
        in_object = isinstance(body, dict) and part in body
        if in_object or (isinstance(body, list) and isinstance(part, int)):
            body = cast(Any, body)[part]
            path.append(part)
    return [*path, location[-1]] if missing and location else path


def _on_overload(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Overloaded)
    return problem(503, str(error), {"Retry-After": str(error.retry_after)})
