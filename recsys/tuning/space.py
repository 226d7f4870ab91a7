"""What is tuned, and between which values: at most three settings a model, their ranges from the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recsys.config import ExperimentConfig, build_config
from recsys.errors import InputError

if TYPE_CHECKING:
    from optuna import Trial

TUNED = {
    "bert4rec": ("model.mask_prob", "model.dropout", "model.max_length"),
    "sasrec": ("training.learning_rate", "model.dropout", "model.max_length"),
}
"""Model -> the settings whose best value depends on the data most."""
ON_A_LOG_SCALE = frozenset({"model.max_length", "training.learning_rate"})
LONGEST = 200
"""Attention grows with the square of `max_length`: a few long histories must not make it too dear."""

Settings = Mapping[str, float]


@dataclass(frozen=True)
class Range:
    """The values that a setting may take.

    Attributes:
        key: such as `model.dropout`.
        low: the smallest value.
        high: the largest value.
        given: the configuration's own value, which lies between them; where it is an int, all are.
    """

    key: str
    low: float
    high: float
    given: float

    def suggested(self, trial: Trial) -> float:
        """The trial's value: of three significant digits, unless it is the given one."""
        log = self.key in ON_A_LOG_SCALE
        if isinstance(self.given, int):
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=log)
        value = trial.suggest_float(self.key, self.low, self.high, log=log)
        return value if value == self.given else float(f"{value:.3g}")

    def __str__(self) -> str:
        return f"{self.key} {self.low:.3g} to {self.high:.3g}"


def ranges(config: ExperimentConfig, lengths: NDArray[np.integer]) -> list[Range]:
    """The ranges to search in, widened to hold the configuration's own values.

    `max_length` lies between the median and the 95% quantile of the histories, at most `LONGEST`. Where half
    of the histories have n items or fewer, a mask rate below 1/n is no different from 1/n for them.

    Args:
        config: the experiment.
        lengths: (S,) training events of each sequence; those with fewer than two teach nothing.

    Raises:
        InputError: the model has nothing to tune, or no sequence has two events.
    """
    if config.model.name not in TUNED:
        raise InputError(
            f"model `{config.model.name}` counts and has nothing to tune; set model to one of "
            f"{', '.join(TUNED)}"
        )
    read = lengths[lengths >= 2]
    if not len(read):
        raise InputError("no training sequence has two events, so there is nothing to tune a model on")
    median, long = (float(value) for value in np.quantile(read, [0.5, 0.95]))
    bounds = {
        "model.mask_prob": (max(0.1, 1 / median), 0.7),
        "model.dropout": (0.0, 0.5),
        "model.max_length": (min(int(median), LONGEST // 2), min(int(np.ceil(long)) + 1, LONGEST)),
        "training.learning_rate": (3e-4, 5e-3),
    }
    found = []
    for key in TUNED[config.model.name]:
        given = value_of(config, key)
        found.append(Range(key, min(bounds[key][0], given), max(bounds[key][1], given), given))
    return found


def value_of(config: ExperimentConfig, key: str) -> float:
    """The configuration's value of a setting such as `model.dropout`."""
    section, name = key.split(".")
    value: float = getattr(getattr(config, section), name)
    return value


def tuned_tree(config: ExperimentConfig, settings: Settings) -> dict[str, Any]:
    """The sections that the configuration states, with other values of some settings; defaults stay out."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    tree["model"] = {"name": config.model.name, **tree.get("model", {})}
    for key, value in settings.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return tree


def tuned_config(config: ExperimentConfig, settings: Settings) -> ExperimentConfig:
    """The experiment with other values of some settings."""
    return build_config(tuned_tree(config, settings), where="the trial")
