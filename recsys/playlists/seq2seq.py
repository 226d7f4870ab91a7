"""Sequence-to-sequence autoencoders of playlists: the encoder's last state is the vector.

Papreja et al., "Representation, Exploration and Recommendation of Music Playlists" (2019, arXiv 1907.01098):
a playlist is read track by track and written again from the encoder's final state; GRU or LSTM, in one
direction or both, with or without attention of the decoder (dot product, Luong et al. 2015), and the source
read backwards as an option (Sutskever et al. 2014). Input and output embedding are tied.

Shapes: `B` playlists, `L` columns, `D` width, `V` tracks, `T` places that the decoder names.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from recsys.batching import windows
from recsys.losses import sampled_softmax
from recsys.playlists.fitting import descend
from recsys.playlists.settings import PlaylistsConfig, Seq2SeqConfig
from recsys.schema import PAD
from recsys.sequences import Ragged, shuffled
from recsys.torch_settings import seeded


class Seq2Seq(nn.Module):
    """A recurrent encoder, and the decoder that it is trained with."""

    def __init__(
        self, *, n_items: int, dim: int, max_length: int, cell: str, bidirectional: bool, attention: bool,
        reverse: bool,
    ) -> None:  # fmt: skip
        """Fresh weights from the global torch generator.

        Args:
            n_items: number of tracks V; row V+1 of the embedding starts and ends a playlist.
            dim: width D of the vector; a bidirectional encoder gives each direction half of it.
            max_length: tracks read at once.
            cell: `gru` or `lstm`.
            bidirectional: read from both ends.
            attention: let the decoder look at all states of the encoder.
            reverse: read the playlist backwards.
        """
        super().__init__()
        self.n_items = n_items
        self.max_history = max_length
        self.reverse = reverse
        self.item_embedding = nn.Embedding(n_items + 2, dim, padding_idx=PAD)
        nn.init.normal_(self.item_embedding.weight, std=dim**-0.5)
        self.item_bias = nn.Parameter(torch.zeros(n_items + 2))
        kind: type[nn.GRU] | type[nn.LSTM] = nn.GRU if cell == "gru" else nn.LSTM
        inner = dim // 2 if bidirectional else dim
        self.encoder = kind(dim, inner, batch_first=True, bidirectional=bidirectional)
        self.decoder = kind(dim, dim, batch_first=True)
        self.first_cell = nn.Linear(dim, dim) if cell == "lstm" else None
        self.attended = nn.Linear(2 * dim, dim) if attention else None

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) final states of playlists (B, L) padded with PAD on the left."""
        lengths_B = (items_BL != PAD).sum(1)
        columns_L = torch.arange(items_BL.shape[1], device=items_BL.device)
        shifted_BL = (columns_L + (items_BL.shape[1] - lengths_B)[:, None]).clamp(max=items_BL.shape[1] - 1)
        first_BL = items_BL.gather(1, shifted_BL) * (columns_L < lengths_B[:, None])
        return self.read(first_BL, lengths_B)[1]

    def item_table(self) -> torch.Tensor:
        """(V, D) track vectors."""
        return self.item_embedding.weight[1 : self.n_items + 1]

    def read(self, items_BL: torch.Tensor, lengths_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States (B, L, D) of the encoder and the final ones (B, D); `items_BL` is padded on the right."""
        if self.reverse:
            columns_L = torch.arange(items_BL.shape[1], device=items_BL.device)
            backwards_BL = (lengths_B[:, None] - 1 - columns_L).clamp(min=0)
            items_BL = items_BL.gather(1, backwards_BL) * (columns_L < lengths_B[:, None])
        packed = pack_padded_sequence(
            self.item_embedding(items_BL), lengths_B.cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.encoder(packed)
        states_BLD, _ = pad_packed_sequence(states, batch_first=True)
        final_NBD = last[0] if isinstance(last, tuple) else last
        return states_BLD, final_NBD.transpose(0, 1).flatten(1)

    def write(self, items_BL: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """(B, L+1, D) what the decoder says before each track and before the end."""
        states_BLD, final_BD = self.read(items_BL, lengths_B)
        start_B1 = items_BL.new_full((len(items_BL), 1), self.n_items + 1)
        given = self.item_embedding(torch.cat([start_B1, items_BL], dim=1))
        first_1BD = final_BD[None].contiguous()
        if self.first_cell is None:
            said_BLD, _ = self.decoder(given, first_1BD)
        else:
            said_BLD, _ = self.decoder(given, (first_1BD, torch.tanh(self.first_cell(first_1BD))))
        if self.attended is None:
            result: torch.Tensor = said_BLD
            return result
        outside_BL = torch.arange(states_BLD.shape[1])[None] >= lengths_B[:, None]
        fit_BLL = (said_BLD @ states_BLD.transpose(1, 2)).masked_fill(outside_BL[:, None], -torch.inf)
        context_BLD = fit_BLL.softmax(-1) @ states_BLD
        return torch.tanh(self.attended(torch.cat([said_BLD, context_BLD], dim=-1)))


def build_seq2seq(config: PlaylistsConfig, n_items: int) -> Seq2Seq:
    """An autoencoder with fresh weights, as the settings say."""
    model = config.model
    assert isinstance(model, Seq2SeqConfig)
    return Seq2Seq(
        n_items=n_items,
        dim=config.dim,
        max_length=config.max_length,
        cell=model.cell,
        bidirectional=model.bidirectional,
        attention=model.attention,
        reverse=model.reverse,
    )


def fit_seq2seq(config: PlaylistsConfig, playlists: Ragged, n_items: int) -> Seq2Seq:
    """Train an autoencoder to write the playlists that it has read.

    Args:
        config: `model` is `seq2seq`.
        playlists: training playlists.
        n_items: number of tracks V.
    """
    settings = config.model
    assert isinstance(settings, Seq2SeqConfig)
    pieces = windows(playlists, config.max_length, min_length=1)
    counts = np.maximum(np.bincount(pieces.values, minlength=n_items + 2), 1) ** 0.5
    counts[PAD], counts[n_items + 1] = 0, len(pieces) ** 0.5
    chances = counts / counts.sum()
    log_chance = torch.from_numpy(np.log(np.maximum(chances, 1e-30)).astype(np.float32))
    with seeded(config.seed):
        model = build_seq2seq(config, n_items)

        def loss(rows: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
            some = pieces.take(rows)
            if config.order == "set":
                some = shuffled(some, rng)
            lengths = torch.from_numpy(some.lengths)
            items_BL = torch.from_numpy(right_padded(some).astype(np.int64))
            ended_BL = F.pad(items_BL, (0, 1)).scatter(1, lengths[:, None], n_items + 1)
            said_TD = model.write(items_BL, lengths)[ended_BL != PAD]
            negatives = rng.choice(n_items + 2, settings.negatives, p=chances)
            return sampled_softmax(
                said_TD, model.item_embedding.weight, model.item_bias, ended_BL[ended_BL != PAD],
                torch.from_numpy(negatives), log_chance,
            )  # fmt: skip

        descend(model, loss, len(pieces), settings, config.seed)
    return model


def right_padded(playlists: Ragged) -> NDArray[np.int32]:
    """(B, L) matrix, padded on the right."""
    inside = np.arange(playlists.lengths.max()) < playlists.lengths[:, None]
    matrix = np.full(inside.shape, PAD, dtype=np.int32)
    matrix[inside] = playlists.values
    return matrix
