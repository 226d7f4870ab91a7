"""Times of a log as int64 microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl

from recsys.errors import InputError

Locate = Callable[[int], str]
"""Names the file and the row of the log that a position (from 0) came from."""

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECOND = 10**6  # microseconds
_EARLIEST = -62_135_596_800 * _SECOND  # the year 1; a time before it is a wrong unit
_END = 253_402_300_800 * _SECOND  # the year 10000; so is one from here on
_ISO = (
    r"^(?<day>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?<clock>\d{2}:\d{2}(?::\d{2}(?:[.]\d+)?)?))?"
    r"(?<zone>Z|[+-]\d{2}:?\d{2})?$"
)


def parse_moment(text: str, where: str) -> int:
    """Microseconds since 1970 UTC of one ISO 8601 date or time; without a zone it is UTC.

    Args:
        text: such as `2024-01-31` or `2024-01-31T12:00:00+02:00`.
        where: what to name in an error, such as `clean.start`.

    Raises:
        InputError: the text is not ISO 8601, or lies outside the years 1 to 9999 of UTC.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{where} is `{text}`; expected an ISO 8601 date such as 2024-01-31") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds
    if not _EARLIEST <= micros < _END:
        raise InputError(f"{where} is `{text}`; expected a date within the years 1 to 9999 of UTC")
    return micros


def parse_times(values: pl.Series, unit: str, text_format: str | None, locate: Locate) -> pl.Series:
    """Times (n,) as int64 microseconds since 1970 UTC; null stays null.

    Dates and date-times are taken as they are, numbers in `unit`. Text is numbers when its first value
    is one, else `text_format` or ISO 8601. Times without a zone are UTC.

    Args:
        values: (n,) times as the log has them.
        unit: of times that are numbers: s, ms, us or ns.
        text_format: strftime format of times that are text; None is ISO 8601.
        locate: names the place of a value for an error.

    Raises:
        InputError: a value is not a time (the first such is named), or lies outside the years 1
            to 9999.
    """
    kind = values.dtype
    if kind == pl.Null:
        return values.cast(pl.Int64)
    if kind == pl.String:
        values = values.str.strip_chars()
        values = values.set(values == "", None)
        parsed, expected = _from_text(values, unit, text_format)
    elif kind.is_numeric():
        parsed, expected = _from_numbers(values, unit), f"a number of `{unit}` (data.time_unit)"
    elif kind == pl.Date or isinstance(kind, pl.Datetime):
        parsed, expected = _from_dates(values), f"a {kind} (shown as its number)"
        values = values.to_physical()  # Python knows no date outside these years
    else:
        raise InputError(f"{locate(0)}: time is of type {kind}; expected numbers, dates or ISO 8601 text")
    parsed = parsed.set(parsed.is_between(_EARLIEST, _END, closed="left").not_(), None)
    _require(parsed.is_null() & values.is_not_null(), values, expected, locate)
    return parsed


def _require(bad: pl.Series, values: pl.Series, expected: str, locate: Locate) -> None:
    if bad.any():
        row = int(bad.arg_true()[0])
        raise InputError(
            f"{locate(row)}: time `{values[row]}` is not {expected}, or lies outside the years 1 to 9999; "
            f"correct the row or set data.time_unit or data.time_format ({bad.sum()} such rows)"
        )


def _from_numbers(values: pl.Series, unit: str) -> pl.Series:
    """Microseconds; null where a number is not finite or does not fit, and so is no time in this unit."""
    scale = PER_SECOND[unit]
    if values.dtype.is_integer():
        whole = values.cast(pl.Int64, strict=False)
        limit = min(_END // _SECOND * scale, 2**63 - 1)
        whole = whole.set(whole.is_between(-limit, limit).not_(), None)
        return whole // 1000 if unit == "ns" else whole * (_SECOND // scale)
    micros = values.cast(pl.Float64) * (_SECOND / scale)
    micros = micros.set((micros.is_finite() & (micros.abs() <= _END)).not_(), None)
    return micros.round().cast(pl.Int64)


def _from_dates(values: pl.Series) -> pl.Series:
    """Microseconds; a zone only says how the time is shown."""
    counts = values.to_physical().cast(pl.Int64)
    if isinstance(values.dtype, pl.Datetime):
        return _from_numbers(counts, values.dtype.time_unit)
    return _from_numbers(counts * 86_400, "s")  # days


def _from_text(values: pl.Series, unit: str, text_format: str | None) -> tuple[pl.Series, str]:
    """Microseconds (null where the text is no time), and what was expected of it."""
    if text_format is not None:
        parsed = values.str.strptime(pl.Datetime("us"), text_format, strict=False)
        return parsed.dt.epoch("us"), f"of the form `{text_format}` (data.time_format)"
    first = values.drop_nulls().head(1).cast(pl.Float64, strict=False)
    if len(first) and first[0] is not None:
        whole = values.cast(pl.Int64, strict=False)
        if whole.null_count() > values.null_count():
            whole = values.cast(pl.Float64, strict=False)
        return _from_numbers(whole, unit), f"a number of `{unit}` (data.time_unit)"
    parts = values.str.extract_groups(_ISO).struct
    day, clock, zone = (parts.field(name) for name in ("day", "clock", "zone"))
    clock = clock.fill_null("00:00:00")
    clock = clock.set(clock.str.len_chars() == len("00:00"), None).fill_null(clock + ":00")
    zone = zone.fill_null("+0000").replace("Z", "+0000").str.replace(":", "", literal=True)
    full = day + "T" + clock + zone
    parsed = full.str.strptime(pl.Datetime("us"), "%Y-%m-%dT%H:%M:%S%.f%z", strict=False)
    return parsed.dt.epoch("us"), "an ISO 8601 date or time"
