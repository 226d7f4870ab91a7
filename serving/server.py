"""Run the endpoint until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading

import torch
import uvicorn

from recsys.errors import InputError
from recsys.recommender import Recommender
from serving.app import create_app
from serving.connections import connections
from serving.logs import log_to_stderr
from serving.service import Settings
from serving.watched import Watched

GRACE = 30  # seconds that requests under way are given when the server is told to stop
HEADERS_WITHIN = 10.0  # seconds; a connection that takes longer to send those of a request is closed
SPARE_CONNECTIONS = 256  # beside those whose question waits; beyond, whoever comes gets 503 at once


def serve(
    model: Recommender | Watched[Recommender],
    host: str = "127.0.0.1",
    port: int = 8000,
    log_level: str = "info",
    settings: Settings | None = None,
) -> None:
    """Answer requests until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        model: what answers; a `serving.model.Model` gives way to the next one.
        host: address to listen on.
        port: 0 takes a free one; the address is printed.
        log_level: of the log on standard error, one JSON object a line.
        settings: of the application.

    Raises:
        InputError: the address cannot be listened on, for example because the port is in use.
    """
    app = create_app(model, settings)
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    print(f"serving {_named(model)} on {address} (documentation under /docs)", flush=True)
    # After its own clean shutdown uvicorn raises the signal again; it was asked for and is no failure.
    former = None
    if threading.current_thread() is threading.main_thread():
        former = signal.signal(signal.SIGTERM, lambda *_: None)
    torch.set_num_threads(1)  # requests run side by side; each is too small to share between threads
    log_to_stderr(log_level)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        http=connections(HEADERS_WITHIN),
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=(settings or Settings()).waiting + SPARE_CONNECTIONS,
    )
    try:
        with listener, contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


def _named(model: Recommender | Watched[Recommender]) -> str:
    # Not in `serve` itself, whose variables would keep the first model in memory for as long as it runs.
    first = model if isinstance(model, Recommender) else model.value
    return f"{first.model_version} ({first.backend})"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free as soon as it is left
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(
            f"cannot listen on {host}:{port} ({error}); give another --port, or --port 0 for a free one"
        ) from error
    return listener
