"""Sections about the log: where it is, how it is cleaned, how it is split."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from recsys.config.base import SECRET, Config


def _iso(value: object) -> object:
    """YAML reads an unquoted 2024-01-31 as a date; the configuration keeps it as text."""
    return value.isoformat() if isinstance(value, datetime.date) else value


TableFormat = Literal["csv", "tsv", "parquet", "jsonl", "atomic"]
Layout = Literal[
    "movielens", "amazon-2014", "amazon-2018", "amazon-2023", "spotify-mpd", "lastfm-1k", "lastfm-2k",
    "steam", "yelp",
]  # fmt: skip
"""Public data sets as their publishers lay them out."""

LogFormat = Literal[TableFormat, "sequences", "pairs", "sql", Layout, "sample"]
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@|[?&;]\w*(password|token|secret|signature|sig)=", re.IGNORECASE)
_SECRET = re.compile(r"secret|token|password|account_key|sas|^(azure_storage_)?access_key$", re.IGNORECASE)
Moment = Annotated[str, BeforeValidator(_iso)]


class Columns(Config):
    """Which column of the log is what. Sequence files need none of it."""

    sequence: str | None = Field(
        None, description="user, playlist or session id; default `sequence`, in atomic files `user_id`"
    )
    item: str | None = Field(None, description="item id; default `item`, in atomic files `item_id`")
    time: str | None = Field(
        None,
        description="time of the event; default none (the log's own order counts), in atomic files "
        "`timestamp` where there is one",
    )
    rating: str | None = Field(
        None, description="rating, used by `clean.min_rating` alone; default none, in atomic files `rating`"
    )
    event: str | None = Field(
        None,
        description="type of the event (view, purchase), for `split.targets` and `training.event_weights`",
    )
    session: str | None = Field(None, description="session id, used by `sessions.by: column` alone")
    context: tuple[str, ...] = Field(
        (),
        strict=False,
        description="columns that say something of the whole sequence (device, country); their values at its "
        "first event are kept in sequences.parquet",
    )


class ItemColumns(Config):
    """Which column of the item table is what."""

    id: str | None = Field(None, description="item id, as in the log; default: the log's name of it")
    title: str | None = Field(None, description="what a person reads; stored as `title`")
    attributes: tuple[str, ...] | None = Field(
        None, strict=False, description="columns to keep besides (brand, genre, year, text); default: all"
    )


class DataConfig(Config):
    """Where the log is and how to read it."""

    path: str = Field(
        "",
        description="the log: a file, a glob, a folder that `events` and `items` are in, an object store "
        "(`s3://bucket/log/`, Parquet), or a database (`postgresql://user@host/shop`)",
    )
    format: LogFormat = Field(
        "csv",
        description="csv, tsv, jsonl (each also .gz), parquet, atomic (RecBole), "
        "sequences (`user item item ...`), pairs (`user item`), sql (`path` is the database's address), "
        "sample (built in; `events: playlists.csv` takes its playlists), or a public data set as its "
        "publisher lays it out",
    )
    events: str | Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None,
        description="file or glob inside the folder `path`, or a list; in a database a table or a query",
    )
    items: str | None = Field(
        None,
        description="item table inside the folder `path`, or a path of its own; `log`: the log holds it, and "
        "`item_columns` are columns of the log",
    )
    items_format: TableFormat | Layout | None = Field(
        None, description="format of the item table; default: that of the log"
    )
    columns: Columns = Columns()
    item_columns: ItemColumns = ItemColumns()
    storage: dict[str, str] = Field(
        {},
        description="options of the object store that `path` is in, such as `aws_endpoint_url`; secrets stay "
        "in the environment (`AWS_SECRET_ACCESS_KEY`)",
    )
    time_unit: Literal["s", "ms", "us", "ns"] = Field("s", description="unit of times that are numbers")
    time_format: str | None = Field(
        None, description="strftime format of times that are text; default ISO 8601"
    )

    @field_validator("path")
    @classmethod
    def _without_password(cls, path: str) -> str:
        if _PASSWORD.search(path):
            raise PydanticCustomError(
                SECRET,
                "data.path holds a password, which would be written down with every run; take it out and set "
                "PGPASSWORD, or use ~/.pgpass",
            )
        return path

    @field_validator("storage")
    @classmethod
    def _without_secrets(cls, storage: dict[str, str]) -> dict[str, str]:
        for name in filter(_SECRET.search, storage):
            raise PydanticCustomError(
                SECRET,
                "data.storage holds a secret, `{name}`, which would be written down with every run; take it "
                "out and set it in the environment",
                {"name": name},
            )
        return storage


class CleanConfig(Config):
    """What to drop before splitting, in this order; every step reports what it removed."""

    max_per_minute: int | None = Field(
        None, ge=1, description="drop users (bots) with more events within some 60 seconds"
    )
    max_per_day: int | None = Field(
        None, ge=1, description="drop users with more events within some 24 hours"
    )
    max_events: int | None = Field(None, ge=1, description="drop users with more events in all")
    min_rating: float | None = Field(None, strict=False, description="keep events rated at least this")
    start: Moment | None = Field(None, description="keep events from this ISO date on (UTC)")
    end: Moment | None = Field(None, description="keep events before this ISO date (UTC)")
    duplicates: Literal["keep", "drop"] = Field(
        "drop", description="same sequence, item and time; a log without time has none"
    )
    repeats: Literal["keep", "first", "consecutive"] = Field(
        "keep", description="an item again in one sequence: keep, keep the first only, drop direct repeats"
    )
    min_sequence_length: int = Field(1, ge=1, description="k-core: events a sequence needs")
    min_item_count: int = Field(1, ge=1, description="k-core: events an item needs")
    max_sequence_length: int | None = Field(None, ge=2, description="keep the last so many events of each")


class ExpectConfig(Config):
    """Counts that the prepared data set must have, such as a paper states; others are refused.

    Nothing is written where one differs.
    """

    events_read: int | None = Field(None, description="events of the log")
    sequences: int | None = Field(None, description="sequences after cleaning")
    items: int | None = Field(None, description="items after cleaning")
    events: int | None = Field(None, description="events after cleaning")


TargetTypes = Annotated[
    Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None,
    Field(description="event types that a target can be of; default: all"),
]


class LeaveOneOut(Config):
    """The last event of each sequence is the test target, the one before it the validation target."""

    kind: Literal["leave_one_out"] = "leave_one_out"
    targets: TargetTypes = None


class GlobalTime(Config):
    """Two cuts in time: nothing at or after the validation cut reaches training."""

    kind: Literal["global_time"] = "global_time"
    valid_from: Moment | float = Field(0.8, description="ISO date (UTC), or the fraction of events before it")
    test_from: Moment | float = Field(0.9, description="ISO date (UTC), or the fraction of events before it")
    targets: TargetTypes = None


class UserHoldout(Config):
    """Whole sequences are held out of training; their last event is the target."""

    kind: Literal["user_holdout"] = "user_holdout"
    valid: float = Field(0.1, gt=0, lt=1, description="fraction of sequences held out for validation")
    test: float = Field(0.1, gt=0, lt=1, description="fraction of sequences held out for test")
    seed: int = Field(0, description="seed of the draw")
    targets: TargetTypes = None


class ItemCold(Config):
    """Some items leave training entirely; the test target is the last of them in a sequence.

    What comes after it is left out, and so are others of them before it. The event before the test target, or
    the last of a sequence without such an item, is the validation target.
    """

    kind: Literal["item_cold"] = "item_cold"
    items: float = Field(0.1, gt=0, lt=1, description="fraction of items that leave training")
    seed: int = Field(0, description="seed of the draw")
    targets: ClassVar[None] = None  # an item is asked for whatever was done with it


class LowResource(Config):
    """Leave-one-out in which only a fraction of the sequences trains; every sequence is tested."""

    kind: Literal["low_resource"] = "low_resource"
    users: float = Field(0.1, gt=0, le=1, description="fraction of sequences that train")
    seed: int = Field(0, description="seed of the draw; a smaller fraction is part of a larger one")
    targets: TargetTypes = None


SplitConfig = Annotated[
    LeaveOneOut | GlobalTime | UserHoldout | ItemCold | LowResource, Field(discriminator="kind")
]
