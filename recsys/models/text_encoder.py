"""Recformer's encoder: a Longformer over the tokens of a history, whose <s> is the history's vector.

Li et al., "Text Is All You Need: Learning Language Representations for Sequential Recommendation", KDD 2023,
arXiv 2305.13731; Beltagy et al., "Longformer: The Long-Document Transformer", arXiv 2004.05150. Each token
attends to half a window on either side and to <s>; <s> attends to every token through projections of its own.
Four embeddings are summed: token, place of the token, type of the token, place of the item.

What differs from the public code is how it is computed, not what: histories are a stream of blocks (see
`recsys.text.stream`) that attend to themselves and their two neighbours, so that time and memory grow with
the number of tokens; <s> has one query, so its keys and values are never made: the query is multiplied into
the key projection instead, and the mixed states are projected after they are mixed; and where only <s> is
asked, the last layer computes nothing else. The bias of its keys, which adds the same to every score of a
softmax, is left out.

Shapes: `B` histories, `n` blocks, `c` columns of a block, `k` keys of a block, `D` width, `H` heads, `d`
width of a head.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from recsys.models.dropout import dropout
from recsys.text.stream import Stream
from recsys.text.tokens import PADDING, START, TOKEN_TYPES


class Sight(NamedTuple):
    """What may be seen in a stream; the same in every layer.

    Attributes:
        keys_nck: (n, 1, c, k) additive mask of each block's keys: its neighbours before, itself, its
            neighbour after (itself only where histories stand alone), and <s>, the last.
        real_n1c: (n, 1, c) bool, where a token is.
    """

    keys_nck: torch.Tensor
    real_n1c: torch.Tensor


def sight(stream: Stream, reach: int, dtype: torch.dtype) -> Sight:
    """Every token sees those at most `reach` before and after it in its history, and <s>."""
    c, device = stream.types_nc.shape[1], stream.types_nc.device
    real_nc = stream.types_nc != PADDING
    # <s> is a key of its own, so that no token sees it twice.
    near_nc = real_nc & (stream.types_nc != START)
    columns = torch.arange(c, device=device)
    if stream.alone:
        keys_nk, at_k = near_nc, columns
    else:
        same_n = stream.owner_n[1:] == stream.owner_n[:-1]
        before_n, after_n = F.pad(same_n, (1, 0)), F.pad(same_n, (0, 1))
        before_nc, after_nc = near_nc.roll(1, 0) & before_n[:, None], near_nc.roll(-1, 0) & after_n[:, None]
        keys_nk = torch.cat([before_nc, near_nc, after_nc], dim=1)
        at_k = torch.cat([columns - c, columns, columns + c])
    within_ck = (columns[:, None] - at_k).abs() <= reach
    seen_nck = F.pad(keys_nk[:, None, :] & within_ck, (0, 1), value=True)
    mask_nck = torch.zeros(seen_nck.shape, dtype=dtype, device=device).masked_fill_(~seen_nck, -torch.inf)
    return Sight(mask_nck[:, None], real_nc[:, None])


class TextBlock(nn.Module):
    """One layer, LayerNorm after each residual sum."""

    def __init__(self, *, dim: int, inner: int, heads: int, dropout: float, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.project_qkv = nn.Linear(dim, 3 * dim)
        self.start_query = nn.Linear(dim, dim)
        self.start_key = nn.Linear(dim, dim, bias=False)
        self.start_value = nn.Linear(dim, dim)
        self.project_out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.widen = nn.Linear(dim, inner)
        self.narrow = nn.Linear(inner, dim)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, hidden_ncD: torch.Tensor, stream: Stream, seen: Sight) -> torch.Tensor:
        """(n, c, D) states of the next layer."""
        mixed_ncD = self._mix_near(hidden_ncD, stream, seen)
        start_BD = self._mix_all(hidden_ncD, stream, seen)
        mixed_ncD = mixed_ncD.index_put(
            (stream.first_B, torch.zeros_like(stream.first_B)), start_BD.to(mixed_ncD.dtype)
        )
        return self._finish(hidden_ncD, mixed_ncD)

    def summarise(self, hidden_ncD: torch.Tensor, stream: Stream, seen: Sight) -> torch.Tensor:
        """(B, D) states of <s> alone."""
        return self._finish(hidden_ncD[stream.first_B, 0], self._mix_all(hidden_ncD, stream, seen))

    def _mix_near(self, hidden_ncD: torch.Tensor, stream: Stream, seen: Sight) -> torch.Tensor:
        """(n, c, D) what each token gathers from its window and from <s>."""
        projected = self.project_qkv(hidden_ncD)
        n, c, _ = projected.shape
        query, key, value = projected.view(n, c, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        key_nHkd, value_nHkd = (self._keys(each, stream) for each in (key, value))
        mask = seen.keys_nck.to(query.dtype)
        mixed_nHcd = F.scaled_dot_product_attention(query, key_nHkd, value_nHkd, attn_mask=mask)
        return mixed_nHcd.transpose(1, 2).flatten(2)

    @staticmethod
    def _keys(own_nHcd: torch.Tensor, stream: Stream) -> torch.Tensor:
        """(n, H, k, d) what stands in the blocks that each block sees, and at <s>."""
        start_nH1d = own_nHcd[stream.first_B, :, :1].index_select(0, stream.owner_n)
        if stream.alone:
            return torch.cat([own_nHcd, start_nH1d], dim=2)
        return torch.cat([own_nHcd.roll(1, 0), own_nHcd, own_nHcd.roll(-1, 0), start_nH1d], dim=2)

    def _mix_all(self, hidden_ncD: torch.Tensor, stream: Stream, seen: Sight) -> torch.Tensor:
        """(B, D) what <s> of each history gathers from all of its tokens."""
        owner_n, B, D = stream.owner_n, len(stream.first_B), hidden_ncD.shape[-1]
        d = D // self.heads
        query_BHd = self.start_query(hidden_ncD[stream.first_B, 0]).view(B, self.heads, d)
        key_HdD = self.start_key.weight.view(self.heads, d, D)
        asked_BHD = torch.einsum("bhd,hde->bhe", query_BHd, key_HdD) / math.sqrt(d)
        scores_nHc = (asked_BHD[owner_n] @ hidden_ncD.transpose(1, 2)).float()
        scores_nHc = scores_nHc.masked_fill(~seen.real_n1c, -torch.inf)
        # Softmax over the blocks of a history: its largest score is taken off, and the sums are divided last.
        with torch.no_grad():
            top_BH = scores_nHc.new_full((B, self.heads), -torch.inf)
            owner_nH = owner_n[:, None].expand(-1, self.heads)
            top_BH.scatter_reduce_(0, owner_nH, scores_nHc.amax(2), "amax")
        weights_nHc = (scores_nHc - top_BH[owner_n][:, :, None]).exp()
        total_BH = scores_nHc.new_zeros((B, self.heads)).index_add(0, owner_n, weights_nHc.sum(2))
        gathered_nHD = (weights_nHc.to(hidden_ncD.dtype) @ hidden_ncD).float()
        gathered_BHD = scores_nHc.new_zeros((B, self.heads, D)).index_add(0, owner_n, gathered_nHD)
        gathered_BHD = (gathered_BHD / total_BH[:, :, None]).to(hidden_ncD.dtype)
        value_HdD = self.start_value.weight.view(self.heads, d, D)
        mixed_BHd = torch.einsum("bhe,hde->bhd", gathered_BHD, value_HdD)
        return mixed_BHd.flatten(1) + self.start_value.bias

    def _finish(self, hidden_D: torch.Tensor, mixed_D: torch.Tensor) -> torch.Tensor:
        normed_D = self.attention_norm(hidden_D + self._drop(self.project_out(mixed_D)))
        narrowed_D = self.narrow(F.gelu(self.widen(normed_D)))
        finished_D: torch.Tensor = self.feed_forward_norm(normed_D + self._drop(narrowed_D))
        return finished_D

    def _drop(self, branch_D: torch.Tensor) -> torch.Tensor:
        return dropout(branch_D, self.dropout) if self.training else branch_D


class TextEncoder(nn.Module):
    """Tokens in, a state for each token or for each history out."""

    def __init__(
        self,
        *,
        tokens: int,
        max_tokens: int,
        max_items: int,
        window: int,
        dim: int,
        inner: int,
        layers: int,
        heads: int,
        dropout: float,
        norm_eps: float,
    ) -> None:
        """Draw the weights from the global torch generator: normal, deviation 0.02.

        Args:
            tokens: size of the tokenizer.
            max_tokens: places of tokens, that of <s> among them.
            max_items: places of items.
            window: tokens that a token sees, half of them before it and half after.
            dim: width D, a multiple of `heads`.
            inner: width of the feed-forward layers.
            layers: number of layers.
            heads: attention heads H.
            dropout: dropout of the embedding and of both branches of a layer.
            norm_eps: added to variances in LayerNorm.
        """
        super().__init__()
        self.reach = window // 2
        self.dropout = dropout
        self.token_embedding = nn.Embedding(tokens, dim)
        self.place_embedding = nn.Embedding(max_tokens, dim)
        self.type_embedding = nn.Embedding(TOKEN_TYPES, dim)
        self.item_embedding = nn.Embedding(max_items + 1, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.blocks = nn.ModuleList(
            TextBlock(dim=dim, inner=inner, heads=heads, dropout=dropout, norm_eps=norm_eps)
            for _ in range(layers)
        )
        self.apply(_initialise)

    def states(self, stream: Stream) -> torch.Tensor:
        """(n, c, D) states of all tokens; those of padding mean nothing."""
        hidden_ncD, seen = self._embed(stream)
        for block in self.blocks:
            hidden_ncD = block(hidden_ncD, stream, seen)
        return hidden_ncD

    def summaries(self, stream: Stream) -> torch.Tensor:
        """(B, D) states of <s>; the last layer computes no others."""
        hidden_ncD, seen = self._embed(stream)
        *earlier, last = cast("list[TextBlock]", list(self.blocks))
        for block in earlier:
            hidden_ncD = block(hidden_ncD, stream, seen)
        return last.summarise(hidden_ncD, stream, seen)

    def unused_by_summaries(self) -> nn.Module:
        """The one part that `summaries` does not touch."""
        return cast(TextBlock, self.blocks[-1]).project_qkv

    def _embed(self, stream: Stream) -> tuple[torch.Tensor, Sight]:
        summed_ncD = (
            self.token_embedding(stream.tokens_nc)
            + self.place_embedding(stream.places_nc)
            + self.type_embedding(stream.types_nc)
            + self.item_embedding(stream.items_nc)
        )
        hidden_ncD = self.embedding_norm(summed_ncD)
        if self.training:
            hidden_ncD = dropout(hidden_ncD, self.dropout)
        return hidden_ncD, sight(stream, self.reach, hidden_ncD.dtype)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
