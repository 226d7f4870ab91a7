"""95% intervals of means over users, by the bootstrap (Efron 1979), for millions of users.

A resample draws N of N users with replacement. Users with the same values cannot be told apart, so it is
drawn as how often each distinct row of values occurs: a multinomial, exactly the same law, over a few hundred
rows where ranks decide everything. Above `MOST_DISTINCT` distinct rows the mean is normal to within what the
resamples could tell, and mean ± 1.96 standard errors is given instead.

Shapes: `N` users, `M` metrics, `U` distinct rows, `R` resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
FEWEST_USERS = 30
"""Fewer tell too little of their kind for an interval."""
MOST_DISTINCT = 10_000
CELLS_PER_DRAW = 1 << 20
NORMAL_975 = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over users with its 95% interval; NaN bounds, equal to nothing, where there is none."""

    mean: float
    low: float
    high: float

    def to_json(self, absent: float | None = math.nan) -> dict[str, float | None]:
        """Plain dictionary, with `absent` for bounds that there are not."""
        low, high = (absent if math.isnan(bound) else bound for bound in (self.low, self.high))
        return {"mean": self.mean, "low": low, "high": high}

    def text(self, signs: str = "") -> str:
        """Mean and interval, a dash where there is none; `signs` is `+` for a difference."""
        bounds = "-" if math.isnan(self.low) else f"{self.low:{signs}.4f}, {self.high:{signs}.4f}"
        return f"{self.mean:{signs}.4f} [{bounds}]"

    def __str__(self) -> str:
        return self.text()


class Bootstrap:
    """Intervals of several metrics, for all users and for parts of them."""

    def __init__(self, values: dict[str, Floats], seed: int = 0) -> None:
        """Find the distinct rows once.

        Args:
            values: by metric, (N,) a value for each user, N >= 1.
            seed: of the resamples; each call of `intervals` starts from it.
        """
        self.names = list(values)
        self._seed = seed
        table_NM = np.ascontiguousarray(np.stack(list(values.values()), axis=1))
        # A row as one string of bytes: equal bytes are equal values, and sorting them needs one comparison.
        rows = table_NM.view(f"V{8 * len(values)}").ravel()
        _, first, self._codes = np.unique(rows, return_index=True, return_inverse=True)
        self._rows_UM = table_NM[first]

    def intervals(self, users: NDArray[np.bool_] | None = None) -> dict[str, Interval]:
        """Mean and interval of every metric; below `FEWEST_USERS` the mean alone.

        Args:
            users: (N,) the part to look at, at least one; default: all.
        """
        codes = self._codes if users is None else self._codes[users]
        counts = np.bincount(codes, minlength=len(self._rows_UM))
        present = np.flatnonzero(counts)
        rows, counts = self._rows_UM[present], counts[present]
        means = counts @ rows / len(codes)
        if len(codes) < FEWEST_USERS:
            low = high = np.full(len(self.names), np.nan)
        elif len(present) > MOST_DISTINCT:
            spread = np.sqrt(counts @ np.square(rows - means)) / len(codes)
            low, high = means - NORMAL_975 * spread, means + NORMAL_975 * spread
        else:
            low, high = np.quantile(_resampled(rows, counts, self._seed), [0.025, 0.975], axis=0)
        columns = (means.tolist(), low.tolist(), high.tolist())
        return {name: Interval(*each) for name, *each in zip(self.names, *columns, strict=True)}


def _resampled(rows_UM: Floats, counts_U: NDArray[np.int64], seed: int) -> Floats:
    """(R, M) means of the resamples."""
    rng, total = np.random.default_rng(seed), int(counts_U.sum())
    step = max(CELLS_PER_DRAW // len(counts_U), 1)
    shares = counts_U / total
    parts = [
        rng.multinomial(total, shares, size=min(step, RESAMPLES - start)) @ rows_UM / total
        for start in range(0, RESAMPLES, step)
    ]
    return np.concatenate(parts)
