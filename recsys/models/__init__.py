"""The models, and the visible tables that a new one is added to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.config import ModelConfig
from recsys.errors import InputError
from recsys.models.build import build_bert4rec, build_sasrec, hybrid_from_state
from recsys.models.category_popularity import CategoryPopularity, fit_category_popularity
from recsys.models.item_knn import ItemKNN, fit_item_knn
from recsys.models.markov import Markov, fit_markov
from recsys.models.popularity import Popularity, fit_popularity, fit_recent_popularity
from recsys.models.protocol import CountingModel
from recsys.models.reading import TextReader
from recsys.models.recformer import recformer_from_state
from recsys.models.replay import Replay, fit_replay
from recsys.models.text_knn import TextKNN, fit_text_knn
from recsys.models.text_tower import TextTower
from recsys.models.transformer import Transformer
from recsys.sequences import Ragged
from recsys.text.tokens import ItemTokenizer

ENCODERS: dict[str, Callable[[Any, int, TextTower | None], Transformer]] = {
    "bert4rec": build_bert4rec,
    "sasrec": build_sasrec,
}
"""Name -> (configuration, number of items, tower of their texts) -> an `Encoder` with fresh weights."""

TEXT_ENCODERS: dict[str, Callable[[Any, int, dict[str, torch.Tensor], ItemTokenizer], TextReader]] = {
    "recformer": recformer_from_state,
    "bert4rec": hybrid_from_state,
    "sasrec": hybrid_from_state,
}
"""Name -> (configuration, number of items, weights, tokenizer) -> an `Encoder` that reads items' texts."""

COUNTING: dict[str, tuple[Callable[..., CountingModel], Callable[..., CountingModel]]] = {
    "popularity": (fit_popularity, Popularity.from_arrays),
    "recent_popularity": (fit_recent_popularity, Popularity.from_arrays),
    "markov": (fit_markov, Markov.from_arrays),
    "item_knn": (fit_item_knn, ItemKNN.from_arrays),
    "replay": (fit_replay, Replay.from_arrays),
    "text_knn": (fit_text_knn, TextKNN.from_arrays),
    "category_popularity": (fit_category_popularity, CategoryPopularity.from_arrays),
}
"""Name -> how it is fitted to training sequences, how it is rebuilt from its arrays."""

COUNTS_WITH_ITEMS = frozenset({"text_knn", "category_popularity"})
"""Those that are fitted to the item table instead of the times of the events."""

ANSWERS_SEEN = frozenset({"replay"})
"""Models that answer with items of the history: without them they say nothing."""


def reads_text(config: ModelConfig) -> bool:
    """Whether an encoder knows items by their text, alone or besides."""
    return config.name == "recformer" or getattr(config, "item_encoder", "id") != "id"


def scores_cold(config: ModelConfig) -> bool:
    """Whether a model knows items without a training event by something else; otherwise these are misses."""
    return config.name in COUNTS_WITH_ITEMS or reads_text(config)


def check_has_answers(model: str, *, exclude_seen: bool) -> None:
    """Refuse to leave out the items of the history where a model answers with these alone.

    Args:
        model: its name, as in the tables above.
        exclude_seen: whether they are left out.

    Raises:
        InputError: they are, and the model is one of `ANSWERS_SEEN`.
    """
    if exclude_seen and model in ANSWERS_SEEN:
        raise InputError(
            f"model `{model}` recommends the items of the history again, and leaving out what was seen "
            "leaves it nothing to say; keep seen items (--keep-seen, exclude_seen=False)"
        )


def build_encoder(config: ModelConfig, n_items: int, tower: TextTower | None = None) -> Transformer:
    """An encoder with fresh weights, drawn from the global torch generator; `tower` reads items' texts."""
    return ENCODERS[config.name](config, n_items, tower)


def fit_counting(
    config: ModelConfig,
    training: Ragged,
    times: NDArray[np.int64] | None,
    n_items: int,
    items: pa.Table | None = None,
) -> CountingModel:
    """A counting model of the training sequences.

    Args:
        config: its settings.
        training: training sequences.
        times: aligned with their values, or None.
        n_items: number of items V.
        items: item table of V rows; one of `COUNTS_WITH_ITEMS` needs it.

    Raises:
        InputError: the data has no times or no text, which this model needs.
    """
    fit, _ = COUNTING[config.name]
    if config.name in COUNTS_WITH_ITEMS:
        return fit(config, training, items)
    return fit(config, training, times, n_items)


def counting_from_arrays(config: ModelConfig, arrays: dict[str, NDArray[np.generic]]) -> CountingModel:
    """A counting model from the arrays that it gave the bundle."""
    _, rebuild = COUNTING[config.name]
    return rebuild(config, arrays)
