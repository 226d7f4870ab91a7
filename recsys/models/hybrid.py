"""Transformers over items that have a text: made of their parts, and of a bundle's weights.

Shapes: `V` items.
"""

from __future__ import annotations

import torch

from recsys.config import BERT4RecConfig, SASRecConfig
from recsys.models.text_encoder import TextEncoder
from recsys.models.text_tower import SENTENCES, TextTower
from recsys.models.transformer import Transformer, build_bert4rec, build_sasrec
from recsys.text.tokens import ItemTokenizer, Sentences


def build_hybrid(config: BERT4RecConfig | SASRecConfig, n_items: int, tower: TextTower) -> Transformer:
    """A transformer with fresh weights over what a tower says of items."""
    if isinstance(config, BERT4RecConfig):
        return build_bert4rec(config, n_items, tower)
    return build_sasrec(config, n_items, tower)


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
    model = build_hybrid(config, n_items, tower)
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
