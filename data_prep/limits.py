"""Limits that a person does not exceed: who does is a bot, or a fault of the log, and leaves it whole.

Written with narwhals, like the cleaning.
"""

from __future__ import annotations

from functools import partial

import narwhals as nw

from data_prep.frame_types import ORDER, Frame, NamedStep, Step
from recsys import schema
from recsys.config import CleanConfig
from recsys.errors import InputError

_MINUTE, _DAY = 60 * 10**6, 86_400 * 10**6  # microseconds


def limit_steps(settings: CleanConfig, timed: bool, distinct: Step | None = None) -> list[NamedStep]:
    """The steps that the limits of these settings ask for: name, setting in words, function.

    Args:
        settings: the `clean` section.
        timed: whether the log has times.
        distinct: takes out the events that do not count, as those of a file that was sent twice.

    Raises:
        InputError: a rate is limited and the log has no times.
    """
    steps: list[NamedStep] = []
    rates = (("max_per_minute", _MINUTE), ("max_per_day", _DAY))
    for key, window in rates:
        most = getattr(settings, key)
        if most is None:
            continue
        if not timed:
            raise InputError(f"clean.{key} needs times; set data.columns.time, or unset it")
        rate = partial(drop_fast, most=most, window=window, distinct=distinct)
        steps.append(NamedStep("rate", f"clean.{key}={most}", rate))
    if settings.max_events is not None:
        longest = settings.max_events
        long = partial(drop_long, longest=longest, distinct=distinct)
        steps.append(NamedStep("outliers", f"clean.max_events={longest}", long))
    return steps


def drop_fast(events: Frame, most: int, window: int, distinct: Step | None = None) -> Frame:
    """Drop every sequence that has more than `most` events within some `window` of microseconds.

    The window may begin at any event: it is not a minute or day of the clock.
    """
    time = nw.col(schema.TIME)
    earlier = time.shift(most).over(schema.SEQUENCE, order_by=ORDER)
    counted = distinct(events) if distinct else events
    marked = counted.with_columns((time - earlier < window).alias("fast"))
    fast = marked.filter(nw.col("fast")).select(schema.SEQUENCE).unique()
    return events.join(fast, on=schema.SEQUENCE, how="anti")


def drop_long(events: Frame, longest: int, distinct: Step | None = None) -> Frame:
    """Drop every sequence of more than `longest` events."""
    counted = distinct(events) if distinct else events
    counts = counted.group_by(schema.SEQUENCE).agg(nw.len().alias("n"))
    return events.join(counts.filter(nw.col("n") <= longest), on=schema.SEQUENCE, how="semi")
