"""BERT4Rec and SASRec: one transformer over a history, bidirectional or causal.

BERT4Rec: Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer", CIKM 2019, arXiv 1904.06690. As in the authors' code, and beyond the paper's text, the output
transform has a LayerNorm and so has the embedding. At prediction a MASK is appended and read.

SASRec: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781. As in the
paper, LayerNorm comes before each branch, the feed-forward is as wide as the model and the embedding is
multiplied by sqrt(D). What differs: keys and values are normalised as the queries are, as in every later
pre-norm transformer. At prediction the last item is read.

What differs in both: positions are counted from the end of a sequence (equal to padding on the left), so
that a row can be as narrow as its sequences; and several sequences may stand in one row, each of which sees
only itself.

Shapes: `B` rows, `L` columns, `Q` columns of a row that are asked, `D` width, `H` heads, `V` items, `T`
places that the loss reads.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from recsys.config import BERT4RecConfig, SASRecConfig
from recsys.models.dropout import dropout
from recsys.schema import PAD


class Block(nn.Module):
    """One transformer layer: attention and feed-forward, each a branch around which the state is carried."""

    def __init__(
        self, *, dim: int, inner: int, heads: int, dropout: float, attention_dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.pre_norm = pre_norm
        self.project_qkv = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, inner)
        self.narrow = nn.Linear(inner, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def attend(
        self, hidden_BLD: torch.Tensor, seen_BQL: torch.Tensor, asking_BQD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, Q, D) what each place gathers from the columns of its row that it may see.

        Args:
            hidden_BLD: states that the layer reads.
            seen_BQL: (B, 1, Q or 1, L) additive mask: 0 where a column may be seen, else -inf.
            asking_BQD: states of the places that ask; default: all.
        """
        D = hidden_BLD.shape[-1]
        if self.pre_norm:
            hidden_BLD = self.attention_norm(hidden_BLD)
        if asking_BQD is None:
            query_BQD, key_BLD, value_BLD = self.project_qkv(hidden_BLD).chunk(3, dim=-1)
        else:
            weight, bias = self.project_qkv.weight, self.project_qkv.bias
            asking_BQD = self.attention_norm(asking_BQD) if self.pre_norm else asking_BQD
            query_BQD = F.linear(asking_BQD, weight[:D], bias[:D])
            key_BLD, value_BLD = F.linear(hidden_BLD, weight[D:], bias[D:]).chunk(2, dim=-1)
        query_BHQd, key_BHLd, value_BHLd = (
            x.unflatten(-1, (self.heads, D // self.heads)).transpose(1, 2)
            for x in (query_BQD, key_BLD, value_BLD)
        )
        mixed_BHQd = self._mix(query_BHQd, key_BHLd, value_BHLd, seen_BQL)
        mixed_BQD: torch.Tensor = mixed_BHQd.transpose(1, 2).flatten(2)
        return mixed_BQD

    def _mix(
        self,
        query_BHQd: torch.Tensor,
        key_BHLd: torch.Tensor,
        value_BHLd: torch.Tensor,
        seen_BQL: torch.Tensor,
    ) -> torch.Tensor:
        dropped = self.attention_dropout if self.training else 0.0
        plain = query_BHQd.is_cpu and (dropped or query_BHQd.dtype != torch.float32)
        if not plain:
            return F.scaled_dot_product_attention(
                query_BHQd, key_BHLd, value_BHLd, attn_mask=seen_BQL.to(query_BHQd.dtype), dropout_p=dropped
            )
        # On a CPU the fused kernel is slower with dropout, and in bfloat16 its backward takes twice as long.
        scores_BHQL = (query_BHQd / math.sqrt(query_BHQd.shape[-1])) @ key_BHLd.transpose(2, 3)
        weights_BHQL = scores_BHQL.add_(seen_BQL).softmax(-1)
        return dropout(weights_BHQL, dropped) @ value_BHLd

    def finish(self, hidden_D: torch.Tensor, mixed_D: torch.Tensor) -> torch.Tensor:
        """(..., D) states of the next layer from those of this one and what they gathered; place by place."""
        summed_D = hidden_D + self._drop(self.project_out(mixed_D))
        if self.pre_norm:
            narrowed_D = self.narrow(F.relu(self.widen(self.feed_forward_norm(summed_D))))
            carried_D: torch.Tensor = summed_D + self._drop(narrowed_D)
            return carried_D
        normed_D = self.attention_norm(summed_D)
        narrowed_D = self.narrow(F.gelu(self.widen(normed_D)))
        finished_D: torch.Tensor = self.feed_forward_norm(normed_D + self._drop(narrowed_D))
        return finished_D

    def _drop(self, branch_D: torch.Tensor) -> torch.Tensor:
        return dropout(branch_D, self.dropout) if self.training else branch_D


class Transformer(nn.Module):
    """The encoder of `recsys.models.protocol.Encoder`, and the states that losses read."""

    def __init__(
        self,
        *,
        n_items: int,
        dim: int,
        layers: int,
        heads: int,
        max_length: int,
        dropout: float,
        attention_dropout: float,
        causal: bool,
    ) -> None:
        """Draw the weights from the global torch generator: truncated normal, deviation 0.02.

        Args:
            n_items: number of items V; the embedding also holds PAD (row 0) and MASK (row V+1).
            dim: width D, a multiple of `heads`.
            layers: number of transformer blocks.
            heads: attention heads H.
            max_length: positions N; BERT4Rec's appended MASK takes one of them.
            dropout: dropout of the embedding and of both branches of a block.
            attention_dropout: dropout of the attention weights.
            causal: True for SASRec, False for BERT4Rec.
        """
        super().__init__()
        self.n_items = n_items
        self.causal = causal
        self.max_history = max_length if causal else max_length - 1
        self.dropout = dropout
        self.scale = math.sqrt(dim) if causal else 1.0
        self.item_embedding = nn.Embedding(n_items + 2, dim, padding_idx=PAD)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.blocks = nn.ModuleList(
            Block(
                dim=dim,
                inner=dim if causal else 4 * dim,
                heads=heads,
                dropout=dropout,
                attention_dropout=attention_dropout,
                pre_norm=causal,
            )
            for _ in range(layers)
        )
        self.output_norm = nn.LayerNorm(dim)
        if not causal:
            self.embedding_norm = nn.LayerNorm(dim)
            self.output = nn.Linear(dim, dim)
            self.item_bias = nn.Parameter(torch.zeros(n_items))
        self.apply(_initialise)

    def states(
        self,
        items_BL: torch.Tensor,
        positions_BL: torch.Tensor,
        owner_BL: torch.Tensor,
        asking_BQ: torch.Tensor,
        places_T: torch.Tensor,
    ) -> torch.Tensor:
        """(T, D) states that are compared with items, of a batch whose rows hold several sequences.

        The last layer is computed at the places that are asked alone.

        Args:
            items_BL: item indices.
            positions_BL: distance of each item from the end of its sequence.
            owner_BL: which sequence of the batch each column belongs to; -1 at padding.
            asking_BQ: the columns of each row that are asked, filled up with any to equal numbers.
            places_T: which of these are meant, as row * Q + number.
        """
        hidden_BLD = self._embed(items_BL, positions_BL)
        same_B1LL = owner_BL[:, None, :, None] == owner_BL[:, None, None, :]
        seen_B1LL = self._additive(same_B1LL.tril() if self.causal else same_B1LL, hidden_BLD)
        hidden_BLD, last = self._up_to_last(hidden_BLD, seen_B1LL)
        (B, L, D), Q = hidden_BLD.shape, asking_BQ.shape[1]
        if Q == L:
            asking_BQD, mixed_BQD = hidden_BLD, last.attend(hidden_BLD, seen_B1LL)
        else:
            asking_BQD = hidden_BLD.gather(1, asking_BQ[:, :, None].expand(B, Q, D))
            seen_B1QL = seen_B1LL.gather(2, asking_BQ[:, None, :, None].expand(B, 1, Q, L))
            mixed_BQD = last.attend(hidden_BLD, seen_B1QL, asking_BQD)
        asking_TD, mixed_TD = (x.flatten(0, 1).index_select(0, places_T) for x in (asking_BQD, mixed_BQD))
        return self._transform(last.finish(asking_TD, mixed_TD))

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D or D+1) vectors of histories (B, L), L <= max_history, padded with PAD on the left.

        BERT4Rec's end in a 1, which the bias of the item table meets. The last layer computes the last column
        alone.
        """
        if not self.causal:
            items_BL = F.pad(items_BL, (0, 1), value=self.n_items + 1)
        B, L = items_BL.shape
        positions_L = L - 1 - torch.arange(L, device=items_BL.device)  # exporters know no falling range
        hidden_BLD = self._embed(items_BL, positions_L)
        seen_BLL = (items_BL != PAD)[:, None, None, :]
        if self.causal:
            # Padding sees itself, for the softmax of a row that sees nothing is not a number.
            itself_LL = torch.eye(L, dtype=torch.bool, device=items_BL.device)
            seen_BLL = seen_BLL.expand(B, 1, L, L).tril() | itself_LL
        seen_BLL = self._additive(seen_BLL, hidden_BLD)
        hidden_BLD, last = self._up_to_last(hidden_BLD, seen_BLL)
        asking_B1D = hidden_BLD[:, -1:].contiguous()  # of others the kernel, and the last bit, vary
        mixed_B1D = last.attend(hidden_BLD, seen_BLL[:, :, -1:], asking_B1D)
        vectors_BD = self._transform(last.finish(asking_B1D, mixed_B1D))[:, 0]
        return vectors_BD if self.causal else F.pad(vectors_BD, (0, 1), value=1.0)

    def item_table(self) -> torch.Tensor:
        """(V, D or D+1) item vectors; BERT4Rec's have the item bias as the last dimension."""
        vectors_VD: torch.Tensor = self.item_embedding.weight[1 : self.n_items + 1]
        return vectors_VD if self.causal else torch.cat([vectors_VD, self.item_bias[:, None]], dim=1)

    def output_bias(self) -> torch.Tensor:
        """(V+2,) bias of each row of the item embedding: -inf for PAD and MASK, which are never an answer."""
        bias_V = self.item_embedding.weight.new_zeros(self.n_items) if self.causal else self.item_bias
        return F.pad(bias_V, (1, 1), value=-torch.inf)

    def _embed(self, items_BL: torch.Tensor, positions_BL: torch.Tensor) -> torch.Tensor:
        embedded_BLD = self.item_embedding(items_BL) * self.scale + self.position_embedding(positions_BL)
        if not self.causal:
            embedded_BLD = self.embedding_norm(embedded_BLD)
        return dropout(embedded_BLD, self.dropout) if self.training else embedded_BLD

    def _up_to_last(self, hidden_BLD: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, Block]:
        """States that the last layer reads, and the last layer."""
        *earlier, last = cast("list[Block]", list(self.blocks))
        for block in earlier:
            hidden_BLD = block.finish(hidden_BLD, block.attend(hidden_BLD, seen))
        return hidden_BLD, last

    def _transform(self, hidden_D: torch.Tensor) -> torch.Tensor:
        transformed_D: torch.Tensor = self.output_norm(
            hidden_D if self.causal else F.gelu(self.output(hidden_D))
        )
        return transformed_D

    @staticmethod
    def _additive(seen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)


def build_bert4rec(config: BERT4RecConfig, n_items: int) -> Transformer:
    """BERT4Rec with fresh weights, as the configuration says."""
    return _build(config, n_items, causal=False)


def build_sasrec(config: SASRecConfig, n_items: int) -> Transformer:
    """SASRec with fresh weights, as the configuration says."""
    return _build(config, n_items, causal=True)


def _build(config: BERT4RecConfig | SASRecConfig, n_items: int, *, causal: bool) -> Transformer:
    return Transformer(
        n_items=n_items,
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        max_length=config.max_length,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        causal=causal,
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
