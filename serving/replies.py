"""What endpoints share in taking questions and giving answers."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from recsys.errors import InputError


def told(request: Request, version: str, body: bytes) -> Response:
    """An answer of a model, in JSON; what the schema says is what was dumped, so it is not checked again."""
    request.state.model_version = version
    return Response(body, media_type="application/json")


def one_of(one: str, first: object, other: str, second: object) -> None:
    """Refuse a request that has both of two fields, or neither.

    Raises:
        InputError: it has.
    """
    if (first is None) == (second is None):
        got = "both" if first is not None else "neither"
        raise InputError(f"the request has {got} of `{one}` and `{other}`; send one of them")
