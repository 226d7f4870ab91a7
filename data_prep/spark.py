"""The relational steps on PySpark, for logs whose cleaning outgrows the memory of one machine.

The steps are those of every engine. Reading the log and building the two tables stay in this process, so
that the content is the same, byte for byte.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import narwhals as nw
import polars as pl
import pyarrow as pa

from data_prep.frame_types import Frame, Step
from recsys.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


SLICE = 500_000
"""Events that are handed over at a time."""


@dataclass(frozen=True)
class SparkEngine:
    """Wherever the session computes: in local threads, or on a cluster.

    Attributes:
        session: it is used as it is, and left running.
    """

    session: SparkSession

    def take(self, events: pl.DataFrame) -> Frame:
        """Hand the events over as Arrow, in slices: a task of Spark's carries its rows in one message."""
        slices = map(self._taken, events.iter_slices(SLICE) if len(events) else [events])
        return functools.reduce(lambda frame, part: nw.concat([frame, part]), slices)

    def _taken(self, events: pl.DataFrame) -> Frame:
        table = events.to_arrow(compat_level=pl.CompatLevel.oldest())
        kinds = [pa.string() if pa.types.is_large_string(kind) else kind for kind in table.schema.types]
        plain = table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))
        return self.checkpoint(nw.from_native(self.session.createDataFrame(plain)))

    def checkpoint(self, frame: Frame) -> Frame:
        """Compute it where it is, and forget how it was made: rounds would make the plan ever longer.

        Raises:
            InputError: Spark failed, such as for want of memory.
        """
        from py4j.protocol import Py4JJavaError

        native: DataFrame = frame.to_native()
        try:
            return nw.from_native(native.localCheckpoint())
        except Py4JJavaError as error:
            raise InputError(
                f"Spark failed, and nothing was written: {error.java_exception}; its log says more, and its "
                "own settings give it more memory (spark.driver.memory, spark.executor.memory)"
            ) from error

    def by_sequence(self, step: Step, events: Frame) -> Frame:
        """Spark itself divides the sequences among its tasks."""
        return self.checkpoint(step(events))


def spark_engine() -> SparkEngine:
    """The engine of the session that is running, or else of a new one; Spark's own settings say where.

    Raises:
        InputError: PySpark is not installed, or finds no Java.
    """
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError("engine=spark needs PySpark: pip install 'recsys[spark]'") from error
    try:
        return SparkEngine(SparkSession.builder.getOrCreate())
    except PySparkRuntimeError as error:
        raise InputError(f"engine=spark needs Java 17 or newer, and Spark did not start: {error}") from error
