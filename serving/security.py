"""API keys: random ones, of which the endpoint knows hashes alone."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from recsys.errors import InputError

_LINE = re.compile(r"(?P<name>[\w.-]{1,64}):(?P<hash>[0-9a-f]{64})")


def new_key(name: str) -> tuple[str, str]:
    """A key of 256 random bits, and the line `name:hash` for the file of keys.

    Raises:
        InputError: the name has other characters than letters, digits, `.`, `_` and `-`.
    """
    key = secrets.token_urlsafe(32)
    line = f"{name}:{_hash(key)}"
    if not _LINE.fullmatch(line):
        raise InputError(f"the key's name is `{name}`; expected up to 64 letters, digits, `.`, `_` or `-`")
    return key, line


class ApiKeys:
    """Hashes of the keys that open the endpoint, with their names.

    SHA-256 without salt is enough, since the keys are not words of people but 256 random bits.
    """

    def __init__(self, hashes: dict[str, str]) -> None:
        """Take hashes by name."""
        self._hashes = hashes

    @classmethod
    def read(cls, file: Path) -> ApiKeys:
        """Read lines `name:hash`; empty ones and those that start with # do not count.

        Raises:
            InputError: it cannot be read, has no key, or a line is something else or names a key again.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read ({error}); give a file of keys") from error
        hashes: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None or found["name"] in hashes:
                raise InputError(
                    f"line {number} of {file} is no new `name:hash`; `recsys api-key NAME` prints such a line"
                )
            hashes[found["name"]] = found["hash"]
        if not hashes:
            raise InputError(f"{file} has no key, so nobody could ask; add a line of `recsys api-key NAME`")
        return cls(hashes)

    def name_of(self, authorization: str) -> str | None:
        """The name of the key in an `Authorization: Bearer KEY` header, or None where it is none of ours.

        Takes as long for a wrong key as for a right one.
        """
        scheme, _, key = authorization.partition(" ")
        given, found = _hash(key.strip()), None
        for name, expected in self._hashes.items():
            if hmac.compare_digest(given, expected):
                found = name
        return found if scheme.lower() == "bearer" else None


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
