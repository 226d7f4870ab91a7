"""What goes over the wire."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
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

from recsys.answers import Filters
from recsys.item_texts import ItemText

MOST_ANSWERS = 1000
LONGEST_HISTORY = 10_000
LARGEST_BATCH = 256

_Sent = TypeVar("_Sent")


def _encodable(value: _Sent) -> _Sent:
    """Refuse half a surrogate pair, which JSON can carry and no text can hold."""
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair is no text; send both halves or neither") from error
    return value


_Text = Annotated[StrictStr, AfterValidator(_encodable)]
Id = StrictInt | _Text
Value = StrictInt | StrictFloat | _Text | StrictBool
Name = Annotated[str, AfterValidator(_encodable)]
_AnswersField = Field(ge=1, le=MOST_ANSWERS, description="how many answers at most")
Answers = Annotated[int, _AnswersField]
"""Of a query string, where numbers are text."""
AnswersInJson = Annotated[StrictInt, _AnswersField]
"""Of a body: there `true` is no 1."""
Ids = Annotated[list[Id], Field(max_length=LONGEST_HISTORY)]
MOST_TEXTS = 100
"""Described items of a request: a model reads each of them before it answers."""


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


Score = Annotated[StrictFloat | StrictInt, AfterValidator(_finite)]


class Request(BaseModel):
    """Base of every request: unknown fields are refused, so that a typo is no silent default."""

    model_config = ConfigDict(extra="forbid")


class DescribedItem(Request):
    """An item by its attributes instead of its id, for a model that reads text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": {"title": "The Great Greek"}}]})

    text: dict[Name, Value | list[Value] | None] = Field(
        description="attribute -> value, as in the catalogue"
    )


def _few_described(items: list[int | str | DescribedItem]) -> list[int | str | DescribedItem]:
    if sum(isinstance(each, DescribedItem) for each in items) > MOST_TEXTS:
        raise ValueError(f"more than {MOST_TEXTS} items are described; add them to the catalogue instead")
    return items


Items = Annotated[list[Id | DescribedItem], Field(max_length=LONGEST_HISTORY), AfterValidator(_few_described)]
"""Original ids, and items that are described."""


def items_of(sent: Items) -> list[int | str | ItemText]:
    """The same for the recommender."""
    return [ItemText(each.text) if isinstance(each, DescribedItem) else each for each in sent]


class Conditions(Request):
    """Operators, all of which an attribute must meet; a list-valued one does with any of its elements."""

    one_of: list[Value | None] | None = Field(None, alias="in", description="values; null: has no value")
    equal: Value | None = Field(None, alias="==", description="a value; null: has no value")
    least: Value | None = Field(None, alias=">=", description="a bound of the attribute's type")
    greatest: Value | None = Field(None, alias="<=", description="a bound of the attribute's type")


class Narrowed(Request):
    """What may come, whatever was seen."""

    k: AnswersInJson = 10
    allow: Ids | None = Field(None, description="only these items may come")
    deny: Ids = Field(default_factory=list, description="these items may not come")
    where: dict[Name, list[Value | None] | Conditions] = Field(
        default_factory=dict,
        description="attribute -> values of which an item must have one (null: it has none), or operators",
    )
    max_per: dict[Name, Annotated[StrictInt, Field(ge=1, le=MOST_ANSWERS)]] = Field(
        default_factory=dict, description="attribute -> how many answers may share a value of it"
    )
    min_score: Score | None = Field(
        None, description="answers must score at least this, on the scale of the answer's own scores"
    )
    region: Name | None = Field(None, description="where an item must be available; default: anywhere")

    def filters(self, available: NDArray[np.bool_] | None) -> Filters:
        """The same for the recommender.

        Args:
            available: (V,) items that can be had.
        """
        where = {
            name: each.model_dump(by_alias=True, exclude_unset=True) if isinstance(each, Conditions) else each
            for name, each in self.where.items()
        }
        return Filters(
            allow=self.allow,
            deny=self.deny,
            where=where,
            max_per=self.max_per,
            min_score=self.min_score,
            available=available,
        )


