"""The section about sessions: whether the events of one user are cut into several sequences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recsys.config.base import Config


class WholeSequences(Config):
    """Nothing is cut: a sequence is what has one id in the log."""

    by: Literal["none"] = "none"


class SessionsByGap(Config):
    """A new session begins after a pause."""

    by: Literal["gap"] = "gap"
    minutes: float = Field(30.0, gt=0, strict=False, description="a longer pause than this ends a session")


class SessionsByDay(Config):
    """A new session begins every day."""

    by: Literal["day"] = "day"
    starts_at: float = Field(
        0.0,
        ge=-24,
        le=24,
        strict=False,
        description="hours after 00:00 UTC at which a day begins, such as 3 or -5.5",
    )


class SessionsByColumn(Config):
    """A session is what has one value in the column `data.columns.session`."""

    by: Literal["column"] = "column"


SessionConfig = Annotated[
    WholeSequences | SessionsByGap | SessionsByDay | SessionsByColumn, Field(discriminator="by")
]
