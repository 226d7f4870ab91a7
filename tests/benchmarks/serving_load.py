"""A server in a process of its own, and clients that ask it without a pause; the serving scripts share it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

Check = Callable[[dict[str, object]], bool]


@contextmanager
def server(bundle: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process of `recsys serve`."""
    command = [sys.executable, "-m", "recsys", "serve", bundle, "--port", "0", "--log-level", "warning"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if " on http" not in line:
            raise SystemExit("the server did not start")
        yield line.split(" on ")[1].split()[0], process
    finally:
        process.terminate()
        process.wait(timeout=60)


def ask_for(
    seconds: float,
    clients: int,
    address: str,
    bodies: Sequence[dict[str, object]],
    check: Check | None = None,
    pause: float = 0.0,
) -> tuple[list[float], float, int]:
    """Let clients ask for a while, each its next question when the last is answered.

    Args:
        seconds: how long.
        clients: connections, each kept open.
        address: of the server.
        bodies: of POST /v1/recommend, in turn.
        check: whether an answer is right; default: its status is 200.
        pause: seconds that a client waits after each answer.

    Returns:
        Seconds of each answer, how long it took in all, and how many failed.
    """
    host, port = urlsplit(address).hostname, urlsplit(address).port
    requests = [request(json.dumps(body).encode()) for body in bodies]
    times: list[float] = []
    failed = 0
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(host, port)
        turn = number
        while time.perf_counter() < until:
            start = time.perf_counter()
            writer.write(requests[turn % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            times.append(time.perf_counter() - start)
            good = head.startswith(b"HTTP/1.1 200") and (check is None or check(json.loads(body)))
            if not good:
                failed += 1
                status = head.partition(b"\r")[0].decode()
                print(f"failed after {times[-1]:.1f} s: {status} {body[:300]!r}", flush=True)
            turn += clients
            if pause:
                await asyncio.sleep(pause)
        writer.close()

    async def everybody() -> None:
        await asyncio.gather(*(client(number) for number in range(clients)))

    started = time.perf_counter()
    asyncio.run(everybody())
    return times, time.perf_counter() - started, failed


def request(body: bytes) -> bytes:
    """POST /v1/recommend with this body."""
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body
