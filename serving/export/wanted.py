"""What an export is of: kind, filters, selection, shard, and the parts that its rows are worked off in.

Shapes: `R` rows of the data (sequences, or items), `N` rows that are exported.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.answers import Filters
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.recommender import Recommender
from serving.tables import read_table

What = Literal["recommendations", "similar-items", "sequence-vectors", "item-vectors"]
OF_ITEMS = ("similar-items", "item-vectors")
LISTS = ("recommendations", "similar-items")
NAMED = 5  # unknown ids that a message names


@dataclass(frozen=True)
class Shard:
    """One of `count` exports that together are the whole, from 1; each id belongs to exactly one."""

    number: int = 1
    count: int = 1

    @classmethod
    def read(cls, text: str) -> Shard:
        """The shard that `i/n` names.

        Raises:
            InputError: it is no such text, or i is not from 1 to n.
        """
        parts = text.split("/")
        numbers = [int(part) for part in parts if part.isdecimal() and part.isascii()]
        if len(parts) != 2 or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
            raise InputError(f"shard is `{text}`; expected i/n with i from 1 to n, such as 2/4")
        return cls(*numbers)


@dataclass(frozen=True)
class Wanted:
    """What to export.

    Attributes:
        what: lists for sequences or for items, or vectors of either.
        k: length of the lists.
        filters: what the lists may hold, as for the endpoint.
        only: file of the ids to export (CSV or Parquet); default: all.
        since: only sequences with an event at or after it.
        shard: this machine's share.
        partitions: files of a folder that the ids are spread over by their hash; None for one file.
    """

    what: What = "recommendations"
    k: int = 100
    filters: Filters = field(default_factory=Filters)
    only: Path | None = None
    since: datetime | None = None
    shard: Shard = field(default_factory=Shard)
    partitions: int | None = None

    @property
    def key(self) -> str:
        """Name of the column of ids."""
        return "item" if self.what in OF_ITEMS else "sequence"

    @property
    def has_lists(self) -> bool:
        """Whether it is of lists, which k and filters are about; else of vectors."""
        return self.what in LISTS


@dataclass(frozen=True)
class Part:
    """Rows of the data that are worked off together; all of one partition.

    Attributes:
        number: from 0.
        partition: from 0.
        rows: (n,) rows of the data.
    """

    number: int
    partition: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """The rows of an export.

    Attributes:
        rows: (N,) rows of the data in this shard.
        ids: (R,) ids of all rows of the data.
        unknown: ids of the file that the data does not have.
        digest: of all chosen rows, whatever the shard.
    """

    rows: NDArray[np.int64]
    ids: pa.Array
    unknown: list[str]
    digest: str

    def parts(self, block: int, partitions: int) -> list[Part]:
        """The rows cut into parts of at most `block` rows, each of one partition."""
        if partitions == 1:
            homes = np.zeros(len(self.rows), dtype=np.int64)
        else:
            homes = id_hash(self.ids.take(pa.array(self.rows))) % partitions
        cut: list[tuple[int, NDArray[np.int64]]] = []
        for partition in range(partitions):
            rows = self.rows[homes == partition]
            cut += [(partition, rows[start : start + block]) for start in range(0, len(rows), block)]
        return [Part(number, *each) for number, each in enumerate(cut)]


def select(wanted: Wanted, data: PreparedData) -> Selection:
    """Find the rows to export.

    Raises:
        InputError: the file of ids cannot be read or names none of the data, there are no times to go by, or
            nothing is left.
    """
    of_items = wanted.what in OF_ITEMS
    ids = data.vocabulary.ids if of_items else data.ids
    chosen, unknown = np.arange(len(ids)), list[str]()
    if wanted.only is not None:
        chosen, unknown = _only(wanted.only, ids, wanted.key, data.path)
    if wanted.since is not None:
        if of_items:
            raise InputError(
                f"--since is about events of sequences, but {wanted.what} are asked for; leave it"
            )
        chosen = chosen[_since(data, wanted.since)[chosen]]
    if not len(chosen):
        raise InputError(
            f"no {wanted.key} of {data.path} is left to export"
            + (f": none has an event since {wanted.since}; name an earlier date" if wanted.since else "")
        )
    digest = hashlib.sha256(np.ascontiguousarray(chosen, dtype="<i8").tobytes()).hexdigest()
    if wanted.shard.count > 1:
        homes = id_hash(ids.take(pa.array(chosen))) // 2**16 % wanted.shard.count
        chosen = chosen[homes == wanted.shard.number - 1]
    return Selection(chosen, ids, unknown, digest)


def id_hash(ids: pa.Array) -> NDArray[np.int64]:
    """(n,) CRC-32 of each id as UTF-8 text: the same on every machine, and easy to compute anywhere."""
    texts = ids.cast(pa.large_string()).to_pylist()
    return np.fromiter((zlib.crc32(text.encode()) for text in texts), dtype=np.int64, count=len(texts))


def identity(
    wanted: Wanted, recommender: Recommender, data: PreparedData, selection: Selection, block: int
) -> str:
    """Equal for exports whose parts are the same: what is unfinished may be gone on with."""
    filters = wanted.filters
    lists = {
        "k": wanted.k,
        "exclude_seen": filters.exclude_seen,
        "max_per": dict(filters.max_per),
        "min_score": filters.min_score,
        "available": None if filters.available is None else _digest(filters.available),
        "backend": recommender.backend,
    }
    stated = {
        "what": wanted.what,
        "model_version": recommender.model_version,
        "data": data.digest,
        "rows": selection.digest,
        "shards": wanted.shard.count,
        "partitions": wanted.partitions,
        "block": block,
        "lists": lists if wanted.has_lists else None,
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]


def read_ids(file: Path, key: str) -> pa.Array:
    """The ids of a file as texts: its column of that name, or its only one.

    Raises:
        InputError: it cannot be read, or has several columns and none of that name.
    """
    table = read_table(file)
    names = table.column_names
    if key not in names and len(names) != 1:
        raise InputError(f"{file} has columns {', '.join(names)}; expected `{key}`, or a single column")
    column = table[key if key in names else names[0]].combine_chunks()
    return column.cast(pa.large_string()).drop_null()


def day(text: str) -> datetime:
    """A date, or a time, in UTC where it names no zone.

    Raises:
        InputError: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(
            f"`{text}` is no date; expected one such as 2026-03-31 or 2026-03-31T18:00"
        ) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _digest(mask: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()


def _since(data: PreparedData, moment: datetime) -> NDArray[np.bool_]:
    """(R,) sequences whose last event is not before a moment."""
    if data.times is None:
        raise InputError(f"--since needs the times of events, which {data.path} does not have; leave it")
    found = np.zeros(len(data.sequences), dtype=bool)
    filled = np.flatnonzero(data.sequences.lengths)
    last = data.times[data.sequences.offsets[filled + 1] - 1]
    found[filled] = last >= int(moment.timestamp() * 1e6)
    return found


def _only(file: Path, ids: pa.Array, key: str, data: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Rows of the ids of a file, each once and in the order of the data, and the ids that are unknown."""
    texts = read_ids(file, key).unique()
    known = ids.cast(pa.large_string())
    unknown = texts.filter(pc.invert(pc.is_in(texts, value_set=known))).to_pylist()
    rows = np.flatnonzero(np.asarray(pc.is_in(known, value_set=texts)))
    if not len(rows):
        first = ", ".join(unknown[:NAMED])
        raise InputError(f"none of the {len(texts):,} ids of {file} is a {key} of {data} (such as {first})")
    return rows, unknown


def known_what(word: str) -> What:
    """The kind of that name.

    Raises:
        InputError: there is none.
    """
    if word not in get_args(What):
        raise InputError(f"`{word}` cannot be exported; known: {', '.join(get_args(What))}")
    return word  # type: ignore[return-value]
