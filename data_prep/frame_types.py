"""What every relational step shares: the type of its frames, and the order of events in a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import narwhals as nw

from recsys import schema

Frame = nw.LazyFrame[Any]
Step = Callable[[Frame], Frame]


class NamedStep(NamedTuple):
    """A step of the cleaning.

    Attributes:
        name: what a report calls it.
        setting: what it was told, in words.
        run: what it does.
        by_sequence: whether it looks at each sequence by itself.
    """

    name: str
    setting: str
    run: Step
    by_sequence: bool = True


ORDER = [schema.TIME, schema.ROW]
"""What defines the order in a sequence: time, then the log's own order."""
