"""Connections that do not wait for ever: who opens one must send the headers of a request in time."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def connections(headers_within: float) -> type[HttpToolsProtocol]:
    """Uvicorn's HTTP connections, closed when headers take longer than so many seconds.

    The time runs from the opening of a connection and, for its later requests, from their first byte; uvicorn
    itself limits only the silence between two requests.
    """

    class Connection(HttpToolsProtocol):
        """One connection; `_timer` runs while headers are awaited."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """It is open."""
            super().connection_made(transport)
            self._await_headers()

        def data_received(self, data: bytes) -> None:
            """Some bytes came, of headers unless a request is under way."""
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._await_headers()
            super().data_received(data)

        def on_headers_complete(self) -> None:
            """They are here."""
            self._done()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            """It is closed."""
            self._done()
            super().connection_lost(exc)

        def _await_headers(self) -> None:
            self._timer = self.loop.call_later(headers_within, self.transport.close)

        def _done(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

    return Connection
