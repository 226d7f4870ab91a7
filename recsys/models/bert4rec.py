"""BERT4Rec, a bidirectional transformer over a history, trained by filling in masked items.

Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer", CIKM 2019, arXiv 1904.06690. As in the authors' code, and beyond the paper's text, the output
transform has a LayerNorm and so has the embedding. What differs: positions are counted from the end of the
sequence (equal to the authors' padding on the left), so that a batch can be as narrow as its longest row.

Shapes: `B` sequences, `L` positions, `D` width, `H` heads, `V` items, `T` masked positions of a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recsys.config import BERT4RecConfig
from recsys.schema import PAD


class Block(nn.Module):
    """One transformer layer: attention and feed-forward, LayerNorm after each residual sum (post-LN)."""

    def __init__(self, *, dim: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.project_qkv = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: torch.Tensor, visible_B11L: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, L, D) of the next layer; `visible` is False at keys that are padding."""
        B, L, D = hidden_BLD.shape
        qkv = self.project_qkv(hidden_BLD).view(B, L, 3, self.heads, D // self.heads)
        query_BHLd, key_BHLd, value_BHLd = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHLd = F.scaled_dot_product_attention(
            query_BHLd,
            key_BHLd,
            value_BHLd,
            attn_mask=visible_B11L,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        mixed_BLD = self.project_out(mixed_BHLd.transpose(1, 2).reshape(B, L, D))
        hidden_BLD = self.attention_norm(hidden_BLD + self.dropout(mixed_BLD))
        wide_BLD = self.narrow(F.gelu(self.widen(hidden_BLD)))
        summed_BLD: torch.Tensor = self.feed_forward_norm(hidden_BLD + self.dropout(wide_BLD))
        return summed_BLD


class BERT4Rec(nn.Module):
    """The encoder of `recsys.models.protocol.Encoder`, and the states that the cloze loss reads."""

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
    ) -> None:
        """Draw the weights from the global torch generator: truncated normal, deviation 0.02.

        Args:
            n_items: number of items V; the embedding also holds PAD (row 0) and MASK (row V+1).
            dim: width D, a multiple of `heads`.
            layers: number of transformer blocks.
            heads: attention heads H.
            max_length: positions N, the appended MASK included.
            dropout: dropout of the embedding and of both residual branches.
            attention_dropout: dropout of the attention weights.
        """
        super().__init__()
        self.n_items = n_items
        self.max_history = max_length - 1
        self.item_embedding = nn.Embedding(n_items + 2, dim, padding_idx=PAD)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.embedding_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim=dim, heads=heads, dropout=dropout, attention_dropout=attention_dropout)
            for _ in range(layers)
        )
        self.output = nn.Linear(dim, dim)
        self.output_norm = nn.LayerNorm(dim)
        self.item_bias = nn.Parameter(torch.zeros(n_items))
        self.apply(_initialise)

    def hidden(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, L, D) hidden states of item indices (B, L), padded on the left; L <= N."""
        positions_L = torch.arange(items_BL.shape[1] - 1, -1, -1, device=items_BL.device)
        embedded_BLD = self.item_embedding(items_BL) + self.position_embedding(positions_L)
        hidden_BLD: torch.Tensor = self.dropout(self.embedding_norm(embedded_BLD))
        visible_B11L = (items_BL != PAD)[:, None, None, :]
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD, visible_B11L)
        return hidden_BLD

    def transform(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """(T, D) states that are compared with items, of the hidden states (T, D) that count."""
        states_TD: torch.Tensor = self.output_norm(F.gelu(self.output(hidden_TD)))
        return states_TD

    def item_vectors(self) -> torch.Tensor:
        """(V, D) item embedding, shared between input and output, without PAD and MASK."""
        vectors_VD: torch.Tensor = self.item_embedding.weight[1 : self.n_items + 1]
        return vectors_VD

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D+1) vectors of histories (B, L), L < N: the state of an appended MASK, then a 1."""
        mask_B1 = items_BL.new_full((items_BL.shape[0], 1), self.n_items + 1)
        hidden_BD = self.hidden(torch.cat([items_BL, mask_B1], dim=1))[:, -1]
        return F.pad(self.transform(hidden_BD), (0, 1), value=1.0)

    def item_table(self) -> torch.Tensor:
        """(V, D+1) item vectors with the item bias as the last dimension."""
        return torch.cat([self.item_vectors(), self.item_bias[:, None]], dim=1)


def build_bert4rec(config: BERT4RecConfig, n_items: int) -> BERT4Rec:
    """BERT4Rec with fresh weights, as the configuration says."""
    return BERT4Rec(
        n_items=n_items,
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        max_length=config.max_length,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
