"""How a prepared data set differs from an earlier version of it, or from what a report on one has kept.

Shapes: `S` sequences, `V` items.
"""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.assemble import Tables
from recsys import schema
from recsys.errors import InputError

Ints = NDArray[np.int64]
LEADING = 1000
"""Most popular items that a report keeps the events of, so that a later one can be measured against it."""
_CHANGES = 10  # items that are listed


@dataclass(frozen=True)
class Version:
    """What drift is measured between.

    Attributes:
        where: the folder or the report.
        content_digest: of the data set.
        events: in all.
        sequences: with an event.
        items: with an event.
        median_length: of its sequences.
        counts: original id of an item -> its events; all items of a folder, the leading ones of a report.
        names: original ids of the sequences; a report has none.
    """

    where: str
    content_digest: str
    events: int
    sequences: int
    items: int
    median_length: float
    counts: dict[Any, int]
    names: frozenset[Any] | None = None


def version_of(folder: Path, manifest: dict[str, Any], tables: Tables) -> Version:
    """A prepared data set."""
    lengths, counts = sizes(tables)
    names = _there(tables.sequences[schema.SEQUENCE_ID], lengths)
    items = _there(tables.items[schema.ITEM_ID], counts)
    return Version(
        where=str(folder),
        content_digest=manifest["content_digest"],
        events=int(lengths.sum()),
        sequences=len(names),
        items=len(items),
        median_length=float(np.median(lengths[lengths > 0])),
        counts=dict(zip(items, counts[counts > 0].tolist(), strict=True)),
        names=frozenset(names),
    )


def version_in(report: Path) -> Version:
    """The data set that a report was written on.

    Raises:
        InputError: it is no report that keeps what drift is measured against.
    """
    try:
        told = json.loads(report.read_text(encoding="utf-8"))
        counts, leading = told["counts"], told["popularity"]["leading"]
        return Version(
            where=str(report),
            content_digest=str(told["content_digest"]),
            events=int(counts["events"]),
            sequences=int(counts["sequences"]),
            items=int(counts["items"]),
            median_length=float(told["lengths"]["median"]),
            counts=dict(zip(leading["items"], map(int, leading["events"]), strict=True)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{report} is no quality report that drift can be measured against ({error!r}); name one that "
            "`recsys quality PREPARED --json FILE` wrote, or the folder of the earlier version"
        ) from error


def leading_items(version: Version) -> dict[str, list[Any]]:
    """The most popular items and their events, as a report keeps them; ties by id."""
    falling = sorted(version.counts.items(), key=lambda each: (-each[1], str(each[0])))[:LEADING]
    return {"items": [item for item, _ in falling], "events": [count for _, count in falling]}


def measure_drift(now: Version, then: Version) -> dict[str, Any]:
    """How one version differs from an earlier one, by original ids, as JSON values.

    What a report does not keep is not said: which sequences are new, and, where it keeps a part of its items
    alone, which items are. The popularity of such a part is measured with all other items as one, which gives
    no more bits than all items would.
    """
    whole = len(then.counts) == then.items
    ids = list(then.counts.keys() | now.counts.keys() if whole else then.counts)
    ids.sort(key=str)
    shares, old_shares = (_shares(version, ids) for version in (now, then))
    changes = [
        {"item": ids[k], "was": float(old_shares[k]), "is": float(shares[k])}
        for k in np.argsort(-abs(shares - old_shares)[: len(ids)], kind="stable")[:_CHANGES]
        if shares[k] != old_shares[k]
    ]
    items = _turnover(now.counts.keys(), then.counts.keys()) if whole else {}
    sequences = {} if now.names is None or then.names is None else _turnover(now.names, then.names)
    return {
        "against": then.where,
        "content_digest": then.content_digest,
        "events": {"was": then.events, "is": now.events},
        "items": {"was": then.items, "is": now.items, **items},
        "sequences": {"was": then.sequences, "is": now.sequences, **sequences},
        "median_length": {"was": then.median_length, "is": now.median_length},
        "compared_items": len(ids),
        "popularity_bits": _divergence(shares, old_shares),
        "largest_changes": changes,
    }


def sizes(tables: Tables) -> tuple[Ints, Ints]:
    """(S,) and (V,) events of each sequence and of each item; 0 is one that is gone."""
    return np.diff(tables.offsets), np.bincount(tables.values, minlength=tables.items.num_rows + 1)[1:]


def _there(ids: pa.ChunkedArray, events: Ints) -> list[Any]:
    """The ids of what has events."""
    found: list[Any] = ids.filter(pa.array(events > 0)).to_pylist()
    return found


def _shares(version: Version, ids: list[Any]) -> NDArray[np.float64]:
    """Shares of all events: of each of these items, and, last, of all others."""
    counts = np.array([version.counts.get(item, 0) for item in ids], dtype=np.float64)
    return np.append(counts, version.events - counts.sum()) / version.events


def _turnover(now: Set[Any], then: Set[Any]) -> dict[str, int]:
    return {"new": len(now - then), "gone": len(then - now), "kept": len(now & then)}


def _divergence(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Jensen-Shannon divergence of two distributions in bits (Lin 1991): 0 alike, 1 nothing in common."""
    middle = (left + right) / 2

    def relative(part: NDArray[np.float64]) -> float:
        there = part > 0
        return float(np.sum(part[there] * np.log2(part[there] / middle[there])))

    return (relative(left) + relative(right)) / 2
