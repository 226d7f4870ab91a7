"""The one place that knows how original item ids become indices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from numbers import Integral

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from recsys.errors import InputError
from recsys.schema import PAD

ItemId = int | str


class Vocabulary:
    """An immutable map between original item ids and the indices 1..V; PAD is 0 and MASK is V+1.

    Ids are all integers or all strings and come back in the type they came in.
    """

    def __init__(self, ids: pa.Array) -> None:
        """Take the ids in index order: `ids[j]` gets index j+1.

        Args:
            ids: V distinct ids, integers or strings, without nulls.

        Raises:
            InputError: an id is null or stands twice, or the ids are neither integers nor strings.
        """
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        if pa.types.is_integer(ids.type):
            ids = ids.cast(pa.int64())
        elif pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
            ids = ids.cast(pa.large_string())
        else:
            raise InputError(f"item ids are of type {ids.type}; expected integers or strings")
        if ids.null_count:
            raise InputError(f"{ids.null_count} item ids are null; drop those rows or give them an id")
        if len(pc.unique(ids)) != len(ids):
            raise InputError("an item id stands twice in the vocabulary; every item needs one id of its own")
        self.ids = ids

    def __len__(self) -> int:
        """Number of items V, without PAD and MASK."""
        return len(self.ids)

    @property
    def mask(self) -> int:
        """Index of MASK, V+1."""
        return len(self.ids) + 1

    @cached_property
    def holds_integers(self) -> bool:
        """Whether the original ids are integers (else strings)."""
        return bool(pa.types.is_integer(self.ids.type))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the id type and the ids in order: equal exactly for equal vocabularies."""
        digest = hashlib.sha256(str(self.ids.type).encode())
        for item_id in self.ids.to_pylist():
            encoded = str(item_id).encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()

    @cached_property
    def _index(self) -> dict[ItemId, int]:
        return {item_id: index for index, item_id in enumerate(self.ids.to_pylist(), start=1)}

    def index(self, item_id: object) -> int:
        """Index of one id, or PAD when it is unknown.

        A string finds an integer id in its plain spelling (what a command line or a URL carries), never the
        reverse. NumPy's integers and strings are as good as Python's.
        """
        if isinstance(item_id, str):
            return self._index.get(_plain_integer(item_id) if self.holds_integers else item_id, PAD)
        if type(item_id) is int:  # almost always, and much quicker to see than the rest
            return self._index.get(item_id, PAD)
        if isinstance(item_id, bool) or not isinstance(item_id, Integral):
            return PAD
        return self._index.get(int(item_id), PAD)

    def encode(self, ids: Iterable[object]) -> NDArray[np.int32]:
        """Indices (n,) of a few ids; PAD where an id is unknown. For columns use `encode_array`."""
        return np.fromiter((self.index(item_id) for item_id in ids), dtype=np.int32)

    def encode_array(self, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """Indices (n,) of a whole column of ids; PAD where an id is unknown.

        Raises:
            InputError: the column's type is not that of the vocabulary.
        """
        integers = pa.types.is_integer(ids.type)
        if integers != self.holds_integers and len(ids):
            expected = "integers" if self.holds_integers else "strings"
            raise InputError(f"item ids are of type {ids.type}, but this vocabulary holds {expected}")
        found = pc.index_in(ids.cast(self.ids.type), value_set=self.ids)
        indices = pc.add(pc.fill_null(found, -1), 1)
        return np.asarray(indices, dtype=np.int32)

    def encode_texts(self, ids: pa.Array) -> NDArray[np.int32]:
        """Indices (n,) of a whole column of ids as text, each found as `index` finds it."""
        found = pc.index_in(ids, value_set=self.ids.cast(pa.large_string()))
        return np.asarray(pc.add(pc.fill_null(found, -1), 1), dtype=np.int32)

    def decode(self, indices: ArrayLike) -> list[ItemId]:
        """Original ids of item indices (n,) in 1..V."""
        return list(self.take(indices).to_pylist())

    def take(self, indices: ArrayLike) -> pa.Array:
        """Original ids of item indices (n,) in 1..V, as an Arrow array.

        Raises:
            IndexError: an index is not in 1..V.
        """
        rows = np.asarray(indices, dtype=np.int64) - 1
        if rows.size and (rows.min() < 0 or rows.max() >= len(self.ids)):
            raise IndexError(f"item indices must be in 1..{len(self.ids)}")
        return self.ids.take(pa.array(rows))


def _plain_integer(text: str) -> ItemId:
    """The integer that a text spells plainly, else the text: not `007`, `1_0` or other scripts' digits."""
    try:
        number = int(text)
    except ValueError:
        return text
    return number if str(number) == text else text


def vocabulary_of(ids: Sequence[ItemId]) -> Vocabulary:
    """Vocabulary of a plain sequence of ids, in its order."""
    return Vocabulary(pa.array(ids))
