"""What every relational step shares: the type of its frames, and the order of events in a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import narwhals as nw

from recsys import schema

Frame = nw.LazyFrame[Any]
Step = Callable[[Frame], Frame]
NamedStep = tuple[str, str, Step]
"""Name, setting in words, function."""

ORDER = [schema.TIME, schema.ROW]
"""What defines the order in a sequence: time, then the log's own order."""
