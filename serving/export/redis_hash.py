"""Exports to Redis: one hash, whose field is the id and whose value is JSON (`HGET recommendations user-1`).

Parts go into a hash of their own, each in one transaction with its line in a second one; writing a part twice
changes nothing. When every part of every shard is there, a script gives the hash its name, in one step.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pyarrow as pa

from recsys.config import shown_uri
from recsys.errors import InputError
from serving.export.formats import row_texts
from serving.export.sinks import Manifest, Record
from serving.export.wanted import Part, Wanted

_PUBLISH = """
local lines = redis.call('HKEYS', KEYS[2])
if #lines ~= tonumber(ARGV[4]) then return {-1} end
local stored = {}
for _, line in ipairs(lines) do
  local shard, part = string.match(line, '^(%d+)/(%d+)$')
  if part then stored[shard] = (stored[shard] or 0) + 1 end
end
if (stored[ARGV[1]] or 0) ~= tonumber(ARGV[5]) then return {-2} end
redis.call('HSET', KEYS[2], ARGV[1] .. '/finished', '{}')
local awaited = {}
for shard = 1, tonumber(ARGV[2]) do
  if redis.call('HEXISTS', KEYS[2], shard .. '/finished') == 0 then awaited[#awaited + 1] = shard end
end
if #awaited == 0 then
  redis.call('RENAME', KEYS[1], KEYS[3])
  redis.call('SET', KEYS[4], ARGV[3])
  redis.call('UNLINK', KEYS[2])
end
return awaited
"""
"""KEYS: waiting hash, its lines, hash, manifest. ARGV: shard, shards, manifest of them all, lines that it
counts, parts of this shard. Gives -1 where there are other lines, -2 where parts of this shard are gone."""
_CHANGED, _GONE = [-1], [-2]


class RedisSink:
    """One hash."""

    def __init__(self, address: str, name: str, wanted: Wanted) -> None:
        """Connect.

        Args:
            address: `redis://HOST:PORT/NUMBER`, or `rediss://` with TLS; a password may come from
                `$REDISCLI_AUTH`.
            name: of the hash.
            wanted: what goes there.

        Raises:
            InputError: the package is not installed, or the server cannot be reached.
        """
        try:
            import redis
        except ImportError as error:
            raise InputError(
                "redis:// needs the package redis; install it with the extra `recsys[redis]`"
            ) from error
        self.name = f"{shown_uri(address)} hash {name}"
        self._hash = name
        self._shard = wanted.shard
        self._waiting = self._lines = ""
        self._manifest = f"{name}:manifest"
        self._refused: type[Exception] = redis.RedisError
        try:
            password = os.environ.get("REDISCLI_AUTH")
            self._client: Any = redis.Redis.from_url(address, password=password, decode_responses=True)
            self._client.ping()
        except (redis.RedisError, ValueError) as error:
            raise self._failure(error) from error

    def begin(self, plan: str, schema: pa.Schema) -> dict[int, Record]:
        """See `Sink.begin`."""
        self._waiting, self._lines = f"{self._hash}:waiting:{plan}", f"{self._hash}:parts:{plan}"
        try:
            if self._client.exists(self._hash) and not self._client.exists(self._manifest):
                raise InputError(f"{self.name} exists and no export wrote it; name another with --table")
            lines = self._client.hgetall(self._lines)
        except self._refused as error:
            raise self._failure(error) from error
        return {part: json.loads(record) for line, record in lines.items() for part in self._ours(line)}

    def put(self, part: Part, table: pa.Table, record: Record) -> None:
        """See `Sink.put`."""
        key, *others = table.column_names
        ids = table[key].cast(pa.large_string()).to_pylist()
        values = row_texts(table, names=others).to_pylist()
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hset(self._waiting, mapping=dict(zip(ids, values, strict=True)))
                pipe.hset(self._lines, f"{self._shard.number}/{part.number}", json.dumps(record))
                pipe.execute()
        except self._refused as error:
            raise self._failure(error) from error

    def publish(self, parts: list[Part], manifest: Manifest) -> list[int]:
        """See `Sink.publish`; the last shard publishes for all, and what other plans left is removed."""
        try:
            awaited = _CHANGED
            while awaited == _CHANGED:  # another shard has stored something since its lines were read
                awaited = self._published(len(parts), manifest)
            if awaited == _GONE:
                raise InputError(
                    f"another export to {self.name} has finished meanwhile and removed what this one had "
                    "stored; what readers see is the other's: run one after the other"
                )
            if not awaited:
                self._remove_unfinished()
        except self._refused as error:
            raise self._failure(error) from error
        return [int(shard) for shard in awaited]

    def _published(self, parts: int, manifest: Manifest) -> list[int]:
        lines = self._client.hgetall(self._lines)
        records = [json.loads(text) for text in lines.values()]
        counts = {name: sum(record.get(name, 0) for record in records) for name in manifest["counts"]}
        whole = manifest | {"shard": [1, 1], "shards": self._shard.count, "counts": counts}
        keys = self._waiting, self._lines, self._hash, self._manifest
        numbers = self._shard.number, self._shard.count
        told = *numbers, json.dumps(whole), len(lines), parts
        answer: list[int] = self._client.eval(_PUBLISH, len(keys), *keys, *told)
        return answer

    def _remove_unfinished(self) -> None:
        """Of all other plans: the parts of each together with their lines, so that none seems stored."""
        name = re.sub(r"([*?\[\]\\])", r"\\\1", self._hash)
        for lines in self._client.scan_iter(f"{name}:parts:*"):
            plan = lines.removeprefix(f"{self._hash}:parts:")
            self._client.unlink(f"{self._hash}:waiting:{plan}", lines)

    def close(self) -> None:
        """See `Sink.close`."""
        self._client.close()

    def _ours(self, line: str) -> list[int]:
        shard, _, part = line.partition("/")
        return [int(part)] if int(shard) == self._shard.number and part != "finished" else []

    def _failure(self, error: Exception) -> InputError:
        return InputError(
            f"{self.name} refused ({error}); what readers see is unharmed, and the same command goes on"
        )
