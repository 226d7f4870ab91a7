"""Our encoder of playlists: BERT4Rec's transformer and one vector that holds content, length and order.

The vector is the direction of a weighted sum of the tracks' vectors, to which the transformer adds: the
states of all tracks, averaged, transformed and of a fixed length, so that content is never drowned. Track
vectors start as a decomposition gives them (`recsys.playlists.spectral`) and learn slowly.
Vectors have one norm, and every task reads the same one through a fixed temperature, so that what a task
needs must be in the angles that neighbours are found by. The tasks are the cloze of BERT4Rec (Sun et al.
2019) at masked tracks, and four about the vector:

    bag      name the tracks of the playlist, above all those that the input leaves out or masks, by a
             softmax over the catalogue (as the bag of words of DupMAE, Liu et al., arXiv 2211.08769): the
             product with a track's vector says how well it belongs, so that continuing is a search, too
    length   name the length of the input among points of a logarithmic scale, blurred
    halves   tell which half of the input each of its tracks stands in
    order    tell a permuted playlist from one in its own order

With `order: set` positions are not read, inputs are shuffled and the last two tasks are left out.

Shapes: `B` playlists, `L` columns, `D` width, `V` tracks, `T` tracks of all playlists, `P` points of length.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from recsys.batching import Packed, windows
from recsys.losses import full_cross_entropy
from recsys.models.transformer import Transformer
from recsys.playlists.fitting import descend
from recsys.playlists.pooled_steps import PooledStep, pooled_step
from recsys.playlists.settings import PlaylistsConfig, PooledConfig
from recsys.playlists.spectral import spectral_vectors
from recsys.schema import PAD
from recsys.sequences import Ragged
from recsys.torch_settings import seeded, uses_bf16

POINTS = 24
BLUR = 0.12
"""Deviation of the blur, in natural logarithms of the length."""
SHARE = 0.35
"""Length of what the transformer adds to the sum, which has 1: neighbours are alike in content first."""
START = 0.02
"""Deviation of the dimensions of a track's vector at first, that of BERT4Rec's random ones; the inverse is
the norm of playlists' vectors, so that their products begin at about the square root of D."""
TEMPERATURE = 0.05
"""Of length and order: the cooler, the smaller the angle that they need."""
LENGTH_WEIGHT, ORDER_WEIGHT, HALVES_WEIGHT = 1.0, 8.0, 4.0


