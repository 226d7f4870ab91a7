"""Cleaning, as relational steps over the canonical event frame, written once with narwhals.

Every step is `frame -> frame` on a lazy frame, relies on no row order (only on the columns time and row), and
builds no lists, so that it runs on Polars here and on any other lazy engine of narwhals.
"""

from __future__ import annotations

from dataclasses import dataclass

import narwhals as nw

from data_prep.engines import POLARS, Engine
from data_prep.frame_types import ORDER, Frame, NamedStep
from data_prep.limits import limit_steps
from data_prep.sessions import check_sessions, cut_sessions, session_words, with_session
from data_prep.times import parse_moment
from recsys import schema
from recsys.config import CleanConfig, SessionConfig, SessionsByColumn, WholeSequences
from recsys.errors import InputError

UNCUT = WholeSequences()
_FROM_END = f"{schema.HELPER}from_end"


@dataclass(frozen=True)
class Removal:
    """What one step removed.

    Attributes:
        step: its name.
        setting: what it was told, in words.
        events: events removed.
        sequences: sequences of which no event is left; where sessions were cut, minus those that were added.
        items: items of which no event is left.
    """

    step: str
    setting: str
    events: int
    sequences: int
    items: int

    def words(self) -> str:
        """What a person reads of it."""
        if self.sequences < 0:
            return f"{self.step}: {-self.sequences:,} sequences more ({self.setting})"
        return (
            f"{self.step}: removed {self.events:,} events, {self.sequences:,} sequences, "
            f"{self.items:,} items ({self.setting})"
        )


@dataclass(frozen=True)
class Size:
    """Events, and distinct sequences and items, of a frame."""

    events: int
    sequences: int
    items: int


def clean(
    events: Frame,
    settings: CleanConfig,
    engine: Engine = POLARS,
    sessions: SessionConfig = UNCUT,
) -> tuple[Frame, list[Removal]]:
    """Run the configured steps in their order.

    Args:
        events: the canonical frame.
        settings: the `clean` section.
        engine: what computes the steps.
        sessions: the `sessions` section; sessions are cut after bots have left.

    Returns:
        The events left, and what each step removed.

    Raises:
        InputError: a step removed the last event, or needs a column that the log lacks.
    """
    before = size(events)
    removals = []
    rated, timed = schema.RATING in events.collect_schema(), is_timed(events)
    check_sessions(events, sessions, timed)
    if not isinstance(sessions, SessionsByColumn):
        events = events.drop(schema.SESSION, strict=False)
    for name, setting, step, by_sequence in _steps(settings, sessions, timed, rated, engine):
        events = engine.by_sequence(step, events) if by_sequence else step(events)
        after = size(events)
        gone = before.events - after.events
        removals.append(
            Removal(name, setting, gone, before.sequences - after.sequences, before.items - after.items)
        )
        if not after.events:
            raise InputError(
                f"no event is left: step `{name}` ({setting}) removed the last {gone:,} events; relax it"
            )
        before = after
    return events, removals


def size(events: Frame) -> Size:
    """Count events, sequences and items; a null id is none."""
    counts = events.select(
        nw.len().alias("events"),
        *(
            (nw.col(key).n_unique() - nw.col(key).is_null().any().cast(nw.Int64)).alias(key)
            for key in (schema.SEQUENCE, schema.ITEM)
        ),
    ).collect()
    return Size(*(int(counts[column][0]) for column in ("events", schema.SEQUENCE, schema.ITEM)))


def is_timed(events: Frame) -> bool:
    """Whether the log has times."""
    return int(events.select(nw.col(schema.TIME).count()).collect()[schema.TIME][0]) > 0


def _steps(
    settings: CleanConfig, sessions: SessionConfig, timed: bool, rated: bool, engine: Engine
) -> list[NamedStep]:
    """The steps that these settings ask for."""
    needed = "ids or time" if timed else "ids"
    distinct = drop_duplicates if settings.duplicates == "drop" and timed else None
    steps = [
        NamedStep("validate", f"events without {needed}", lambda e: validate(e, timed)),
        *limit_steps(settings, timed, distinct),
    ]
    if isinstance(sessions, SessionsByColumn):
        steps.append(NamedStep("session ids", "events without data.columns.session", with_session))
    if not isinstance(sessions, WholeSequences):
        steps.append(NamedStep("sessions", session_words(sessions), lambda e: cut_sessions(e, sessions)))
    if settings.min_rating is not None:
        least = settings.min_rating
        if not rated:
            raise InputError("clean.min_rating needs ratings; set data.columns.rating, or unset it")
        enough = nw.col(schema.RATING) >= least
        steps.append(NamedStep("rating", f"clean.min_rating={least}", lambda e: e.filter(enough)))
    if settings.start is not None or settings.end is not None:
        if not timed:
            raise InputError("clean.start and clean.end need times; set data.columns.time, or unset them")
        steps.append(_time_range(settings))
    if distinct:
        steps.append(NamedStep("duplicates", "clean.duplicates=drop", distinct))
    if settings.repeats != "keep":
        step = first_occurrences if settings.repeats == "first" else drop_direct_repeats
        steps.append(NamedStep("repeats", f"clean.repeats={settings.repeats}", step))
    core = (settings.min_sequence_length, settings.min_item_count)
    if max(core) > 1:
        words = f"clean.min_sequence_length={core[0]}, clean.min_item_count={core[1]}"
        steps.append(NamedStep("k-core", words, lambda e: k_core(e, *core, engine), by_sequence=False))
    if settings.max_sequence_length is not None:
        longest = settings.max_sequence_length
        steps.append(
            NamedStep("length", f"clean.max_sequence_length={longest}", lambda e: newest(e, longest))
        )
    return steps


