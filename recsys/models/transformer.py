"""BERT4Rec and SASRec: one transformer over a history, bidirectional or causal.

BERT4Rec: Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer", CIKM 2019, arXiv 1904.06690. As in the authors' code, and beyond the paper's text, the output
transform has a LayerNorm and so has the embedding. At prediction a MASK is appended and read.

SASRec: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781. As in the
paper, LayerNorm comes before each branch, the feed-forward is as wide as the model and the embedding is
multiplied by sqrt(D). What differs: keys and values are normalised as the queries are, as in every later
pre-norm transformer. At prediction the last item is read.

The configuration chooses between these published forms and another that trains better: LayerNorm before
each branch, a feed-forward of 4D, and scores that are cosines divided by a temperature, so that no item has
more pull than another by its length or a bias of its own.

What differs in all: positions are counted from the end of a sequence (equal to padding on the left), so
that a row can be as narrow as its sequences; and several sequences may stand in one row, each of which sees
only itself.

Shapes: `B` rows, `L` columns, `Q` columns of a row that are asked, `D` width, `H` heads, `V` items, `U`
of them that a step uses, `T` places that the loss reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from recsys.config import BERT4RecConfig, SASRecConfig
from recsys.models.dropout import dropout
from recsys.schema import PAD

FEED_FORWARDS: dict[str, tuple[int, Callable[[torch.Tensor], torch.Tensor]]] = {
    "gelu": (4, F.gelu),
    "relu": (1, F.relu),
}
"""Name -> width of the inner layer in D, and its activation."""


class Block(nn.Module):
    """One transformer layer: attention and feed-forward, each a branch around which the state is carried."""

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        dropout: float,
        attention_dropout: float,
        pre_norm: bool,
        feed_forward: str,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.pre_norm = pre_norm
        self.project_qkv = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        factor, self.activation = FEED_FORWARDS[feed_forward]
        inner = factor * dim
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
        if not self.pre_norm:
            summed_D = self.attention_norm(summed_D)
        read_D = self.feed_forward_norm(summed_D) if self.pre_norm else summed_D
        narrowed_D = self.narrow(self.activation(self.widen(read_D)))
        carried_D: torch.Tensor = summed_D + self._drop(narrowed_D)
        return carried_D if self.pre_norm else self.feed_forward_norm(carried_D)

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
        spare: int,
        pre_norm: bool,
        feed_forward: str,
        temperature: float | None,
        biased: bool,
    ) -> None:
        """Draw the weights from the global torch generator: truncated normal, deviation 0.02.

        Args:
            n_items: number of items V; the embedding also holds PAD (row 0) and MASK (row V+1).
            dim: width D, a multiple of `heads`.
            layers: number of transformer blocks.
            heads: attention heads H.
            max_length: positions N.
            dropout: dropout of the embedding and of both branches of a block.
            attention_dropout: dropout of the attention weights.
            causal: whether a history is read by what came before each item and asked at its last one, or read
                both ways and asked at a MASK that is appended.
            spare: positions behind the last item, where the MASK stands.
            pre_norm: LayerNorm before each branch, and not after each sum.
            feed_forward: a name of `FEED_FORWARDS`.
            temperature: of cosine scores; None for inner products.
            biased: whether items have a bias besides.
        """
        super().__init__()
        self.n_items = n_items
        self.causal = causal
        self.spare = spare
        self.max_history = max_length - spare
        self.dropout = dropout
        self.pre_norm = pre_norm
        self.temperature = temperature
        self.biased = biased
        self.scale = math.sqrt(dim) if pre_norm else 1.0
        self.item_embedding = nn.Embedding(n_items + 2, dim, padding_idx=PAD)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.blocks = nn.ModuleList(
            Block(
                dim=dim,
                heads=heads,
                dropout=dropout,
                attention_dropout=attention_dropout,
                pre_norm=pre_norm,
                feed_forward=feed_forward,
            )
            for _ in range(layers)
        )
        self.output_norm = nn.LayerNorm(dim)
        if not pre_norm:
            self.embedding_norm = nn.LayerNorm(dim)
            self.output = nn.Linear(dim, dim)
        if self.biased:
            self.item_bias = nn.Parameter(torch.zeros(n_items))
        self.apply(_initialise)

    def states(
        self,
        items_BL: torch.Tensor,
        positions_BL: torch.Tensor,
        owner_BL: torch.Tensor,
        causal_BL: torch.Tensor,
        asking_BQ: torch.Tensor,
        places_T: torch.Tensor,
        table_UD: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(T, D) states that are compared with items, of a batch whose rows hold several sequences.

        The last layer is computed at the places that are asked alone.

        Args:
            items_BL: item indices.
            positions_BL: distance of each item from the end of its sequence.
            owner_BL: which sequence of the batch each column belongs to; -1 at padding.
            causal_BL: bool, columns that see only themselves and what came before.
            asking_BQ: the columns of each row that are asked, filled up with any to equal numbers.
            places_T: which of these are meant, as row * Q + number.
            table_UD: the item vectors that `items_BL` counts in, the first of them PAD's; default: all.
        """
        hidden_BLD = self._embed(items_BL, positions_BL, table_UD)
        same_B1LL = owner_BL[:, None, :, None] == owner_BL[:, None, None, :]
        earlier_LL = torch.ones_like(same_B1LL[0, 0]).tril()
        both_ways_B1L1 = ~causal_BL[:, None, :, None]
        seen_B1LL = self._additive(same_B1LL & (earlier_LL | both_ways_B1L1), hidden_BLD)
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

        Where items have a bias the vectors end in a 1, which meets it. The last layer computes the last
        column alone.
        """
        if not self.causal:
            items_BL = F.pad(items_BL, (0, 1), value=self.n_items + 1)
        B, L = items_BL.shape
        nearest = self.spare if self.causal else 0
        # A range that falls is not known to exporters.
        positions_L = nearest + L - 1 - torch.arange(L, device=items_BL.device)
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
        return F.pad(vectors_BD, (0, 1), value=1.0) if self.biased else vectors_BD

    def item_table(self) -> torch.Tensor:
        """(V, D or D+1) item vectors; where items have a bias it is the last dimension."""
        vectors_VD = self.compared(self.item_embedding.weight[1 : self.n_items + 1])
        return torch.cat([vectors_VD, self.item_bias[:, None]], dim=1) if self.biased else vectors_VD

    def outputs(self, rows_U: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(V+2, D) item embedding and (V+2,) its biases, -inf for PAD and MASK, which are never an answer.

        Args:
            rows_U: take these rows alone, rising, PAD the first and MASK the last; the gradients of the whole
                are then sparse.
        """
        table_UD: torch.Tensor = self.item_embedding.weight
        if rows_U is not None:
            table_UD = F.embedding(rows_U, table_UD, sparse=True)
        if not self.biased:
            bias_U = table_UD.new_zeros(len(table_UD) - 2)
        elif rows_U is None:
            bias_U = self.item_bias
        else:
            bias_U = self.item_bias.gather(0, rows_U[1:-1] - 1, sparse_grad=True)
        return table_UD, F.pad(bias_U, (1, 1), value=-torch.inf)

    def compared(self, table_UD: torch.Tensor) -> torch.Tensor:
        """(U, D) what states are compared with: item vectors, brought to unit length for cosines."""
        return table_UD if self.temperature is None else F.normalize(table_UD, dim=1)

    def _embed(
        self, items_BL: torch.Tensor, positions_BL: torch.Tensor, table_UD: torch.Tensor | None = None
    ) -> torch.Tensor:
        table_UD = self.item_embedding.weight if table_UD is None else table_UD
        items_BLD = F.embedding(items_BL, table_UD, padding_idx=PAD)
        embedded_BLD = items_BLD * self.scale + self.position_embedding(positions_BL)
        if not self.pre_norm:
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
            hidden_D if self.pre_norm else F.gelu(self.output(hidden_D))
        )
        if self.temperature is None:
            return transformed_D
        return F.normalize(transformed_D.float(), dim=-1) / self.temperature

    @staticmethod
    def _additive(seen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)


def build_bert4rec(config: BERT4RecConfig, n_items: int) -> Transformer:
    """BERT4Rec with fresh weights, as the configuration says."""
    biased = config.scoring == "dot"
    return _build(config, n_items, causal=config.read == "last_item", spare=1, biased=biased)


def build_sasrec(config: SASRecConfig, n_items: int) -> Transformer:
    """SASRec with fresh weights, as the configuration says."""
    return _build(config, n_items, causal=True, spare=0, biased=False)


def _build(
    config: BERT4RecConfig | SASRecConfig, n_items: int, *, causal: bool, spare: int, biased: bool
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
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
