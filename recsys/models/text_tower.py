"""Vectors of items' texts, for a transformer over items.

The text of an item becomes features, and a small network projects these to the transformer's width. Features
are either the mean of token vectors that are trained with everything else, or what a pre-trained encoder that
stays as it is says on average over an item's tokens (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019), read
once for all items.

Shapes: `V` items, `U` of them, `N` tokens of all sentences, `F` width of features, `D` of the transformer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from recsys.models.reading import joined_sentences
from recsys.models.text_encoder import TextEncoder
from recsys.text.stream import SentenceTable
from recsys.text.tokens import PADDING, VALUE, ItemTokenizer, Sentences

WIDER = 2
"""Width of the network's inner layer in D."""
LENGTH = 0.5
"""Of a text's vector on average, about what items' own vectors grow to. It is fixed, and what texts have in
common is taken off (Ioffe and Szegedy, "Batch Normalization", ICML 2015): left to itself the network made all
texts alike and longer than own vectors, which then said little."""
SENTENCES = ("sentence_tokens", "sentence_types", "sentence_offsets")


class TextTower(nn.Module):
    """Items' texts to vectors."""

    def __init__(
        self,
        tokenizer: ItemTokenizer,
        sentences: Sentences,
        *,
        dim: int,
        encoder: TextEncoder | None = None,
        token_dropout: float = 0.0,
        unknown_prob: float = 0.0,
    ) -> None:
        """Draw the weights from the global torch generator.

        Args:
            tokenizer: made the sentences.
            sentences: of V items.
            dim: width D.
            encoder: makes features and is not trained; None trains token vectors.
            token_dropout: share of the tokens that training does not read.
            unknown_prob: share of the items that training shows as the sentence of items without a text.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.token_dropout = token_dropout
        self.unknown_prob = unknown_prob
        self.sentence_tokens: torch.Tensor
        self.sentence_types: torch.Tensor
        self.sentence_offsets: torch.Tensor
        for name, array in zip(SENTENCES, sentence_arrays(sentences), strict=True):
            self.register_buffer(name, array)
        self.encoder = encoder
        if encoder is None:
            width = dim
            self.token_embedding = nn.Embedding(len(tokenizer), dim)
            nn.init.normal_(self.token_embedding.weight, std=0.05)
        else:
            encoder.requires_grad_(False)
            width = encoder.token_embedding.embedding_dim
            self.features: torch.Tensor
            self.encoder_sizes: torch.Tensor
            self.register_buffer("features", torch.zeros(len(sentences.tokens), width))
            sizes = encoder.blocks[0].heads, 2 * encoder.reach, encoder.embedding_norm.eps
            self.register_buffer("encoder_sizes", torch.tensor(sizes, dtype=torch.float64))
        self.norm = nn.LayerNorm(width)
        self.straight = nn.Linear(width, dim, bias=False)
        self.widen = nn.Linear(width, WIDER * dim)
        self.narrow = nn.Linear(WIDER * dim, dim, bias=False)
        self.centre = nn.BatchNorm1d(dim, affine=False)

    def forward(self, items_U: torch.Tensor) -> torch.Tensor:
        """(U, D) vectors of the texts of items; 0 is the text of those that have none."""
        if self.training and self.unknown_prob:
            shown_U = torch.rand(len(items_U), device=items_U.device) < self.unknown_prob
            items_U = items_U.masked_fill(shown_U, 0)
        if self.encoder is not None:
            return self._projected(self.features[items_U])
        return self._projected(self._means(self._sentences(), items_U))

    def of_sentences(self, sentences: Sentences) -> torch.Tensor:
        """(V, D) vectors of the rows of other sentences, that of items without a text left out."""
        table = SentenceTable(*sentence_arrays(sentences, self.norm.weight.device))
        rows = torch.arange(1, len(sentences.tokens), device=table.offsets.device)
        if self.encoder is not None:
            return self._projected(self._read(table)[rows])
        return self._projected(self._means(table, rows))

    @torch.no_grad()
    def read(self) -> None:
        """Make the features of all items; those of token vectors are made as they are used."""
        if self.encoder is not None:
            self.features.copy_(self._read(self._sentences()))

    def extended_state(self, sentences: Sentences, prefix: str) -> dict[str, torch.Tensor]:
        """What the tower keeps of its items, with more of them."""
        joined = joined_sentences(*self._sentences(), sentences)
        state = {f"{prefix}{name}": array for name, array in zip(SENTENCES, joined, strict=True)}
        if self.encoder is not None:
            new = self._read(SentenceTable(*sentence_arrays(sentences, self.features.device)))[1:]
            state[f"{prefix}features"] = torch.cat([self.features, new])
        return state

    def _sentences(self) -> SentenceTable:
        return SentenceTable(self.sentence_tokens, self.sentence_types, self.sentence_offsets)

    def _projected(self, features_UF: torch.Tensor) -> torch.Tensor:
        normed_UF = self.norm(features_UF)
        projected_UD = self.straight(normed_UF) + self.narrow(F.gelu(self.widen(normed_UF)))
        centred_UD: torch.Tensor = self.centre(projected_UD)
        return centred_UD * (LENGTH / math.sqrt(centred_UD.shape[1]))

    def _means(self, table: SentenceTable, rows_U: torch.Tensor) -> torch.Tensor:
        """(U, D) mean vectors of the tokens of sentences; keys, which all items share, say nothing."""
        lengths_U = table.offsets[rows_U + 1] - table.offsets[rows_U]
        begin_U = lengths_U.cumsum(0) - lengths_U
        within_N = torch.arange(int(lengths_U.sum()), device=rows_U.device)
        source_N = within_N + (table.offsets[rows_U] - begin_U).repeat_interleave(lengths_U)
        counted_N = (table.types_N[source_N] == VALUE).float()
        if self.training and self.token_dropout:
            counted_N *= torch.rand_like(counted_N) >= self.token_dropout
        weight = self.token_embedding.weight
        sums_UD = F.embedding_bag(
            table.tokens_N[source_N].long(), weight, begin_U, mode="sum", per_sample_weights=counted_N
        )
        owner_N = torch.arange(len(rows_U), device=rows_U.device).repeat_interleave(lengths_U)
        counts_U = counted_N.new_zeros(len(rows_U)).index_add_(0, owner_N, counted_N)
        return sums_UD / counts_U.clamp_min(1)[:, None]

    def _read(self, table: SentenceTable) -> torch.Tensor:
        """(V+1, F) mean states of the encoder over the tokens of each sentence."""
        assert self.encoder is not None
        features_VF = table.tokens_N.new_zeros(
            (len(table.offsets) - 1, self.encoder.token_embedding.embedding_dim), dtype=torch.float32
        )
        mode = self.encoder.training
        self.encoder.eval()
        for rows in table.by_length():
            stream = table.stream(
                rows,
                torch.ones_like(rows),
                start=self.tokenizer.start,
                pad=self.tokenizer.pad,
                max_tokens=self.encoder.place_embedding.num_embeddings,
                width=self.encoder.reach,
                tight=True,
            )
            real_nc1 = (stream.types_nc != PADDING)[:, :, None]
            states_nF = (self.encoder.states(stream) * real_nc1).sum(1)
            counts_n = real_nc1.sum(1).float()
            summed_UF = states_nF.new_zeros((len(rows), states_nF.shape[1])).index_add_(
                0, stream.owner_n, states_nF
            )
            counts_U1 = counts_n.new_zeros((len(rows), 1)).index_add_(0, stream.owner_n, counts_n)
            features_VF[rows] = summed_UF / counts_U1
        self.encoder.train(mode)
        return features_VF


def sentence_arrays(sentences: Sentences, device: torch.device | None = None) -> list[torch.Tensor]:
    """Sentences as tensors, in the order of `SENTENCES`."""
    arrays = sentences.tokens.values, sentences.types, sentences.tokens.offsets
    return [torch.from_numpy(array).to(device) for array in arrays]