class Filtered(Narrowed):
    """What may come."""

    exclude_seen: StrictBool = Field(True, description="leave out the items of the history")

    def filters(self, available: NDArray[np.bool_] | None) -> Filters:
        """As `Narrowed.filters`."""
        return replace(super().filters(available), exclude_seen=self.exclude_seen)


class RecommendRequest(Filtered):
    """A history, or a user whose history is stored, and what may follow it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": [50, 181, 258], "k": 10, "exclude_seen": True},
                {"user": 7, "where": {"release_year": {">=": 1990}}, "max_per": {"class": 2}},
            ]
        }
    )

    history: Items | None = Field(
        None,
        description="original item ids, oldest first; unknown ones are ignored and named; a model that reads "
        'text takes `{"text": {...}}` too',
    )
    user: Id | None = Field(None, description="instead of a history: whose stored history to take")


class BatchRequest(Filtered):
    """Several histories, or users whose histories are stored, with the same filters."""

    histories: Annotated[list[Ids], Field(min_length=1, max_length=LARGEST_BATCH)] | None = Field(
        None, description="each as `history` of a single request"
    )
    users: Annotated[list[Id], Field(min_length=1, max_length=LARGEST_BATCH)] | None = Field(
        None, description="instead of histories: whose stored histories to take"
    )


class ScoreRequest(Request):
    """A history and items that may follow it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": [50, 181], "items": [258, {"text": {"title": "Fargo"}}]}]}
    )

    history: Items = Field(description="as for recommendations")
    items: Items = Field(description="items to score, by id or described")


class ScoreResponse(BaseModel):
    """Scores of single items, comparable with those of recommendations."""

    scores: list[float | None] = Field(description="in the order of the request; null for unknown ids")
    model_version: str


class SimilarRequest(Filtered):
    """An item to find the like of."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item": 50, "k": 10}]})

    item: Id = Field(description="original item id; it never comes itself")


class Item(BaseModel):
    """One ranked item; the greater the score the better, on the model's own scale."""

    id: int | str
    score: float
    title: str | None


class RecommendResponse(BaseModel):
    """Ranked items."""

    items: list[Item] = Field(description="best first")
    unknown: list[int | str] = Field(
        description="ids of the request that the model does not know; in a batch, of this history"
    )
    fallback: Literal["recent popularity"] | None = Field(
        description="what answered because no known item was in the history"
    )
    fewer_because: str | None = Field(description="why fewer than k items came; null where k came")
    model_version: str


class BatchResponse(BaseModel):
    """An answer to each history, all of one model."""

    answers: list[RecommendResponse] = Field(description="in the order of the request")
    unknown: list[int | str] = Field(description="ids of the filters that the model does not know")
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
    """The process lives."""

    status: Literal["ok"]
    model_version: str


class Readiness(BaseModel):
    """The model answers."""

    status: Literal["ready"]
    model_version: str
    problems: dict[str, str] = Field(
        description="what was refused or is out of reach, and why: `model`, `availability`, `histories`, "
        "`playlists` or `keys`; the former one stays in force"
    )


class FieldProblem(BaseModel):
    """What is wrong with one part of a request."""

    pointer: str | None = Field(None, description="JSON pointer (RFC 6901) into the body")
    parameter: str | None = Field(None, description="name of a query parameter")
    detail: str


class Problem(BaseModel):
    """Every error, as RFC 9457 describes problems; its type is always `about:blank`."""

    type: Literal["about:blank"] = "about:blank"
    title: str = Field(description="the phrase of the status")
    status: int
    detail: str = Field(description="what was got, what was expected, and the remedy")
    errors: list[FieldProblem] | None = Field(None, description="where the request is invalid: each place")
