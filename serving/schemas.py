"""What goes over the wire."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

MOST_ANSWERS = 1000
LONGEST_HISTORY = 10_000

_Sent = TypeVar("_Sent")


def _encodable(value: _Sent) -> _Sent:
    """Refuse half a surrogate pair, which JSON can carry and no text can hold."""
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair is no text; send both halves or neither") from error
    return value


Id = Annotated[StrictInt | StrictStr, AfterValidator(_encodable)]
Value = Annotated[StrictInt | StrictFloat | StrictStr | StrictBool, AfterValidator(_encodable)]
Name = Annotated[str, AfterValidator(_encodable)]
_AnswersField = Field(ge=1, le=MOST_ANSWERS, description="how many answers at most")
Answers = Annotated[int, _AnswersField]
"""Of a query string, where numbers are text."""
AnswersInJson = Annotated[StrictInt, _AnswersField]
"""Of a body: there `true` is no 1."""
Ids = Annotated[list[Id], Field(max_length=LONGEST_HISTORY)]


class Request(BaseModel):
    """Base of every request: unknown fields are refused, so that a typo is no silent default."""

    model_config = ConfigDict(extra="forbid")


class RecommendRequest(Request):
    """A history and what may follow it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": [50, 181, 258], "k": 10, "exclude_seen": True}]}
    )

    history: Ids = Field(description="original item ids, oldest first; unknown ones are ignored and named")
    k: AnswersInJson = 10
    exclude_seen: bool = Field(True, description="leave out the items of the history")
    allow: Ids | None = Field(None, description="only these items may come")
    deny: Ids = Field(default_factory=list, description="these items may not come")
    where: dict[Name, list[Value]] = Field(
        default_factory=dict, description="attribute -> values of which an item must have one"
    )


class SimilarRequest(Request):
    """An item to find the like of."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item": 50, "k": 10}]})

    item: Id = Field(description="original item id")
    k: AnswersInJson = 10


class Item(BaseModel):
    """One ranked item; the greater the score the better, on the model's own scale."""

    id: int | str
    score: float
    title: str | None


class RecommendResponse(BaseModel):
    """Ranked items."""

    items: list[Item] = Field(description="best first")
    unknown: list[int | str] = Field(description="ids of the request that the model does not know")
    fallback: Literal["recent popularity"] | None = Field(
        description="what answered because no known item was in the history"
    )
    model_version: str


class SimilarResponse(BaseModel):
    """Items like the one asked for."""

    items: list[Item] = Field(description="best first")
    model_version: str


class FoundItem(BaseModel):
    """An item of the catalogue."""

    id: int | str
    title: str | None
    count: int = Field(description="training events of the item")


class ItemsResponse(BaseModel):
    """Items that a query finds."""

    items: list[FoundItem] = Field(description="best match first")
    model_version: str


class Health(BaseModel):
    """How the endpoint is."""

    status: Literal["ok", "ready"]
    model_version: str


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="short, stable and for programs, such as `not_found`")
    message: str = Field(description="what was got, what was expected, and the remedy")


class ErrorResponse(BaseModel):
    """Every error has this one shape."""

    error: ErrorDetail
