"""Malformed bodies against a running endpoint: what it answers, and whether it lives on.

    python -m tests.benchmarks.serving_malformed BUNDLE [--bodies 100000] [--clients 16]

Each body is a good request with a few bytes changed, dropped, doubled or put in (`tests.spoilt`), and is kept
only if it is no JSON any more, or JSON that the schema of the request refuses: the endpoint shall answer
each with a 4xx. At the end it is asked something good.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from serving.schemas import RecommendRequest
from tests.benchmarks.serving_load import ask_for, request, server
from tests.spoilt import GOOD, spoilt


def main() -> None:
    """Print how often each status came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--bodies", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=16)
    asked = parser.parse_args()
    rng = random.Random(0)
    statuses: Counter[int] = Counter()
    left = asked.bodies
    with server(str(asked.bundle)) as (address, process):
        host, port = urlsplit(address).hostname, urlsplit(address).port

        async def client() -> None:
            nonlocal left
            reader, writer = await asyncio.open_connection(host, port)
            while left > 0:
                left -= 1
                writer.write(request(malformed(rng)))
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                statuses[int(head.split()[1])] += 1
            writer.close()

        async def everybody() -> None:
            await asyncio.gather(*(client() for _ in range(asked.clients)))

        started = time.perf_counter()
        asyncio.run(everybody())
        took = time.perf_counter() - started
        alive = process.poll() is None
        _, _, failed = ask_for(0.1, 1, address, [json.loads(GOOD)])
    told = dict(sorted(statuses.items()))
    print(f"{statuses.total():,} malformed bodies in {took:.0f} s; answers by status: {told}")
    print(f"process alive: {alive}; good requests that failed then: {failed}")


def malformed(rng: random.Random) -> bytes:
    """A body that is no request."""
    while True:
        body = spoilt(GOOD, rng)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return body
        try:
            RecommendRequest.model_validate(content)
        except ValidationError:
            return body


if __name__ == "__main__":
    main()