class PooledEncoder(nn.Module):
    """The transformer, the transformation of the pooled state, and what length and order are read by."""

    def __init__(
        self,
        *,
        n_items: int,
        dim: int,
        max_length: int,
        layers: int,
        heads: int,
        dropout: float,
        ordered: bool,
    ) -> None:
        """Draw fresh weights from the global torch generator.

        Args:
            n_items: number of tracks V.
            dim: width D, a multiple of `heads`.
            max_length: tracks read at once.
            layers: transformer blocks.
            heads: attention heads.
            dropout: of embeddings and residual branches.
            ordered: whether positions are read.
        """
        super().__init__()
        self.n_items = n_items
        self.max_history = max_length
        self.ordered = ordered
        self.transformer = Transformer(
            n_items=n_items,
            dim=dim,
            layers=layers,
            heads=heads,
            max_length=max_length,
            dropout=dropout,
            attention_dropout=0.0,
            causal=False,
            spare=0,
            pre_norm=False,
            feed_forward="gelu",
            temperature=None,
            biased=True,
        )
        self.log_weights = nn.Parameter(torch.zeros(n_items + 2))
        self.pool = nn.Linear(dim, dim)
        self.length_points = nn.Parameter(torch.randn(POINTS, dim))
        self.halves = nn.Linear(dim, dim)
        self.order_direction = nn.Parameter(torch.randn(dim))
        self.order_bias = nn.Parameter(torch.zeros(()))

    def start(self, vectors_VD: NDArray[np.float32], log_weights_V: NDArray[np.float32]) -> None:
        """Begin with these track vectors and weights."""
        with torch.no_grad():
            scale = START * math.sqrt(vectors_VD.shape[1])
            self.transformer.item_embedding.weight[1 : self.n_items + 1] = (
                torch.from_numpy(vectors_VD) * scale
            )
            self.log_weights[1 : self.n_items + 1] = torch.from_numpy(log_weights_V)

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) vectors of norm 1 / START of playlists (B, L), padded with PAD on the left."""
        B, L = items_BL.shape
        inside_BL = items_BL != PAD
        columns_L = torch.arange(L, device=items_BL.device)
        owner_BL = torch.where(inside_BL, torch.arange(B, device=items_BL.device)[:, None], -1)
        positions_BL = ((L - 1 - columns_L) * int(self.ordered)).expand(B, L)
        places_T = inside_BL.flatten().nonzero()[:, 0]
        both_ways_BL = torch.zeros_like(inside_BL)
        states_TD = self.transformer.states(
            items_BL, positions_BL, owner_BL, both_ways_BL, columns_L.expand(B, L), places_T
        )
        return self.pooled(states_TD, items_BL[inside_BL], inside_BL.sum(1))

    def item_table(self) -> torch.Tensor:
        """(V, D) track vectors."""
        return self.transformer.item_embedding.weight[1 : self.n_items + 1]

    def pooled(
        self, states_TD: torch.Tensor, tracks_T: torch.Tensor, lengths_B: torch.Tensor
    ) -> torch.Tensor:
        """(B, D) vectors from the states of all tracks or masks, playlist after playlist."""
        rows_T = torch.repeat_interleave(lengths_B)
        tracks_T = torch.where(tracks_T > self.n_items, PAD, tracks_T)
        weights_T = self.log_weights[tracks_T].exp()
        summed_BD, said_BD = (
            x_TD.new_zeros(len(lengths_B), x_TD.shape[1]).index_add(0, rows_T, x_TD)
            for x_TD in (weights_T[:, None] * self.transformer.item_embedding(tracks_T), states_TD)
        )
        added_BD = F.normalize(self.pool(said_BD / lengths_B[:, None]), dim=1)
        vectors_BD = F.normalize(summed_BD, dim=1) + SHARE * added_BD
        return F.normalize(vectors_BD, dim=1) / START

    def states_of(self, read: Ragged, bf16: bool) -> torch.Tensor:
        """(T, D) states of everything that is read, packed into rows."""
        packed = Packed.rows(read.lengths)
        asking, places = packed.asking(np.ones(len(read.values), dtype=np.bool_))
        positions = packed.positions(np.zeros_like(read.lengths)) * int(self.ordered)
        both_ways = np.zeros(packed.shape, dtype=np.bool_)
        laid_out = (packed.spread(read.values), positions, packed.owners(), both_ways, asking, places)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            states_TD = self.transformer.states(*(torch.from_numpy(part) for part in laid_out))
        return states_TD[: len(read.values)].float()

    def loss(self, step: PooledStep, bf16: bool) -> torch.Tensor:
        """Sum of the tasks' losses, in nats, weighted."""
        lengths_B = torch.from_numpy(step.read.lengths)
        states_TD = self.states_of(step.read, bf16)
        vectors_BD = self.pooled(states_TD, torch.from_numpy(step.read.values.astype(np.int64)), lengths_B)
        unit_BD = F.normalize(vectors_BD, dim=1)
        total = self._bag(vectors_BD, step) + LENGTH_WEIGHT * self._length(unit_BD, lengths_B)
        if self.ordered:
            permuted_B = torch.from_numpy(step.permuted.astype(np.float32))
            score_B = unit_BD @ F.normalize(self.order_direction, dim=0) / TEMPERATURE + self.order_bias
            total = total + ORDER_WEIGHT * F.binary_cross_entropy_with_logits(score_B, permuted_B)
            total = total + HALVES_WEIGHT * self._halves(unit_BD, step)
        if step.masked.any():
            places, answers = np.flatnonzero(step.masked), step.answers[step.masked].astype(np.int64)
            total = total + full_cross_entropy(
                states_TD[torch.from_numpy(places)],
                *self.transformer.outputs(),
                torch.from_numpy(answers),
                bf16=bf16,
            )
        return total

    def _bag(self, vectors_BD: torch.Tensor, step: PooledStep) -> torch.Tensor:
        chances_BV = F.log_softmax(vectors_BD @ self.item_table().T, dim=1)
        tracks_E = torch.from_numpy(step.bag.values.astype(np.int64)) - 1
        named_E = chances_BV[torch.from_numpy(step.bag.rows), tracks_E]
        loss: torch.Tensor = -(torch.from_numpy(step.weights) * named_E).sum() / len(vectors_BD)
        return loss

    def _halves(self, unit_BD: torch.Tensor, step: PooledStep) -> torch.Tensor:
        lengths, rows = step.read.lengths, torch.from_numpy(step.read.rows)
        place_T = np.arange(len(step.answers)) - np.repeat(step.read.offsets[:-1], lengths)
        later_T = torch.from_numpy((2 * place_T >= np.repeat(lengths, lengths)).astype(np.float32))
        tracks_TD = self.transformer.item_embedding(torch.from_numpy(step.answers.astype(np.int64)))
        asked_TD = self.halves(unit_BD)[rows] * F.normalize(tracks_TD, dim=1)
        return F.binary_cross_entropy_with_logits(asked_TD.sum(1) / TEMPERATURE, later_T)

    def _length(self, unit_BD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        points_P = torch.linspace(0, math.log(self.max_history), POINTS)
        distance_BP = (lengths_B.log()[:, None] - points_P) / BLUR
        wanted_BP = F.softmax(-(distance_BP**2) / 2, dim=1)
        scores_BP = unit_BD @ F.normalize(self.length_points, dim=1).T / TEMPERATURE
        return F.cross_entropy(scores_BP, wanted_BP)


def build_pooled(config: PlaylistsConfig, n_items: int) -> PooledEncoder:
    """An encoder with fresh weights, as the settings say."""
    model = config.model
    assert isinstance(model, PooledConfig)
    return PooledEncoder(
        n_items=n_items,
        dim=config.dim,
        max_length=config.max_length,
        layers=model.layers,
        heads=model.heads,
        dropout=model.dropout,
        ordered=config.order == "sequence",
    )


def fit_pooled(config: PlaylistsConfig, playlists: Ragged, n_items: int) -> PooledEncoder:
    """Train the pooled encoder.

    Args:
        config: `model` is `pooled`.
        playlists: training playlists, of at least two tracks each.
        n_items: number of tracks V.
    """
    settings = config.model
    assert isinstance(settings, PooledConfig)
    pieces = windows(playlists, config.max_length)
    bf16 = uses_bf16("auto", torch.device("cpu"))
    with seeded(config.seed):
        model = build_pooled(config, n_items)
        model.start(*spectral_vectors(playlists, n_items, config.dim, config.seed))

        def loss(rows: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
            step = pooled_step(
                pieces.take(rows),
                mask=n_items + 1,
                mask_prob=settings.mask_prob,
                ordered=model.ordered,
                rng=rng,
            )
            return model.loss(step, bf16)

        table = model.transformer.item_embedding.weight
        descend(model, loss, len(pieces), settings, config.seed, slow=(table, settings.track_rate))
    return model
