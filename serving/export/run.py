"""The work of an export: part by part, from where a former attempt stopped, and shown when it is whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.answering import check_question
from recsys.answers import Filters
from recsys.bundle import check_vocabulary
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.recommender import Recommender
from serving.export.files import KIND
from serving.export.sinks import Manifest, Sink, sink_of
from serving.export.tables import GENERATED_AT, Counts, Maker
from serving.export.wanted import Selection, Wanted, identity, select

FORMAT_VERSION = 1
BLOCK = 4096
COUNTED = ("rows", "answers", "short", "fallback")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        where: the file, folder, or address without its password.
        rows: sequences (or items) of this shard.
        resumed: those of them that a former attempt had stored.
        answers: entries of all lists.
        short: rows whose list has fewer than k.
        fallback: sequences without an event: recent popularity answered them, or they have no vector.
        unknown: ids asked for that the data does not have.
        awaited: shards that are to come before readers see the whole.
        seconds: how long it took.
        model_version: of the bundle.
        backend: what searched.
        trained_on_this: whether the data is, to the byte, what the bundle was trained on.
    """

    where: str
    rows: int
    resumed: int
    answers: int
    short: int
    fallback: int
    unknown: list[str]
    awaited: list[int]
    seconds: float
    model_version: str
    backend: str
    trained_on_this: bool


def export(
    recommender: Recommender,
    data: PreparedData,
    out: Path | str,
    wanted: Wanted | None = None,
    *,
    table: str | None = None,
    block: int = BLOCK,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ExportReport:
    """Export lists or vectors; readers see the whole or what was there before, never a part.

    Killed and called again with the same arguments, it goes on after the last part that was stored. The
    vocabularies must be equal, for indices would mean other items. The content may differ from what the
    bundle was trained on, since new events of known items are what one exports for; the report says so.

    Args:
        recommender: what answers, in the same way as online.
        data: the sequences, each read to its end.
        out: see `serving.export.sinks.sink_of`.
        wanted: what to export; default: recommendations for every sequence.
        table: name of the SQL table or the Redis hash.
        block: rows that are answered and stored together.
        progress: is called with (done, all) at the start and after each part.

    Raises:
        InputError: the vocabularies differ, `wanted` does not fit the data or the model, or the place cannot
            be written.
    """
    started = time.monotonic()
    wanted = wanted if wanted is not None else Wanted()
    check_vocabulary(recommender.vocabulary, data, where=str(recommender.bundle.folder))
    check_question(wanted.k, wanted.filters)
    if block < 1:
        raise InputError(f"block is {block}; expected at least 1")
    asked, wanted = wanted.filters, replace(wanted, filters=narrowed(wanted.filters, recommender))
    selection = select(wanted, data)
    plan = identity(wanted, recommender, data, selection, block)
    with closing(sink_of(str(out), wanted, table)) as sink:
        try:
            done = _Run(recommender, data, wanted, asked, selection, plan, sink).all(block, progress)
        except OSError as error:
            raise InputError(
                f"cannot write {sink.name} ({error.strerror or error}); what stood there is unharmed, and "
                "the same command goes on where this one stopped"
            ) from error
    return ExportReport(
        where=sink.name,
        unknown=selection.unknown,
        seconds=time.monotonic() - started,
        model_version=recommender.model_version,
        backend=recommender.backend,
        trained_on_this=data.digest == recommender.bundle.manifest["data"]["content_digest"],
        **done,
    )


def narrowed(filters: Filters, recommender: Recommender) -> Filters:
    """The same filters, with the items that may come found once for all rows.

    Raises:
        InputError: a filter is wrong.
    """
    allowed = recommender.catalogue.allowed_by(filters)
    return replace(filters, allow=None, deny=(), where={}, available=allowed)


@dataclass(frozen=True)
class _Run:
    """What `export` has checked."""

    recommender: Recommender
    data: PreparedData
    wanted: Wanted
    asked: Filters
    selection: Selection
    plan: str
    sink: Sink

    def all(self, block: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Store what is missing and publish; gives the counts of the report."""
        now = datetime.now(UTC)
        parts = self.selection.parts(block, self.wanted.partitions or 1)
        maker = Maker(self.wanted, self.recommender, self.data, self.selection.ids)
        stored = self.sink.begin(self.plan, maker.schema)
        stored = {part.number: stored[part.number] for part in parts if part.number in stored}
        moment = min(
            [datetime.fromisoformat(record[GENERATED_AT]) for record in stored.values()], default=now
        )
        resumed = finished = sum(record["rows"] for record in stored.values())
        progress(finished, len(self.selection.rows))
        for part in parts:
            if part.number in stored:
                continue
            table, counts = maker.make(part.rows, moment)
            record = {**counts, GENERATED_AT: moment.isoformat()}
            self.sink.put(part, table, record)
            stored[part.number] = record
            finished += len(part.rows)
            progress(finished, len(self.selection.rows))
        total = {name: sum(record[name] for record in stored.values()) for name in COUNTED}
        awaited = self.sink.publish(parts, self._manifest(total, moment))
        return {**total, "resumed": resumed, "awaited": awaited}

    def _manifest(self, total: Counts, moment: datetime) -> Manifest:
        wanted, bundle = self.wanted, self.recommender.bundle
        lists = {
            "k": wanted.k,
            "backend": self.recommender.backend,
            "exclude_seen": wanted.filters.exclude_seen,
            "where": dict(self.asked.where),
            "allow": None if self.asked.allow is None else len(set(self.asked.allow)),
            "deny": len(set(self.asked.deny)),
            "allowed_items": _count(wanted.filters.available, len(self.recommender.vocabulary)),
            "max_per": dict(wanted.filters.max_per),
            "min_score": wanted.filters.min_score,
        }
        return {
            "format_version": FORMAT_VERSION,
            "kind": KIND,
            "what": wanted.what,
            "model": bundle.config.model.name,
            "model_version": self.recommender.model_version,
            "data": {"name": bundle.config.name, "content_digest": self.data.digest},
            "plan": self.plan,
            **(lists if wanted.has_lists else {}),
            "since": None if wanted.since is None else wanted.since.isoformat(),
            "shard": [wanted.shard.number, wanted.shard.count],
            "unknown_ids": len(self.selection.unknown),
            "counts": total,
            GENERATED_AT: moment.isoformat(),
        }


def _count(allowed: NDArray[np.bool_] | None, everything: int) -> int:
    return everything if allowed is None else int(allowed.sum())
