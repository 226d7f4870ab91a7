"""The split by item: some items leave training entirely, and are what the test asks for.

Written with narwhals, like the other splits. A sequence that holds such items keeps its events up to the last
of these, which is the test target; the others of them are taken out of its history, and what comes after the
target goes. So no event of a withheld item is trained on or read, and every other event before the target is.
"""

from __future__ import annotations

import narwhals as nw

from data_prep.cleaning import Removal, positions, size
from data_prep.frame_types import Frame
from data_prep.splits import WITHHELD, flag_withheld
from recsys import schema
from recsys.config import ItemCold

_LAST = f"{schema.HELPER}last"  # place of the last such event of the sequence


def withhold(events: Frame, split: ItemCold) -> tuple[Frame, Removal]:
    """Take out the events that the split cannot use, and say how many.

    Args:
        events: the cleaned canonical frame.
        split: the `split` section.
    """
    flagged = flag_withheld(positions(events), split)
    last = (
        flagged.filter(nw.col(WITHHELD))
        .group_by(schema.SEQUENCE)
        .agg(nw.col(schema.POSITION).max().alias(_LAST))
    )
    place, target = nw.col(schema.POSITION), nw.col(_LAST)
    kept = flagged.join(last, on=schema.SEQUENCE, how="left").filter(
        target.is_null() | (place == target) | ((place < target) & ~nw.col(WITHHELD))
    )
    left = kept.drop(WITHHELD, _LAST, schema.POSITION)
    before, after = size(events), size(left)
    return left, Removal(
        "withheld items",
        f"split.items {split.items}",
        before.events - after.events,
        before.sequences - after.sequences,
        before.items - after.items,
    )
