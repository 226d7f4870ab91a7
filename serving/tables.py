"""Tables that stand beside the bundle and change without it: which items can be had, and stored histories.

Shapes: `V` items of a model, `R` rows of a table.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.vocabulary import ItemId, Vocabulary

ITEM, AVAILABLE, REGION, STARTS, EXPIRES = "item", "available", "region", "starts", "expires"
SEQUENCE, ITEMS = "sequence", "items"
EVERYWHERE, ANYWHERE, NOWHERE = -1, -2, -3  # beside the codes of regions: of a row, and of a question
KEPT_MASKS = 64  # each of V bytes, until something starts or expires
KEPT_ROWS = 4  # vocabularies: of the model and of the playlists, and of those that take over from them

_LOG = logging.getLogger("recsys.serving")


class Availability:
    """Which items can be had now, and where.

    Each row says of an item that it can be had (`available`, default yes) in a region (`region`, default all)
    from `starts` to before `expires` (default always). An item of several rows can be had where and when
    one of them says so; an item of no row always can. A question without a region gets what any region has.
    """

    def __init__(self, table: pa.Table, where: str) -> None:
        """Take the table.

        Args:
            table: column `item`, and any of `available`, `region`, `starts` and `expires`.
            where: for messages.

        Raises:
            InputError: a column is missing, unknown, or of the wrong type.
        """
        known = (ITEM, AVAILABLE, REGION, STARTS, EXPIRES)
        if ITEM not in table.column_names or not set(table.column_names) <= set(known):
            raise InputError(
                f"{where} has columns {', '.join(table.column_names)}; expected `item` and any of "
                f"{', '.join(known[1:])}"
            )
        self._where = where
        self.items = _cast(table, ITEM, pa.large_string(), where)
        there = _cast(table, AVAILABLE, pa.bool_(), where).fill_null(True)
        regions = _cast(table, REGION, pa.large_string(), where).dictionary_encode()
        self._regions = np.asarray(regions.indices.fill_null(EVERYWHERE), dtype=np.int64)
        self._codes = {name: code for code, name in enumerate(regions.dictionary.to_pylist())}
        starts, expires = (_seconds(table, name, where) for name in (STARTS, EXPIRES))
        self._starts = np.nan_to_num(starts, nan=-np.inf)
        self._expires = np.where(np.asarray(there), np.nan_to_num(expires, nan=np.inf), -np.inf)
        self._rows: dict[str, NDArray[np.int32]] = {}
        self._masks: dict[tuple[str, int], tuple[float, NDArray[np.bool_]]] = {}

    @classmethod
    def read(cls, file: Path) -> Availability:
        """Read a `.parquet` or `.csv` file.

        Raises:
            InputError: it cannot be read, or is no such table.
        """
        return cls(read_table(file, texts=(ITEM, REGION)), str(file))

    @property
    def has_regions(self) -> bool:
        """Whether some row is of one region."""
        return bool(self._codes)

    def mask(self, vocabulary: Vocabulary, region: str | None, now: float | None = None) -> NDArray[np.bool_]:
        """(V,) items of a model that can be had.

        Args:
            vocabulary: of the model.
            region: where; None for anywhere.
            now: seconds since 1970, UTC; default: the present.
        """
        now = time.time() if now is None else now
        code = ANYWHERE if region is None else self._codes.get(region, NOWHERE)
        until, mask = self._masks.get((vocabulary.hash, code), (-np.inf, None))
        if mask is None or now >= until:
            rows = self._rows_in(vocabulary)
            fits = (self._starts <= now) & (now < self._expires)
            if code != ANYWHERE:
                fits &= (self._regions == EVERYWHERE) | (self._regions == code)
            whole = np.ones(len(vocabulary) + 1, dtype=bool)  # row 0 is of unknown items
            whole[rows] = False
            whole[rows[fits]] = True
            mask = whole[1:]
            times = np.concatenate([self._starts, self._expires])
            until = float(times[times > now].min(initial=np.inf))
            if len(self._masks) >= KEPT_MASKS:
                self._masks.clear()
            self._masks[vocabulary.hash, code] = until, mask
        return mask

    def _rows_in(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """(R,) item indices, 0 where a model does not know the item; looked up once for each vocabulary."""
        rows = self._rows.get(vocabulary.hash)
        if rows is None:
            rows = vocabulary.encode_texts(self.items)
            unknown = int((rows == 0).sum())
            if unknown:
                extra = {"event": "unknown_items", "what": "availability"}
                told = f"{unknown:,} of {len(rows):,} rows of {self._where} are of items unknown to the model"
                _LOG.warning(told, extra=extra)
            if len(self._rows) >= KEPT_ROWS:
                self._rows.clear()
            self._rows[vocabulary.hash] = rows
        return rows


class Histories:
    """The stored history of each user (or playlist)."""

    def __init__(self, ids: pa.Array, items: pa.ListArray, where: str) -> None:
        """Take ids and, for each, original item ids, oldest first.

        Raises:
            InputError: an id is null or stands twice, or is neither integer nor string.
        """
        if isinstance(items, pa.ChunkedArray):
            items = items.combine_chunks()
        try:
            self._users = Vocabulary(ids)
        except InputError as error:
            raise InputError(f"the ids of {where} do not name one history each ({error})") from error
        self._users.index(0)  # makes its look-up now, not in the first request
        self._items = items

    @classmethod
    def read(cls, path: Path) -> Histories:
        """Read a Parquet file with columns `sequence` and `items` (lists of item ids), or prepared data.

        Raises:
            InputError: it cannot be read, or is no such table.
        """
        if path.is_dir():
            data = PreparedData.load(path)
            # Numbers into the ids: four bytes an event, whatever the ids are.
            flat = pa.DictionaryArray.from_arrays(pa.array(data.sequences.values - 1), data.vocabulary.ids)
            offsets = pa.array(data.sequences.offsets)
            return cls(data.ids, pa.LargeListArray.from_arrays(offsets, flat), str(path))
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read as Parquet ({error}); write it anew") from error
        kind = table.schema.field(ITEMS).type if {SEQUENCE, ITEMS} <= set(table.column_names) else pa.null()
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise InputError(
                f"{path} has columns {', '.join(table.column_names)}; expected `{SEQUENCE}` and `{ITEMS}` "
                "(lists of item ids, oldest first), or the folder of prepared data"
            )
        return cls(table[SEQUENCE], table[ITEMS], str(path))

    def __len__(self) -> int:
        return len(self._users)

    def of(self, user: ItemId) -> list[ItemId] | None:
        """The history of a user; None where there is none stored."""
        row = self._users.index(user)
        return (self._items[row - 1].as_py() or []) if row else None


def read_table(file: Path, texts: Collection[str] | None = None) -> pa.Table:
    """A `.parquet` file, or a `.csv` with a header, in which nothing stands for no value.

    Args:
        file: the table.
        texts: columns of a CSV that are text whatever they look like, for `007` is no number; None: all.

    Raises:
        InputError: it cannot be read.
    """
    if file.suffix not in (".csv", ".parquet"):
        raise InputError(f"{file} shall hold ids; expected a .csv with a header, or .parquet")
    try:
        if file.suffix == ".parquet":
            return pq.read_table(file)
        with pa.csv.open_csv(file) as peeked:
            names = peeked.schema.names
        as_text = {name: pa.large_string() for name in names if texts is None or name in texts}
        options = pa.csv.ConvertOptions(column_types=as_text, null_values=[""], strings_can_be_null=True)
        return pa.csv.read_csv(file, convert_options=options)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read as {file.suffix[1:]} ({error}); write it anew") from error


def _cast(table: pa.Table, name: str, kind: pa.DataType, where: str) -> pa.Array:
    """A column in a type, nulls where the table lacks it."""
    if name not in table.column_names:
        return pa.nulls(len(table), kind)
    try:
        return table[name].cast(kind).combine_chunks()
    except pa.ArrowException as error:
        raise InputError(
            f"column `{name}` of {where} is of type {table[name].type} ({error}); expected {kind}"
        ) from error


def _seconds(table: pa.Table, name: str, where: str) -> NDArray[np.float64]:
    """(R,) seconds since 1970, NaN where there is none; times without a zone are UTC."""
    if name in table.column_names and pa.types.is_string(table[name].type):
        with contextlib.suppress(pa.ArrowException):  # text with a zone is cast below
            column = table[name].cast(pa.timestamp("us"))
            table = table.set_column(table.column_names.index(name), name, column)
    micros = _cast(table, name, pa.timestamp("us", "UTC"), where)
    return np.asarray(pc.divide(micros.cast(pa.int64()).cast(pa.float64()), 1e6), dtype=np.float64)
