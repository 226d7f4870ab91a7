"""One layer of the transformers over items, with LayerNorm before each branch or after each sum.

Shapes: `B` rows, `L` columns, `Q` columns of a row that are asked, `D` width, `H` heads, `d` width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from recsys.models.dropout import dropout

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
