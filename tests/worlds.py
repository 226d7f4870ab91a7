"""Small prepared data sets and bundles with known answers, for tests of everything after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys import schema
from recsys.bundle import Bundle, save_bundle
from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.models import build_encoder, fit_counting
from recsys.models.protocol import Encoder, Model
from recsys.sequences import Ragged
from recsys.vocabulary import vocabulary_of

DAY = 86_400 * 1_000_000
GENRES = ("rock", "jazz", "folk")
PUBLISHED: dict[str, Any] = {"norm": "post", "scoring": "dot", "next_item_prob": 0.0, "read": "mask"}
"""BERT4Rec as its paper has it: with a bias for each item, and slower to learn than the default."""


def item_id(index: int, strings: bool = True) -> int | str:
    """Original id of an item index."""
    return f"i{index}" if strings else index * 10


def ring(n_items: int, n_sequences: int, seed: int = 0) -> Ragged:
    """Sequences that walk round a ring: item i is always followed by item i+1, and the last by the first."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(n_items, size=n_sequences), rng.integers(3, 30, size=n_sequences)
    return Ragged.of(
        [(start + np.arange(length)) % n_items + 1 for start, length in zip(starts, lengths, strict=True)]
    )


def prepared(
    folder: Path, sequences: Ragged, n_items: int, *, strings: bool = True, timed: bool = True
) -> PreparedData:
    """Write a leave-one-out data set with titles, a list attribute and a number, and read it back."""
    folder.mkdir(parents=True)
    ids = [item_id(index, strings) for index in range(1, n_items + 1)]
    ends = np.maximum(sequences.lengths - 2, 0).astype(np.int32)
    training = sequences.first(ends)
    items = {
        schema.ITEM_INDEX: pa.array(np.arange(1, n_items + 1, dtype=np.int32)),
        schema.ITEM_ID: pa.array(ids),
        schema.ITEM_COUNT: pa.array(np.bincount(training.values, minlength=n_items + 1)[1:]),
        "title": pa.array([f"Song {index}" if index != 3 else None for index in range(1, n_items + 1)]),
        "genres": pa.array([[GENRES[index % 3], "music"] for index in range(1, n_items + 1)]),
        "year": pa.array([1990 + index % 10 for index in range(1, n_items + 1)]),
    }
    pq.write_table(pa.table(items), folder / schema.ITEMS_FILE)
    offsets = pa.array(sequences.offsets.astype(np.int32))
    columns = {
        schema.SEQUENCE_ID: pa.array([f"u{row}" for row in range(len(sequences))]),
        schema.ITEMS: pa.ListArray.from_arrays(offsets, pa.array(sequences.values)),
        schema.TRAIN_END: pa.array(ends),
        schema.VALID_START: pa.array(ends),
        schema.TEST_START: pa.array(np.maximum(sequences.lengths - 1, 0).astype(np.int32)),
    }
    if timed:
        times = pa.array(np.arange(len(sequences.values), dtype=np.int64) * DAY)
        columns[schema.TIMES] = pa.ListArray.from_arrays(offsets, times)
    pq.write_table(pa.table(columns), folder / schema.SEQUENCES_FILE)
    digest = f"{vocabulary_of(ids).hash[:32]}{len(sequences.values):032d}"
    manifest = {"format_version": schema.FORMAT_VERSION, "content_digest": digest}
    (folder / schema.MANIFEST_FILE).write_text(json.dumps(manifest))
    return PreparedData.load(folder)


def experiment(**model: Any) -> ExperimentConfig:  # noqa: ANN401 -- values of a configuration
    """Configuration with this model section."""
    return build_config({"name": "world", "data": {"format": "sample"}, "model": model}, where="the test")


def small_encoder(n_items: int, seed: int = 0) -> tuple[ExperimentConfig, Model]:
    """An untrained BERT4Rec whose random weights are large enough to tell histories apart."""
    config = experiment(name="bert4rec", dim=16, layers=1, heads=2, max_length=21, **PUBLISHED)
    torch.manual_seed(seed)
    model = build_encoder(config.model, n_items).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
        model.get_parameter("item_bias").normal_(std=0.5)
    assert isinstance(model, Encoder)
    return config, model


def encoder_bundle(folder: Path, data: PreparedData) -> Bundle:
    """Bundle of `small_encoder`."""
    config, model = small_encoder(len(data.vocabulary))
    metrics = {"ndcg@10": 0.5}
    save_bundle(
        folder, config=config, model=model, data=data, metrics=metrics, trained_on="training", best_epoch=3
    )
    return Bundle.load(folder)


def counting_bundle(folder: Path, data: PreparedData, **model: Any) -> Bundle:  # noqa: ANN401
    """Bundle of a counting model, fitted."""
    config = experiment(**model)
    training, times = data.training(), data.training_times()
    fitted = fit_counting(config.model, training, times, len(data.vocabulary), data.items)
    save_bundle(
        folder, config=config, model=fitted, data=data, metrics={}, trained_on="training", best_epoch=None
    )
    return Bundle.load(folder)