def validate(events: Frame, timed: bool) -> Frame:
    """Keep events that have both ids, and a time where the log has times."""
    needed = [schema.SEQUENCE, schema.ITEM, *([schema.TIME] if timed else [])]
    return events.filter(*(~nw.col(column).is_null() for column in needed))


def _time_range(settings: CleanConfig) -> NamedStep:
    bounds, words = [], []
    if settings.start is not None:
        bounds.append(nw.col(schema.TIME) >= parse_moment(settings.start, "clean.start"))
        words.append(f"clean.start={settings.start}")
    if settings.end is not None:
        bounds.append(nw.col(schema.TIME) < parse_moment(settings.end, "clean.end"))
        words.append(f"clean.end={settings.end}")
    return NamedStep("time range", ", ".join(words), lambda events: events.filter(*bounds))


def same_item(events: Frame) -> list[str]:
    """What makes two events of a sequence the same: the item, and the type where there is one."""
    return [schema.ITEM, *([schema.EVENT] if schema.EVENT in events.collect_schema() else [])]


def drop_duplicates(events: Frame) -> Frame:
    """Keep the first row of each sequence, item, type and time."""
    key = [schema.SEQUENCE, *same_item(events), schema.TIME]
    return events.unique(key, keep="first", order_by=[schema.ROW])


def first_occurrences(events: Frame) -> Frame:
    """Keep the oldest event of each item (and type) in a sequence."""
    return events.unique([schema.SEQUENCE, *same_item(events)], keep="first", order_by=ORDER)


def drop_direct_repeats(events: Frame) -> Frame:
    """Keep an event unless the one right before it in its sequence is of the same item (and type)."""
    key = same_item(events)
    former = {column: f"{schema.HELPER}{column}" for column in key}
    marked = events.with_columns(
        nw.col(column).shift(1).over(schema.SEQUENCE, order_by=ORDER).alias(before)
        for column, before in former.items()
    )
    changed = (
        nw.col(before).is_null() | (nw.col(before) != nw.col(column)) for column, before in former.items()
    )
    return marked.filter(nw.any_horizontal(*changed, ignore_nulls=True)).drop(*former.values())


def k_core(events: Frame, min_sequence_length: int, min_item_count: int, engine: Engine = POLARS) -> Frame:
    """The largest part in which every sequence and every item has enough events.

    Each round drops rare items, then short sequences; the rounds end when one has nothing to drop. The result
    does not depend on the order of the two. Only what tells whether there is anything to drop leaves the
    engine, and where there is not, nothing is copied.

    It runs before the split: all events count, those of validation and test too, as in published
    preprocessings.
    """
    asked = [(schema.ITEM, min_item_count), (schema.SEQUENCE, min_sequence_length)]
    asked = [(key, least) for key, least in asked if least > 1]
    done = 0
    while done < len(asked):
        for key, least in asked:
            counts = engine.checkpoint(events.group_by(key).agg(nw.len().alias("n")))
            few = counts.select((nw.col("n") < least).any().alias("few")).collect()["few"][0]
            done = 0 if few else done + 1
            if few:
                kept = counts.filter(nw.col("n") >= least)
                events = engine.checkpoint(events.join(kept, on=key, how="semi"))
    return events


def newest(events: Frame, longest: int) -> Frame:
    """Keep the last `longest` events of each sequence."""
    from_end = nw.col(schema.ROW).cum_count(reverse=True).over(schema.SEQUENCE, order_by=ORDER)
    numbered = events.with_columns(from_end.alias(_FROM_END))
    return numbered.filter(nw.col(_FROM_END) <= longest).drop(_FROM_END)


def positions(events: Frame) -> Frame:
    """Add the place of each event in its sequence, from 0."""
    place = nw.col(schema.ROW).cum_count().over(schema.SEQUENCE, order_by=ORDER)
    return events.with_columns((place - 1).cast(nw.Int32).alias(schema.POSITION))
