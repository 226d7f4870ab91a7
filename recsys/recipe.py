"""The default recipe: settings that the user leaves open and that the data decides.

What is not named in a configuration, an override or a call is chosen here from the training events alone,
before anything is trained; the bundle's configuration states the outcome. Everything else of the recipe is a
plain default of `recsys.config`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from recsys.batching import windows
from recsys.config import Config, ExperimentConfig, ModelConfig, TransformerConfig
from recsys.dataset import PreparedData
from recsys.objectives import OBJECTIVES
from recsys.sequences import Ragged

Section = TypeVar("Section", bound=Config)

EVENTS_OF_A_STEP = 2_500
"""Few enough for a hundred thousand events to make some forty steps an epoch, many enough for the
processor's matrix units."""
SPARSE = 30
"""Events an item, below which there is little to fit to and much to forget."""
FULL_SOFTMAX_ITEMS = 5_000
"""The full softmax over so many items costs about as much as the rest of a step."""


def settled(
    config: ExperimentConfig, data: PreparedData, like: ModelConfig | None = None
) -> ExperimentConfig:
    """The configuration with what it leaves open decided by the data; of a transformer over items alone.

    Args:
        config: as the user gave it; what it names stays.
        data: the prepared data set, of which only the training part is read.
        like: an earlier model whose sizes are kept, for weights to be taken over.
    """
    if not isinstance(config.model, TransformerConfig):
        return config
    training = data.training()
    n_items = len(np.unique(training.values))  # the vocabulary also holds what is asked for alone
    sizes = {"max_length": _max_length(training), "dropout": _dropout(training, n_items)}
    if isinstance(like, TransformerConfig):
        sizes["max_length"] = like.max_length
    model = _decided(config.model, sizes)
    longest = model.max_length + OBJECTIVES[model.name].unread
    steps = {
        "batch_size": _batch_size(training, longest),
        "loss": _loss(n_items),
        "validate_every": _validate_every(config.training.epochs),
    }
    return config.model_copy(update={"model": model, "training": _decided(config.training, steps)})


def decided(given: ExperimentConfig, config: ExperimentConfig) -> str:
    """What `settled` decided, for people: `max_length 50, dropout 0.5`; empty where nothing was left open."""
    return ", ".join(
        f"{name} {getattr(after, name)}"
        for before, after in ((given.model, config.model), (given.training, config.training))
        for name in sorted(after.model_fields_set - before.model_fields_set)
    )


def _decided(section: Section, chosen: dict[str, Any]) -> Section:
    """The section with what was chosen where nothing was named."""
    return section.model_copy(
        update={name: value for name, value in chosen.items() if name not in section.model_fields_set}
    )


def _max_length(training: Ragged) -> int:
    """What 95 of 100 sequences do not exceed, rounded up to tens, from 50 to 200."""
    lengths = training.lengths[training.lengths > 0]
    if not len(lengths):
        return 50
    return int(np.clip(np.ceil(np.quantile(lengths, 0.95) / 10) * 10, 50, 200))


def _dropout(training: Ragged, n_items: int) -> float:
    return 0.5 if len(training.values) < SPARSE * n_items else 0.3


def _batch_size(training: Ragged, length: int) -> int:
    """Sequences that hold `EVENTS_OF_A_STEP` on average, a multiple of 8 from 16 to 1,024."""
    cut = windows(training, length)
    mean = len(cut.values) / max(len(cut), 1)
    return int(np.clip(round(EVENTS_OF_A_STEP / max(mean, 1.0) / 8) * 8, 16, 1024))


def _validate_every(epochs: int) -> int:
    """Up to 5, where that leaves 10 validations to choose from and the last epoch is one of them."""
    return max(every for every in range(1, 6) if every == 1 or (epochs % every == 0 and epochs >= 10 * every))


def _loss(n_items: int) -> str:
    return "full" if n_items <= FULL_SOFTMAX_ITEMS else "sampled"
