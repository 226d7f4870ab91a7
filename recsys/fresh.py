"""Encoders to train, with fresh weights: of items alone, or with the texts that they are known by.

Shapes: `V` items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch

from recsys.config import EncoderConfig, SentenceConfig, TransformerConfig
from recsys.models import build_encoder, reads_text
from recsys.models.popularity import item_counts
from recsys.models.reading import sentences_of
from recsys.models.text_encoder import TextEncoder
from recsys.models.text_tower import TextTower
from recsys.models.transformer import Transformer
from recsys.schema import ITEM_ID
from recsys.sequences import Ragged
from recsys.text.attributes import check_present, text_columns
from recsys.text.backbone import Backbone, encoder_of
from recsys.text.tokens import ItemTokenizer

Say = Callable[[str], None]


def fresh_encoder(
    config: EncoderConfig,
    items: pa.Table,
    training: Ragged,
    *,
    tokenizer: ItemTokenizer | None = None,
    say: Say = lambda line: None,
) -> Transformer:
    """A transformer with fresh weights, drawn from the global torch generator.

    Args:
        config: its settings.
        items: item table of V rows, whose text is read where the settings say so.
        training: sequences; an item without an event in them is known by its text alone.
        tokenizer: of the texts; default: the backbone's, or one trained on the items.
        say: called with what a person should know of the texts.

    Raises:
        InputError: the items have no text or lack an attribute, or the backbone cannot be read.
    """
    if not reads_text(config):
        return build_encoder(config, len(items))
    assert isinstance(config, TransformerConfig)
    check_present(items, config.attributes)
    backbone = Backbone.read(config.backbone) if config.backbone else None
    if tokenizer is None:
        tokenizer = backbone.tokenizer if backbone else catalogue_tokenizer(config, items)
    sentences = sentences_of(config, tokenizer, items)
    for note in sentences.notes(items[ITEM_ID]):
        say(f"note: {note}")
    encoder: TextEncoder | None = None
    if config.backbone and backbone:
        encoder = encoder_of(config.backbone, backbone)
    tower = TextTower(
        tokenizer,
        sentences,
        dim=config.dim,
        encoder=encoder,
        token_dropout=config.token_dropout,
        unknown_prob=config.unknown_prob,
    )
    tower.read()
    model = build_encoder(config, len(items), tower)
    counted = item_counts(training.values, len(items)) > 0
    model.trained_items.copy_(torch.from_numpy(np.r_[True, counted, True]))
    return model


def catalogue_tokenizer(config: SentenceConfig, items: pa.Table) -> ItemTokenizer:
    """A tokenizer trained on the columns of an item table that sentences are made of.

    Raises:
        InputError: no column is a text.
    """
    columns = text_columns(items, config.attributes, config.max_attributes)
    return ItemTokenizer.trained_on(items, columns, size=config.vocabulary, kind=config.tokenizer)
