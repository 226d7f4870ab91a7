"""Where the relational steps are computed: what an engine of narwhals' lazy frames must offer, and Polars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import narwhals as nw
import polars as pl

from data_prep.frame_types import Frame, Step
from recsys import schema

BUCKET = 2_000_000
"""Events that a step works on at a time: sorts and hash tables take several times what their events do."""


class Engine(Protocol):
    """Computes lazy frames; nothing that follows computes them again."""

    def take(self, events: pl.DataFrame) -> Frame:
        """The canonical events of this process, as a frame of the engine."""

    def checkpoint(self, frame: Frame) -> Frame:
        """The same frame, computed."""

    def by_sequence(self, step: Step, events: Frame) -> Frame:
        """What a step makes of a computed frame, computed; the step looks at each sequence by itself."""


@dataclass(frozen=True)
class PolarsEngine:
    """In this process, in memory.

    Attributes:
        bucket: events that `by_sequence` aims to work on at a time.
    """

    bucket: int = BUCKET

    def take(self, events: pl.DataFrame) -> Frame:
        """They stay where they are."""
        return nw.from_native(events.lazy())

    def checkpoint(self, frame: Frame) -> Frame:
        """Collect it."""
        return frame.collect().lazy()

    def by_sequence(self, step: Step, events: Frame) -> Frame:
        """Run the step on buckets of whole sequences, so that its working memory is that of a bucket."""
        whole: pl.DataFrame = events.collect("polars").to_polars()
        buckets = -(-len(whole) // self.bucket)
        if buckets <= 1:
            return self.checkpoint(step(events))
        bucket_of = (whole[schema.SEQUENCE].hash() % buckets).cast(pl.UInt16)
        parts = [
            step(nw.from_native(whole.filter(bucket_of == bucket).lazy())).collect("polars").to_polars()
            for bucket in range(buckets)
        ]
        return nw.from_native(pl.concat(parts).lazy())


POLARS = PolarsEngine()


def engine_named(name: str) -> Engine:
    """The engine that a configuration names.

    Raises:
        InputError: it is not installed, or does not start.
    """
    if name == "spark":
        from data_prep.spark import spark_engine

        return spark_engine()
    return POLARS
