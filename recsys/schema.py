"""What every room shares: columns, files and their hashes, reserved indices."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
"""Version of the prepared data set and of the bundle; readers refuse a newer one."""

PAD = 0
"""Item index of padding. Items are 1..V and MASK is V+1 (see `recsys.vocabulary.Vocabulary`)."""

# Columns of the canonical event frame that readers produce and the cleaning steps transform.
SEQUENCE = "sequence"  # original user or playlist id
ITEM = "item"  # original item id
TIME = "time"  # int64 microseconds since 1970 UTC; null where the log has no time
RATING = "rating"  # float64, only where the log has one
EVENT = "event"  # type of the event, a string; only where the log has one
SESSION = "session"  # the log's own session id, before sessions are cut
USER = "user"  # original user id of a session, after they are cut
ROW = "row"  # int64 position in the log: the tie-break of every order
POSITION = "position"  # int32 place of the event in its sequence, from 0
HELPER = "__"  # what the columns that a step adds and takes away begin with; none of the log's may

# A prepared data set.
MANIFEST_FILE = "manifest.json"
ITEMS_FILE = "items.parquet"
SEQUENCES_FILE = "sequences.parquet"

# Columns of items.parquet, before the item's own attributes and text.
ITEM_INDEX = "index"  # int32, 1..V
ITEM_ID = "id"  # original item id, in its original type
ITEM_COUNT = "count"  # int64 events in the training part
ITEM_RECENT = "recent"  # int64 events in its last days; in a bundle only, for the popularity fallback
RESERVED_ITEM_COLUMNS = (ITEM_INDEX, ITEM_ID, ITEM_COUNT, ITEM_RECENT)

# Columns of sequences.parquet. Events [0, train_end) are training; [valid_start, test_start) are the
# validation targets and [test_start, n) the test targets; what stands before a target is its history. Where
# the split names types of targets, valid_start and test_start are each at the first target of its part, and
# events of other types after it are none.
SEQUENCE_ID = "id"  # original user or playlist id, in its original type
ITEMS = "items"  # large_list<int32> item indices, in order
TIMES = "times"  # large_list<int64> microseconds since 1970 UTC, or null
EVENTS = "events"  # large_list<int8> place of each event's type in the manifest's `event_types`; or absent
SEQUENCE_TITLE = "name"  # string, what its owner calls it, or null; where the context has it
TRAIN_END = "train_end"  # int32
VALID_START = "valid_start"  # int32
TEST_START = "test_start"  # int32
RESERVED_CONTEXT_COLUMNS = (
    *(SEQUENCE, ITEM, TIME, RATING, EVENT, SESSION, USER, ROW, POSITION, "length"),
    *(SEQUENCE_ID, ITEMS, TIMES, EVENTS, TRAIN_END, VALID_START, TEST_START),
)
"""Names that no context column of sequences.parquet may have."""


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content, as a manifest states it under `files`."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed_file(folder: Path, manifest: dict[str, Any]) -> Path | None:
    """The first file that is missing or differs from its hash in the manifest's `files`, if there is one."""
    stated: dict[str, str] = manifest.get("files", {})
    for name, expected in stated.items():
        file = folder / name
        if not file.is_file() or file_hash(file) != expected:
            return file
    return None
