"""Transformers made as a configuration says, with fresh weights or with those of a bundle.

Shapes: `V` items.
"""

from __future__ import annotations

import torch

from recsys.config import BERT4RecConfig, SASRecConfig, TransformerConfig
from recsys.models.text_encoder import TextEncoder
from recsys.models.text_tower import SENTENCES, TextTower
from recsys.models.transformer import Transformer
from recsys.text.tokens import ItemTokenizer, Sentences


def build_bert4rec(config: BERT4RecConfig, n_items: int, tower: TextTower | None = None) -> Transformer:
    """BERT4Rec with fresh weights, as the configuration says."""
    biased = config.scoring == "dot"
    return _build(config, n_items, tower, causal=config.read == "last_item", spare=1, biased=biased)


def build_sasrec(config: SASRecConfig, n_items: int, tower: TextTower | None = None) -> Transformer:
    """SASRec with fresh weights, as the configuration says."""
    return _build(config, n_items, tower, causal=True, spare=0, biased=False)


def _build(
    config: TransformerConfig,
    n_items: int,
    tower: TextTower | None,
    *,
    causal: bool,
    spare: int,
    biased: bool,
) -> Transformer:
    return Transformer(
        n_items=n_items,
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        max_length=config.max_length,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        causal=causal,
        spare=spare,
        pre_norm=config.norm == "pre",
        feed_forward=config.feed_forward,
        temperature=config.temperature if config.scoring == "cosine" else None,
        biased=biased,
        tower=tower,
        own_vectors=config.item_encoder != "text",
        own_dropout=config.id_dropout,
    )


def hybrid_from_state(
    config: BERT4RecConfig | SASRecConfig,
    n_items: int,
    state: dict[str, torch.Tensor],
    tokenizer: ItemTokenizer,
) -> Transformer:
    """The transformer and the tower with the weights and the catalogue of a bundle.

    Raises:
        RuntimeError: the weights do not fit the configuration, the tokenizer or `n_items`.
    """
    tokens, types, offsets = (state[f"tower.{name}"].numpy() for name in SENTENCES)
    if len(offsets) != n_items + 2:
        raise RuntimeError(f"they are of {len(offsets) - 2} sentences")
    encoder = None
    if "tower.encoder_sizes" in state:
        encoder = _encoder_of(state)
    tower = TextTower(tokenizer, Sentences.stored(tokens, types, offsets), dim=config.dim, encoder=encoder)
    if isinstance(config, BERT4RecConfig):
        model = build_bert4rec(config, n_items, tower)
    else:
        model = build_sasrec(config, n_items, tower)
    model.load_state_dict(state)
    return model


def _encoder_of(state: dict[str, torch.Tensor]) -> TextEncoder:
    """A text encoder of the sizes that weights have."""
    part = "tower.encoder."
    heads, window, norm_eps = state["tower.encoder_sizes"].tolist()
    tokens, dim = state[f"{part}token_embedding.weight"].shape
    return TextEncoder(
        tokens=tokens,
        max_tokens=len(state[f"{part}place_embedding.weight"]),
        max_items=len(state[f"{part}item_embedding.weight"]) - 1,
        window=int(window),
        dim=dim,
        inner=len(state[f"{part}blocks.0.widen.weight"]),
        layers=sum(name.startswith(part) and name.endswith(".widen.weight") for name in state),
        heads=int(heads),
        dropout=0.0,
        norm_eps=norm_eps,
    )
