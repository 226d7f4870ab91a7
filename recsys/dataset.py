"""A prepared data set, read back: vocabulary, sequences and the marks of its split.

Shapes: `S` sequences, `E` events in all, `V` items, `T` sequences that have a target.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys import schema
from recsys.errors import InputError
from recsys.sequences import Ragged
from recsys.vocabulary import Vocabulary

Split = Literal["valid", "test"]
Part = Literal["training", "training+validation", "all"]
"""Events that a model may be fitted to."""


def split_named(word: str) -> Split:
    """The split of that name.

    Raises:
        InputError: there is none.
    """
    if word not in get_args(Split):
        raise InputError(f"split `{word}` is unknown; known: {', '.join(get_args(Split))}")
    return cast(Split, word)


@dataclass(frozen=True)
class Targets:
    """What a split asks: after this history, which item came next?

    Attributes:
        rows: (T,) the sequences that have a target in this split.
        histories: T ragged rows, everything before the target.
        items: (T,) int32, the next item.
        removes_seen: whether training leaves the items of the history out of the ranking. It keeps them where
            targets are of some types of events only: what one looked at is what one buys.
    """

    rows: NDArray[np.int64]
    histories: Ragged
    items: NDArray[np.int32]
    removes_seen: bool = True

    def repeated(self) -> NDArray[np.bool_]:
        """(T,) whether the target is in its own history, and so a miss where seen items are removed."""
        found = np.zeros(len(self.items), dtype=bool)
        again = self.histories.values == np.repeat(self.items, self.histories.lengths)
        found[self.histories.rows[again]] = True
        return found


@dataclass(frozen=True)
class PreparedData:
    """A prepared data set in memory; the columns are those of `recsys.schema`.

    Attributes:
        path: the folder it was read from.
        manifest: the content of manifest.json.
        vocabulary: the V items.
        items: items.parquet, row j is item index j+1.
        ids: (S,) original sequence ids.
        sequences: S ragged rows of item indices.
        times: (E,) int64 microseconds since 1970 UTC, aligned with `sequences.values`, or None.
        train_end: (S,) int32, events before it are training.
        valid_start: (S,) int32, where the validation targets begin.
        test_start: (S,) int32, where the test targets begin.
        events: (E,) int8 type of each event, a place in `event_types`, aligned with `sequences.values`, or
            None.
        titles: (S,) what their owners call the sequences, null where they do not, or None.
    """

    path: Path
    manifest: dict[str, Any]
    vocabulary: Vocabulary
    items: pa.Table
    ids: pa.Array
    sequences: Ragged
    times: NDArray[np.int64] | None
    train_end: NDArray[np.int32]
    valid_start: NDArray[np.int32]
    test_start: NDArray[np.int32]
    events: NDArray[np.int8] | None = field(default=None, kw_only=True)
    titles: pa.Array | None = field(default=None, kw_only=True)

    @classmethod
    def load(cls, path: Path | str) -> PreparedData:
        """Read the folder that `recsys prepare` wrote.

        Raises:
            InputError: the folder is missing or incomplete, of a newer format, or was changed since.
        """
        folder = Path(path)
        remedy = f"run `recsys prepare` to make {folder}"
        manifest = read_manifest(folder, remedy)
        if "content_digest" not in manifest:
            raise InputError(
                f"{folder / schema.MANIFEST_FILE} lacks `content_digest`; expected the manifest of a "
                f"prepared data set: {remedy}"
            )
        changed = schema.changed_file(folder, manifest)
        if changed:
            raise InputError(
                f"{changed} is not the file that {schema.MANIFEST_FILE} beside it states (SHA-256): it is "
                "missing, or was changed or damaged since it was written; prepare the data set again"
            )
        items = _read_table(folder / schema.ITEMS_FILE)
        table = _read_table(folder / schema.SEQUENCES_FILE)
        lists = _lists(table[schema.ITEMS])
        offsets = np.array(lists.offsets, dtype=np.int64)  # writable: Arrow's own are not
        times = _lists(table[schema.TIMES]) if schema.TIMES in table.column_names else None
        return cls(
            path=folder,
            manifest=manifest,
            vocabulary=Vocabulary(items[schema.ITEM_ID]),
            items=items,
            ids=table[schema.SEQUENCE_ID].combine_chunks(),
            sequences=Ragged(np.asarray(lists.values, dtype=np.int32), offsets),
            times=None if times is None else np.asarray(times.values, dtype=np.int64),
            train_end=np.asarray(table[schema.TRAIN_END], dtype=np.int32),
            valid_start=np.asarray(table[schema.VALID_START], dtype=np.int32),
            test_start=np.asarray(table[schema.TEST_START], dtype=np.int32),
            events=(
                np.asarray(_lists(table[schema.EVENTS]).values, dtype=np.int8)
                if schema.EVENTS in table.column_names
                else None
            ),
            titles=(
                table[schema.SEQUENCE_TITLE].combine_chunks()
                if schema.SEQUENCE_TITLE in table.column_names
                else None
            ),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the prepared content, as the manifest states it."""
        return str(self.manifest["content_digest"])

    @property
    def event_types(self) -> list[str]:
        """Names of the types of events; none where the log has no types."""
        return list(self.manifest.get("event_types", []))

    @property
    def target_types(self) -> list[str] | None:
        """The types that a target can be of; None for all."""
        found: list[str] | None = self.manifest.get("settings", {}).get("split", {}).get("targets")
        return found

    def weighted(self, weights: dict[str, float] | None) -> Ragged:
        """All sequences, each event with its type's weight as a target of the loss; unnamed types weigh 1.

        Raises:
            InputError: the data has no event types, or none of a name, or every event weighs 0.
        """
        if weights is None:
            return self.sequences
        if self.events is None:
            raise InputError(
                f"training.event_weights needs the types of events, which {self.path} does not have; set "
                "data.columns.event and prepare it again, or unset training.event_weights"
            )
        if unknown := [name for name in weights if name not in self.event_types]:
            raise InputError(
                f"training.event_weights names `{unknown[0]}`, but no event of {self.path} is of that type; "
                f"there are: {', '.join(self.event_types)}"
            )
        by_type = np.array([weights.get(name, 1.0) for name in self.event_types], dtype=np.float32)
        if not by_type.any():
            raise InputError(
                "training.event_weights gives every type of event the weight 0, which leaves no target to "
                "train on; set one above 0"
            )
        return replace(self.sequences, weights=by_type[self.events])

    def training(self, part: Part = "training", weights: dict[str, float] | None = None) -> Ragged:
        """S ragged rows: the events of each sequence that one may fit to (none of a held-out one).

        Args:
            part: the training part; with the validation targets (and what comes before them); or all events.
            weights: as `weighted` takes them.

        Raises:
            InputError: the weights do not fit the data.
        """
        return self.weighted(weights).first(self._ends(part))

    def training_times(self, part: Part = "training") -> NDArray[np.int64] | None:
        """Times aligned with `training(part).values`, or None where the data has no time."""
        if self.times is None:
            return None
        places = np.arange(len(self.times)) - np.repeat(self.sequences.offsets[:-1], self.sequences.lengths)
        return self.times[places < np.repeat(self._ends(part), self.sequences.lengths)]

    def targets(self, split: Split) -> Targets:
        """The next item that each sequence of the split must predict, with its history.

        A sequence with several events in the split is asked for the first of them (`split_items` gives them
        all). Sequences without an event there, or without any history before it, have no target.
        """
        start, stop = self._marks(split)
        rows = np.flatnonzero((start < stop) & (start > 0))
        histories = self.sequences.take(rows).first(start[rows])
        items = self.sequences.values[self.sequences.offsets[rows] + start[rows]]
        return Targets(rows, histories, items, removes_seen=self.target_types is None)

    def asked_targets(self, split: Split) -> Targets:
        """What `targets` gives, for those who can do nothing without any.

        Raises:
            InputError: the split has none.
        """
        targets = self.targets(split)
        if not len(targets.rows):
            raise InputError(
                f"{self.path} has no {split} target; prepare it with a split that holds some out"
            )
        return targets

    def split_items(self, split: Split) -> Ragged:
        """T ragged rows: the different items that each sequence of `targets` has in the split, in order.

        Events of a type that is no target's are left out.
        """
        start, stop = self._marks(split)
        rows = self.targets(split).rows
        begin = self.sequences.offsets[rows]
        only = self.target_types
        weights = None if only is None else {name: float(name in only) for name in self.event_types}
        events = self.weighted(weights).slices(begin + start[rows], begin + stop[rows])
        keys = events.rows * (len(self.vocabulary) + 1) + events.values
        counted = np.flatnonzero(events.counted)
        kept = counted[np.sort(np.unique(keys[counted], return_index=True)[1])]
        offsets = np.r_[0, np.cumsum(np.bincount(events.rows[kept], minlength=len(rows)))]
        return Ragged(events.values[kept], offsets.astype(np.int64))

    def _ends(self, part: Part) -> NDArray[np.integer]:
        """(S,) events before it belong to the part."""
        if part == "all":
            return self.sequences.lengths
        if part == "training":
            return self.train_end
        ends = np.where(self.valid_start < self.test_start, self.test_start, self.train_end)
        if self.manifest.get("split", {}).get("kind") == "low_resource":
            ends = np.where(self.train_end > 0, ends, 0)  # only some sequences train
        cut = self.manifest.get("split", {}).get("test_cut_microseconds")
        if cut is None or self.times is None:
            return ends
        # Where targets are of some types only, other events of the test period come before the first of them.
        earlier = np.r_[0, np.cumsum(self.times < cut)][self.sequences.offsets]
        within: NDArray[np.int64] = np.minimum(ends, np.diff(earlier))
        return within

    def _marks(self, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(S,) where the events of a split begin and end in each sequence.

        Raises:
            InputError: there is no such split.
        """
        marks = self.valid_start.astype(np.int64), self.test_start.astype(np.int64), self.sequences.lengths
        return marks[:2] if split_named(split) == "valid" else marks[1:]


def read_manifest(folder: Path, remedy: str) -> dict[str, Any]:
    """The manifest of a prepared data set or of a bundle.

    Raises:
        InputError: there is none, it is not JSON, or its format is newer than this version reads.
    """
    file = folder / schema.MANIFEST_FILE
    if not file.is_file():
        raise InputError(f"{folder} has no {schema.MANIFEST_FILE}; {remedy}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = int(manifest["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a readable manifest ({error}); {remedy}") from error
    if version > schema.FORMAT_VERSION:
        raise InputError(
            f"{file} has format version {version}; this version reads up to {schema.FORMAT_VERSION}: "
            "update the package"
        )
    return manifest


def _lists(column: pa.ChunkedArray) -> pa.LargeListArray:
    """One array of a column of lists, small or large; all its events may be more than 2^31."""
    return column.cast(pa.large_list(column.type.value_type)).combine_chunks()


def _read_table(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read ({error}); prepare the data set again") from error
