"""Request bodies that something happened to."""

from __future__ import annotations

import json
import random

GOOD = json.dumps(
    {"history": ["i1", "i2"], "k": 3, "where": {}, "deny": ["i3"], "exclude_seen": True}
).encode()


def spoilt(body: bytes, rng: random.Random) -> bytes:
    """A body with a few bytes changed, dropped or doubled."""
    content = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content))
        how = rng.randrange(4)
        if how == 0:
            content[place] = rng.randrange(256)
        elif how == 1:
            del content[place : place + rng.randint(1, 9)]
        elif how == 2:
            content[place:place] = content[place : place + rng.randint(1, 9)]
        else:
            content[place:place] = rng.choice(
                [b"null", b"1e999", b"{", b"[", b'"', b"\\ud800", b"-", b"\x00"]
            )
        content = content or bytearray(b"x")
    return bytes(content)
