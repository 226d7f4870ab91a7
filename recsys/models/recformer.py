"""Recformer: items are the sentences of their attributes, histories are sentences of these; no item ids.

Li et al., "Text Is All You Need: Learning Language Representations for Sequential Recommendation", KDD 2023,
arXiv 2305.13731. One encoder (`recsys.models.text_encoder`) reads a history, newest item first, and an item
as a history of one; the score of an item is the cosine of the two vectors divided by tau. The items' vectors
stand in a table that training refreshes, so that a history alone is encoded to recommend. The weights that
filled the table are kept beside those that read histories, which training moves on: so a new item gets the
vector that it would have had.

What differs: a token cut off by the length limits is never laid out, and an item without a text is one [UNK],
which training shows in place of some items so that it is learned.

Shapes: `B` histories, `L` items of a history, `E` items of all of them, `D` width, `V` items, `N` tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from recsys.config import RecformerConfig
from recsys.models.reading import joined_sentences
from recsys.models.text_encoder import TextEncoder
from recsys.models.text_tower import SENTENCES, sentence_arrays
from recsys.schema import PAD
from recsys.text.stream import SentenceTable, Stream
from recsys.text.tokens import ItemTokenizer, Sentences

HISTORIES_AT_ONCE = 64
"""Of `encode`: few enough for the caches. A multiple of four, see `recsys.encoding`."""


class Recformer(nn.Module):
    """The encoder of `recsys.models.protocol.Encoder`, with the catalogue that it was given."""

    def __init__(
        self,
        encoder: TextEncoder,
        tokenizer: ItemTokenizer,
        sentences: Sentences,
        *,
        max_items: int,
        max_tokens: int,
        temperature: float,
    ) -> None:
        """Take an encoder and a catalogue, whose vectors are all 0 until `refresh`.

        Args:
            encoder: reads tokens.
            tokenizer: made the sentences.
            sentences: of V items.
            max_items: newest items of a history that are read.
            max_tokens: tokens of a history that are read.
            temperature: tau.
        """
        super().__init__()
        self.encoder = encoder
        self.item_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_items = max_items
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.sentence_tokens: torch.Tensor
        self.sentence_types: torch.Tensor
        self.sentence_offsets: torch.Tensor
        self.item_vectors: torch.Tensor
        self.stage_epochs: torch.Tensor
        for name, array in zip(SENTENCES, sentence_arrays(sentences), strict=True):
            self.register_buffer(name, array)
        dim = encoder.token_embedding.embedding_dim
        self.register_buffer("item_vectors", torch.zeros(len(sentences.tokens) - 1, dim))
        self.register_buffer("stage_epochs", torch.zeros(2, dtype=torch.int64))

    @property
    def n_items(self) -> int:
        """Number of items V."""
        return len(self.item_vectors)

    @property
    def max_history(self) -> int:
        """Newest items of a history that are read."""
        return self.max_items

    @property
    def sentences(self) -> SentenceTable:
        """The sentences of the catalogue; row 0 is that of items without a text."""
        return SentenceTable(self.sentence_tokens, self.sentence_types, self.sentence_offsets)

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) vectors, of length 1 / tau, of histories (B, L) padded with PAD on the left."""
        parts = [
            self.vectors(self.stream(rows.flip(1)[rows.flip(1) != PAD], (rows != PAD).sum(1)))
            for rows in torch.split(items_BL, HISTORIES_AT_ONCE)
        ]
        return torch.cat(parts) / self.temperature

    def item_table(self) -> torch.Tensor:
        """(V, D) item vectors of length 1, as they were when last refreshed."""
        return self.item_vectors

    def stream(self, items_E: torch.Tensor, counts_B: torch.Tensor, *, tight: bool = False) -> Stream:
        """Lay out histories, newest item first; see `SentenceTable.stream`."""
        return self.sentences.stream(
            items_E,
            counts_B,
            start=self.tokenizer.start,
            pad=self.tokenizer.pad,
            max_tokens=self.max_tokens,
            width=self.encoder.reach,
            tight=tight,
        )

    def vectors(self, stream: Stream) -> torch.Tensor:
        """(B, D) vectors of length 1."""
        return _unit(self.encoder.summaries(stream))

    def item_stream(self, items_B: torch.Tensor) -> Stream:
        """Lay out items, each a history of its own."""
        return self.stream(items_B, torch.ones_like(items_B), tight=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode every item anew, with the weights as they are now."""
        self.item_encoder.load_state_dict(self.encoder.state_dict())
        self._fill_table()

    def with_sentences(self, sentences: Sentences) -> Recformer:
        """A view of the model over another catalogue, which is encoded; its weights are these."""
        own_VD = self.item_vectors
        vectors_VD = own_VD.new_zeros(len(sentences.tokens) - 1, own_VD.shape[1])
        other = self._with_items(sentence_arrays(sentences, own_VD.device), vectors_VD)
        other._fill_table()
        return other

    @torch.no_grad()
    def extended(self, sentences: Sentences) -> Recformer:
        """A view of the model with more items, after its own."""
        vectors_VD = torch.cat([self.item_vectors, self.with_sentences(sentences).item_vectors])
        return self._with_items(joined_sentences(*self.sentences, sentences), vectors_VD)

    def extended_state(self, sentences: Sentences) -> dict[str, torch.Tensor]:
        """Weights of `extended`, to be stored."""
        return dict(self.extended(sentences).state_dict())

    @property
    def row_weights(self) -> list[str]:
        """Weights with a row an item: none."""
        return []

    def _with_items(self, table: Sequence[torch.Tensor], vectors_VD: torch.Tensor) -> Recformer:
        """A view of the model with these sentences and vectors of items."""
        other = copy.copy(self)
        other._buffers = (
            self._buffers | dict(zip(SENTENCES, table, strict=True)) | {"item_vectors": vectors_VD}
        )
        return other

    @torch.no_grad()
    def _fill_table(self) -> None:
        """Encode every item, those of similar length together."""
        training = self.item_encoder.training
        self.item_encoder.eval()
        for rows in self.sentences.by_length():
            items = rows[rows > 0]
            self.item_vectors[items - 1] = _unit(self.item_encoder.summaries(self.item_stream(items)))
        self.item_encoder.train(training)  # Lightning warns of a part that is in another mode


def _unit(states_BD: torch.Tensor) -> torch.Tensor:
    return F.normalize(states_BD.float(), dim=-1)


def build_recformer(config: RecformerConfig, tokenizer: ItemTokenizer, sentences: Sentences) -> Recformer:
    """Recformer with fresh weights, as the configuration says."""
    encoder = TextEncoder(
        tokens=len(tokenizer),
        max_tokens=config.max_tokens,
        max_items=config.max_length,
        window=config.window,
        dim=config.dim,
        inner=config.inner,
        layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
        norm_eps=config.norm_eps,
    )
    return Recformer(
        encoder,
        tokenizer,
        sentences,
        max_items=config.max_length,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
    )


def recformer_from_state(
    config: RecformerConfig, n_items: int, state: dict[str, torch.Tensor], tokenizer: ItemTokenizer
) -> Recformer:
    """Recformer with the weights and the catalogue of a bundle.

    Raises:
        RuntimeError: the weights do not fit the configuration, the tokenizer or `n_items`.
    """
    tokens, types, offsets, vectors = (state[name] for name in (*SENTENCES, "item_vectors"))
    if len(vectors) != n_items or len(offsets) != n_items + 2:
        raise RuntimeError(f"they are of {len(vectors)} items and {len(offsets) - 2} sentences")
    if len(state["encoder.token_embedding.weight"]) != len(tokenizer):
        raise RuntimeError(
            f"they are of {len(state['encoder.token_embedding.weight'])} tokens, the tokenizer has "
            f"{len(tokenizer)}"
        )
    stored = Sentences.stored(tokens.numpy(), types.numpy(), offsets.numpy())
    model = build_recformer(config, tokenizer, stored)
    model.load_state_dict(state)
    return model


def stage_epochs(model: object) -> tuple[int, int]:
    """Epochs of both stages of training that a Recformer has behind it."""
    assert isinstance(model, Recformer)
    first, second = model.stage_epochs.tolist()
    return first, second
