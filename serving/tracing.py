"""OpenTelemetry spans where its API is installed, and nothing where it is not.

Spans go nowhere unless the process has an OpenTelemetry SDK set up, for example by
`opentelemetry-instrument recsys serve ...`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Note = Callable[[str, Any], None]
"""Adds an attribute to the span."""

Span = Callable[[str, Mapping[str, str]], Any]
"""(name, headers of the request) -> context manager that gives a `Note`."""


@contextmanager
def _nothing(name: str, headers: Mapping[str, str]) -> Iterator[Note]:
    yield lambda key, value: None


def spans() -> Span:
    """What opens the span of a request, as the child of the one that its headers name."""
    if importlib.util.find_spec("opentelemetry") is None:
        return _nothing
    from opentelemetry import propagate, trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody has set one up
        return _nothing
    tracer = trace.get_tracer("recsys.serving")

    @contextmanager
    def opened(name: str, headers: Mapping[str, str]) -> Iterator[Note]:
        caller = propagate.extract(dict(headers))
        with tracer.start_as_current_span(name, context=caller, kind=trace.SpanKind.SERVER) as span:
            yield span.set_attribute

    return opened
