"""Counts that a publication states, held against those that a preparation gave."""

from __future__ import annotations

from collections.abc import Mapping

from recsys.config import ExpectConfig
from recsys.errors import InputError


def check_counts(expect: ExpectConfig, counts: Mapping[str, int], where: str) -> None:
    """Refuse a data set that does not have the expected counts.

    Args:
        expect: the `expect` section; a count that is None is not checked.
        counts: name -> what the preparation gave.
        where: what to name in the error, such as the log.

    Raises:
        InputError: a count differs; all that differ are named.
    """
    expected = expect.model_dump(exclude_none=True)
    differing = [
        f"{counts[name]:,} {name} instead of {number:,}"
        for name, number in expected.items()
        if counts[name] != number
    ]
    if differing:
        raise InputError(
            f"{where or 'the log'} gives {', '.join(differing)} (`expect`): it is cut, another release, or "
            "cleaned otherwise; get the release that the configuration names, or set expect={} to go on"
        )
