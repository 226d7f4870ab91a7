"""What Prometheus reads of one application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.watched import Watched

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """Counters and histograms, apart from those of any other application in the process."""

    def __init__(self, watched: Iterable[Watched[Any]]) -> None:
        """Start at zero.

        Args:
            watched: whose state is told when it is asked for; the one named `model` is the model.
        """
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "recsys_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "recsys_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "recsys_stage_seconds",
            "Time of a batch in each stage: queue (of its oldest question), filter, encode, search, score, "
            "beam.",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._sizes = Histogram(
            "recsys_batch_questions",
            "Questions answered together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self._registry,
        )
        self.items = Gauge("recsys_items", "Items that can be recommended.", registry=self._registry)
        self._registry.register(_State(list(watched)))

    def stage(self, name: str, seconds: float) -> None:
        """Note how long a stage took."""
        self._stages.labels(name).observe(seconds)

    def batch(self, size: int, waited: float) -> None:
        """Note the size of a batch and how many seconds its oldest question waited."""
        self._sizes.observe(size)
        self.stage("queue", waited)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _State:
    """The state of watched values, looked up when Prometheus asks."""

    def __init__(self, watched: list[Watched[Any]]) -> None:
        self._watched = watched

    def collect(self) -> Iterable[Metric]:
        """One metric after the other."""
        changes = CounterMetricFamily("recsys_changes", "Times that a new one took over.", labels=["what"])
        refusals = CounterMetricFamily(
            "recsys_refusals", "Times that a new one was refused.", labels=["what"]
        )
        problem = GaugeMetricFamily("recsys_problem", "1: the newest is not in force.", labels=["what"])
        for each in self._watched:
            changes.add_metric([each.name], each.changes)
            refusals.add_metric([each.name], each.refusals)
            problem.add_metric([each.name], float(each.problem is not None))
        version = GaugeMetricFamily("recsys_model", "1: the version that answers.", labels=["version"])
        for each in self._watched:
            if each.name == "model":
                version.add_metric([each.value.model_version], 1)
        yield from (changes, refusals, problem, version)
