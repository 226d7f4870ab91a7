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

An item is a vector of its own, or of its text (`recsys.models.text_tower`), or the sum of both. Training
computes the text's vector of every item that a step uses, with its gradient; what is read otherwise is a
table that `refresh` fills.

Shapes: `B` rows, `L` columns, `Q` columns of a row that are asked, `D` width, `H` heads, `V` items, `U`
of them that a step uses, `T` places that the loss reads.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from recsys.models.block import Block
from recsys.models.dropout import dropout
from recsys.models.text_tower import TextTower
from recsys.schema import PAD
from recsys.text.tokens import ItemTokenizer, Sentences


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
        tower: TextTower | None = None,
        own_vectors: bool = True,
        own_dropout: float = 0.0,
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
            tower: gives the vectors of items' texts; None where they have none.
            own_vectors: whether items have vectors of their own.
            own_dropout: share of the items of a step that show their text alone.
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
        self.own_vectors = own_vectors
        self.own_dropout = own_dropout
        self.item_embedding = nn.Embedding((n_items if own_vectors else 0) + 2, dim, padding_idx=PAD)
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
        self.tower = tower
        if tower:
            self.item_vectors: torch.Tensor
            self.trained_items: torch.Tensor
            self.register_buffer("item_vectors", torch.zeros(n_items + 2, dim))
            self.register_buffer("trained_items", torch.ones(n_items + 2, dtype=torch.bool))

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
        vectors_VD = self.compared(self._stored()[1 : self.n_items + 1])
        return torch.cat([vectors_VD, self.item_bias[:, None]], dim=1) if self.biased else vectors_VD

    def outputs(self, rows_U: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(V+2, D) item embedding and (V+2,) its biases, -inf for PAD and MASK, which are never an answer.

        Args:
            rows_U: take these rows alone, rising, PAD the first and MASK the last; the gradients of the whole
                are then sparse.
        """
        table_UD = self._computed(rows_U)
        if not self.biased:
            bias_U = table_UD.new_zeros(len(table_UD) - 2)
        elif rows_U is None:
            bias_U = self.item_bias
        else:
            bias_U = self.item_bias.gather(0, rows_U[1:-1] - 1, sparse_grad=True)
        bias_U = F.pad(bias_U, (1, 1), value=-torch.inf)
        if self.tower:  # what no event trains is no answer, and its text not to be pushed away
            trained_U = self.trained_items if rows_U is None else self.trained_items[rows_U]
            bias_U = bias_U.masked_fill(~trained_U, -torch.inf)
        return table_UD, bias_U

    def _stored(self) -> torch.Tensor:
        """(V+2, D) item vectors, those of texts as they were when last refreshed."""
        return self.item_vectors if self.tower else self.item_embedding.weight

    def _computed(self, rows_U: torch.Tensor | None) -> torch.Tensor:
        """(U, D) item vectors with their gradients, PAD's the first and MASK's the last."""
        own = self.item_embedding.weight
        if rows_U is not None and self.own_vectors:
            own = F.embedding(rows_U, own, sparse=True)
        if self.tower is None:
            return own
        if rows_U is None:
            rows_U = torch.arange(self.n_items + 2, device=own.device)
        text_UD = self.tower(rows_U[1:-1])
        if not self.own_vectors:
            return torch.cat([own[:1], text_UD, own[1:]])
        kept_U = self.trained_items[rows_U]
        if self.training and self.own_dropout:
            shown_U = torch.rand(len(kept_U), device=own.device) >= self.own_dropout
            shown_U[-1] = True  # MASK has no text
            kept_U = kept_U & shown_U
        return own * kept_U[:, None] + F.pad(text_UD, (0, 0, 1, 1))

    @torch.no_grad()
    def refresh(self) -> None:
        """Fill the table of item vectors with those of the weights as they are now."""
        if self.tower:
            mode = self.training
            self.eval()
            self.item_vectors.copy_(self._computed(None))
            self.train(mode)

    @property
    def tokenizer(self) -> ItemTokenizer | None:
        """Of the items' texts."""
        return self.tower.tokenizer if self.tower else None

    @property
    def row_weights(self) -> list[str]:
        """Weights with a row an item, of which a step with negatives changes some."""
        return ["item_embedding.weight", "item_bias"] if self.own_vectors else ["item_bias"]

    @torch.no_grad()
    def extended(self, sentences: Sentences) -> Transformer:
        """A view of the model with more items, after its own, that it knows by their text alone."""
        return self._with_items(self.n_items, sentences)

    @torch.no_grad()
    def with_sentences(self, sentences: Sentences) -> Transformer:
        """A view of the model with other items in place of its own, known by their text alone."""
        return self._with_items(0, sentences)

    @torch.no_grad()
    def extended_state(self, sentences: Sentences) -> dict[str, torch.Tensor]:
        """Weights of `extended`, to be stored: the new items have no vector of their own."""
        assert self.tower is not None
        view, n = self.extended(sentences), len(sentences.tokens) - 1
        state = view.state_dict() | self.tower.extended_state(sentences, "tower.")
        rows = ["trained_items", *(["item_embedding.weight"] if self.own_vectors else [])]
        for name in rows:
            own = state[name]
            state[name] = torch.cat([own[:-1], own.new_zeros(n, *own.shape[1:]), own[-1:]])
        return state

    def _with_items(self, kept: int, sentences: Sentences) -> Transformer:
        """A view with the first items, and those of the sentences after them."""
        assert self.tower is not None
        new_ED, own_VD = self.tower.of_sentences(sentences), self.item_vectors
        other = copy.copy(self)
        other._buffers = self._buffers | {
            "item_vectors": torch.cat([own_VD[: kept + 1], new_ED, own_VD[-1:]])
        }
        if self.biased:
            bias_V = F.pad(self.item_bias[:kept], (0, len(new_ED)))
            other._parameters = self._parameters | {"item_bias": nn.Parameter(bias_V, requires_grad=False)}
        other.n_items = kept + len(new_ED)
        return other

    def compared(self, table_UD: torch.Tensor) -> torch.Tensor:
        """(U, D) what states are compared with: item vectors, brought to unit length for cosines."""
        return table_UD if self.temperature is None else F.normalize(table_UD, dim=1)

    def _embed(
        self, items_BL: torch.Tensor, positions_BL: torch.Tensor, table_UD: torch.Tensor | None = None
    ) -> torch.Tensor:
        table_UD = self._stored() if table_UD is None else table_UD
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


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
