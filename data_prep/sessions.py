"""From the events of a user to sessions: each becomes a sequence of its own.

Written with narwhals, like the cleaning: lazy, no lists, no reliance on row order.
"""

from __future__ import annotations

import narwhals as nw

from data_prep.frame_types import ORDER, Frame
from recsys import schema
from recsys.config import SessionConfig, SessionsByColumn, SessionsByDay, SessionsByGap
from recsys.errors import InputError

_BEGINS = f"{schema.HELPER}begins"
_MINUTE, _HOUR, _DAY = 60 * 10**6, 3_600 * 10**6, 86_400 * 10**6  # microseconds


def session_words(sessions: SessionConfig) -> str:
    """How sessions are cut, in words."""
    if isinstance(sessions, SessionsByGap):
        return f"a pause of more than {sessions.minutes:g} minutes begins a session"
    if isinstance(sessions, SessionsByDay):
        return f"a day begins a session, at {sessions.starts_at:g} h UTC"
    return "one session for each value of data.columns.session"


def check_sessions(events: Frame, sessions: SessionConfig, timed: bool) -> None:
    """Refuse settings that the log does not allow.

    Raises:
        InputError: it has no times, or no session column.
    """
    if isinstance(sessions, SessionsByGap | SessionsByDay) and not timed:
        raise InputError(
            f"sessions.by={sessions.by} needs times; set data.columns.time, or sessions.by=column"
        )
    if isinstance(sessions, SessionsByColumn) and schema.SESSION not in events.collect_schema():
        raise InputError("sessions.by=column needs data.columns.session: set it to the session's column")


def with_session(events: Frame) -> Frame:
    """Keep events that have a session id."""
    value = nw.col(schema.SESSION).cast(nw.String)
    return events.filter(~value.is_null(), value != "")


def cut_sessions(events: Frame, sessions: SessionConfig) -> Frame:
    """The same events with ids `USER/SESSION` in place of the user's; the user's own id moves to `user`.

    Sessions by gap and by day are numbered from 1 in each user; those by column have the column's value, with
    `/` written as `%2F` (and `%` as `%25`), so that no two pairs of user and session have one name.

    Args:
        events: the canonical frame, without null ids, sessions and times.
        sessions: the `sessions` section.
    """
    if isinstance(sessions, SessionsByColumn):
        value = nw.col(schema.SESSION).cast(nw.String)
        number = value.str.replace_all("%", "%25", literal=True).str.replace_all("/", "%2F", literal=True)
    else:
        events = events.with_columns(_begins(sessions).alias(_BEGINS))
        number = nw.col(_BEGINS).cum_sum().over(schema.SEQUENCE, order_by=ORDER).cast(nw.String)
    user = nw.col(schema.SEQUENCE)
    numbered = events.with_columns(number.alias(schema.SESSION), user.alias(schema.USER))
    named = numbered.with_columns(
        nw.concat_str(user.cast(nw.String), nw.col(schema.SESSION), separator="/").alias(schema.SEQUENCE)
    )
    return named.drop(_BEGINS, schema.SESSION, strict=False)


def _begins(sessions: SessionConfig) -> nw.Expr:
    """1 where an event begins a session, else 0; the first event of a user counts as one."""
    time = nw.col(schema.TIME)
    before = time.shift(1).over(schema.SEQUENCE, order_by=ORDER)
    if isinstance(sessions, SessionsByGap):
        begins = time - before > int(sessions.minutes * _MINUTE)
    else:
        assert isinstance(sessions, SessionsByDay)
        start = int(sessions.starts_at * _HOUR)
        begins = (time - start) // _DAY != (before - start) // _DAY
    return nw.when(before.is_null()).then(nw.lit(1)).otherwise(begins.cast(nw.Int64))
