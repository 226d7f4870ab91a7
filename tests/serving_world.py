"""A real server in a process of its own: helper of the tests that swap, stop and break things."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


class Server:
    """Its process, a client, and what it wrote on standard error."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log
        self.client = httpx.Client(base_url=address, timeout=30)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self.address.removeprefix("http://").split(":")
        return host, int(port)

    def ask(self, **body: object) -> httpx.Response:
        return self.client.post("/v1/recommend", json=body)

    def version(self) -> str:
        return str(self.client.get("/healthz").json()["model_version"])

    def problems(self) -> dict[str, str]:
        return dict(self.client.get("/readyz").json()["problems"])

    def metrics(self) -> str:
        return self.client.get("/metrics").text


@contextmanager
def serving(folder: Path, bundle: str, *options: str) -> Iterator[Server]:
    """`recsys serve BUNDLE`, which looks for changes every tenth of a second."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "recsys", "serve", bundle, "--port", "0", "--watch-seconds", "0.1"]
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert " on http" in line, log.read_text()
        server = Server(process, line.split(" on ")[1].split()[0], log)
        with server.client:
            yield server
    finally:
        process.kill()
        process.wait(timeout=20)
        process.stdout.close()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)
