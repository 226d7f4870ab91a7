"""What a prepared data set is like, and what stands out in it: measured on the finished tables alone.

Shapes: `S` sequences, `E` events in all, `V` items.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.assemble import Tables
from data_prep.drift import Version, leading_items, measure_drift, sizes, version_in, version_of
from data_prep.folder import is_intact
from data_prep.leakage import LeakageError, check_leakage
from data_prep.splits import Cuts
from recsys import schema
from recsys.errors import InputError

Ints = NDArray[np.int64]

QUANTILES = {
    "min": 0.0,
    "p10": 0.1,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p99": 0.99,
    "max": 1.0,
}
_SECOND, _DAY = 10**6, 86_400 * 10**6  # microseconds
_SERIES = 60  # bars of the events over time
MANY_TIES, MANY_TARGETS, DRIFTED = 0.05, 0.05, 0.1
"""Shares of equal times and of odd targets, and divergence in bits, from which on a finding says so."""


@dataclass(frozen=True)
class _Events:
    """All events, each with the row and the place of its sequence: (E,) each."""

    rows: Ints
    places: Ints
    items: Ints
    times: Ints | None
    order: Ints  # by sequence, then item, then place

    @classmethod
    def of(cls, tables: Tables) -> _Events:
        lengths = np.diff(tables.offsets)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(rows)) - tables.offsets[rows]
        items = tables.values.astype(np.int64)
        return cls(rows, places, items, tables.times, np.lexsort((places, items, rows)))

    @property
    def repeated(self) -> NDArray[np.bool_]:
        """(E,) whether the item stood before in the same sequence."""
        rows, items = self.rows[self.order], self.items[self.order]
        again = np.zeros(len(rows), dtype=bool)
        again[self.order[1:]] = (rows[1:] == rows[:-1]) & (items[1:] == items[:-1])
        return again


def measure_quality(folder: Path, previous: Path | None = None) -> dict[str, Any]:
    """Everything that the report says, as JSON values.

    Args:
        folder: a prepared data set.
        previous: what drift is measured against: the folder of an earlier version of it, or the JSON file of
            a report on one, or None.

    Raises:
        InputError: a folder holds no sound prepared data set, or the file no such report.
    """
    manifest, tables = _load(folder)
    now = version_of(folder, manifest, tables)
    events = _Events.of(tables)
    lengths, counts = (each[each > 0] for each in sizes(tables))  # what is gone is no part of it
    report: dict[str, Any] = {
        "name": manifest["name"],
        "folder": str(folder),
        "content_digest": manifest["content_digest"],
        "counts": manifest["counts"],
        "density": len(events.items) / (len(lengths) * len(counts)),
        "split": manifest["split"],
        "removals": manifest["removals"],
        "notices": manifest["notices"],
        "lengths": {**_quantiles(lengths), "histogram": _histogram(lengths)},
        "popularity": {**_popularity(counts), "leading": leading_items(now)},
        "repeats": _repeats(events),
        "targets": _targets(tables),
        "time": None if events.times is None else _time(events),
        "leakage": _leakage(tables, manifest["split"]),
        "drift": None if previous is None else measure_drift(now, _version(previous)),
    }
    return {**report, "findings": _findings(report)}


def _load(folder: Path) -> tuple[dict[str, Any], Tables]:
    remedy = "name the folder that `recsys prepare` wrote"
    try:
        manifest = json.loads((folder / schema.MANIFEST_FILE).read_text(encoding="utf-8"))
        is_sound = is_intact(folder, manifest)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder} holds no prepared data set ({error}); {remedy}") from error
    if not is_sound:
        raise InputError(f"{folder} is not what its manifest states; prepare the data set again")
    sequences, items = (pq.read_table(folder / name) for name in (schema.SEQUENCES_FILE, schema.ITEMS_FILE))
    return manifest, Tables(sequences, items, tuple(manifest.get("event_types", ())))


def _version(place: Path) -> Version:
    return version_in(place) if place.is_file() else version_of(place, *_load(place))


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, list(QUANTILES.values()))
    return {**dict(zip(QUANTILES, map(float, found), strict=True)), "mean": float(values.mean())}


def _histogram(values: Ints) -> list[dict[str, int]]:
    """How many values lie in 1, 2 to 3, 4 to 7, ... (bounds doubling)."""
    octave = np.floor(np.log2(values)).astype(int)
    counted = np.bincount(octave)
    return [{"from": 2**k, "to": 2 ** (k + 1) - 1, "count": int(n)} for k, n in enumerate(counted)]


def _popularity(counts: Ints) -> dict[str, Any]:
    falling = np.sort(counts)[::-1]
    running = np.cumsum(falling) / counts.sum()
    rank = np.arange(1, len(counts) + 1)
    share = {
        f"top_{percent}_percent": float(running[max(len(counts) * percent // 100, 1) - 1])
        for percent in (1, 10)
    }
    # Gini by the sorted form: 0 where all items are alike, near 1 where one item has everything.
    gini = float(np.sum((2 * rank - len(counts) - 1) * falling[::-1]) / (len(counts) * counts.sum()))
    return {
        **_quantiles(counts),
        "histogram": _histogram(counts),
        "gini": gini,
        "share_of_events": share,
        "items_with_half_of_events": int(np.searchsorted(running, 0.5) + 1),
        "items_seen_once": int(np.sum(counts == 1)),
    }


def _repeats(events: _Events) -> dict[str, float]:
    again = events.repeated
    direct = (events.items[1:] == events.items[:-1]) & (events.rows[1:] == events.rows[:-1])
    sequences = len(np.unique(events.rows))
    return {
        "events": float(again.mean()),
        "direct": float(direct.sum() / len(events.items)),
        "sequences": float(len(np.unique(events.rows[again])) / sequences),
    }


def _targets(tables: Tables) -> dict[str, dict[str, float]]:
    """Of the first target of each sequence: how many, and the shares never trained and in its own history."""
    lengths = np.diff(tables.offsets)
    valid, test = tables.mark(schema.VALID_START), tables.mark(schema.TEST_START)
    trained = np.r_[0, np.asarray(tables.items[schema.ITEM_COUNT])] > 0
    again = _Events.of(tables).repeated
    found = {}
    for part, start, stop in (("validation", valid, test), ("test", test, lengths)):
        rows = np.flatnonzero((start < stop) & (start > 0))
        places = tables.offsets[rows] + start[rows]
        if len(rows):
            unknown, repeated = ~trained[tables.values[places]], again[places]
            found[part] = {
                "count": len(rows),
                "never_trained": float(unknown.mean()),
                "in_history": float(repeated.mean()),
            }
    return found


def _time(events: _Events) -> dict[str, Any]:
    """Pauses within sequences and over the whole log, in seconds and days; events over time."""
    assert events.times is not None
    same = events.rows[1:] == events.rows[:-1]
    pauses = np.diff(events.times)[same] / _SECOND
    ordered = np.sort(events.times)
    silence = np.diff(ordered)
    longest = int(np.argmax(silence)) if len(silence) else 0
    width = max(int(ordered[-1] - ordered[0]) // _SERIES + 1, 1)
    series = np.bincount((ordered - ordered[0]) // width, minlength=1)
    return {
        "first": _date(ordered[0]),
        "last": _date(ordered[-1]),
        "days": float((ordered[-1] - ordered[0]) / _DAY),
        "pause_seconds": _quantiles(pauses),
        "equal_times": float(np.mean(pauses == 0)) if len(pauses) else 0.0,
        "longest_silence_days": float(silence[longest] / _DAY) if len(silence) else 0.0,
        "longest_silence_from": _date(ordered[longest]),
        "bar_days": width / _DAY,
        "events": [int(count) for count in series],
    }


def _date(micros: np.integer[Any]) -> str:
    return str(np.datetime64(int(micros), "us").astype("datetime64[s]")) + "Z"


def _leakage(tables: Tables, split: dict[str, Any]) -> dict[str, Any]:
    """The check of the preparation, run again on what is on the disk."""
    cuts = None
    if "valid_cut_microseconds" in split:
        cuts = Cuts(split["valid_cut_microseconds"], split["test_cut_microseconds"])
    targets = None if split.get("targets") is None else tuple(split["targets"])
    try:
        return {"passed": True, "rules": check_leakage(tables, split["kind"], cuts, targets)}
    except LeakageError as error:
        return {"passed": False, "rules": [str(error)]}


def _findings(report: dict[str, Any]) -> list[str]:
    """What a person should look at, in words."""
    found = [] if report["leakage"]["passed"] else [f"LEAKAGE: {report['leakage']['rules'][0]}"]
    found += [
        f"{targets['never_trained']:.1%} of the {part} targets never occur in training: no model that learns "
        "from events alone can find them"
        for part, targets in report["targets"].items()
        if targets["never_trained"] >= MANY_TARGETS
    ]
    found += [
        f"{targets['in_history']:.1%} of the {part} targets are in their own history: they count as misses "
        "where seen items are removed"
        for part, targets in report["targets"].items()
        if targets["in_history"] >= MANY_TARGETS
    ]
    time, drift = report["time"], report["drift"]
    if time and time["equal_times"] >= MANY_TIES:
        found.append(
            f"{time['equal_times']:.1%} of the events have the time of the one before them: "
            "their order is the log's"
        )
    if time and time["longest_silence_days"] > max(0.1 * time["days"], 1):
        found.append(
            f"nothing happened for {time['longest_silence_days']:.1f} days from "
            f"{time['longest_silence_from']}: is a file missing?"
        )
    if drift and drift["popularity_bits"] >= DRIFTED:
        found.append(f"item popularity moved by {drift['popularity_bits']:.2f} bits (1 is nothing in common)")
    if drift and drift["events"]["is"] < drift["events"]["was"]:
        found.append(
            f"{drift['events']['was'] - drift['events']['is']:,} events fewer than in {drift['against']}"
        )
    return found
