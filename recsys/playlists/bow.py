"""Bags of words: a playlist as the mean of its tracks' word2vec vectors, plain or weighted.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality" (2013), by
gensim. The weighted form is SIF of Arora, Liang and Ma, "A Simple but Tough-to-Beat Baseline for Sentence
Embeddings" (ICLR 2017): weights a / (a + p(track)), and the first principal component of the training
playlists' vectors removed.

Shapes: `B` playlists, `L` columns, `D` width, `V` tracks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.errors import InputError
from recsys.playlists.embedding import embed
from recsys.playlists.settings import PlaylistsConfig, SIFConfig, Word2VecConfig
from recsys.schema import PAD
from recsys.sequences import Ragged


class BagOfTracks(nn.Module):
    """Weighted mean of track vectors, less its part along one direction."""

    vectors: torch.Tensor
    weights: torch.Tensor
    direction: torch.Tensor

    def __init__(self, *, n_items: int, dim: int, max_length: int) -> None:
        """Zeros, to be filled or loaded.

        Args:
            n_items: number of tracks V; row 0 of the vectors is PAD.
            dim: width D.
            max_length: tracks read at once.
        """
        super().__init__()
        self.max_history = max_length
        self.register_buffer("vectors", torch.zeros(n_items + 1, dim))
        self.register_buffer("weights", torch.zeros(n_items + 1))
        self.register_buffer("direction", torch.zeros(dim))

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) vectors of playlists (B, L), padded with PAD."""
        inside_BL = (items_BL != PAD).float()
        shares_BL = self.weights[items_BL] * inside_BL
        summed_BD = (shares_BL[:, :, None] * self.vectors[items_BL]).sum(1)
        mean_BD = summed_BD / inside_BL.sum(1, keepdim=True)
        projected: torch.Tensor = mean_BD - (mean_BD @ self.direction)[:, None] * self.direction
        return projected

    def item_table(self) -> torch.Tensor:
        """(V, D) track vectors."""
        return self.vectors[1:]


def fit_bag(config: PlaylistsConfig, playlists: Ragged, n_items: int) -> BagOfTracks:
    """Word vectors of the training playlists, and for SIF weights and the common direction.

    Args:
        config: `model` is `word2vec` or `sif`.
        playlists: training playlists.
        n_items: number of tracks V; those of no training playlist keep the zero vector.

    Raises:
        InputError: gensim is not installed.
    """
    assert isinstance(config.model, Word2VecConfig)
    model = BagOfTracks(n_items=n_items, dim=config.dim, max_length=config.max_length)
    model.vectors[1:] = torch.from_numpy(_word_vectors(config, config.model, playlists, n_items))
    model.weights[1:] = 1.0
    if isinstance(config.model, SIFConfig):
        counts = np.bincount(playlists.values, minlength=n_items + 1)[1:]
        a = config.model.smoothing
        model.weights[1:] = torch.from_numpy((a / (a + counts / counts.sum())).astype(np.float32))
        usual = embed(model, playlists.take(np.flatnonzero(playlists.lengths)))
        _, _, components = np.linalg.svd(usual, full_matrices=False)
        model.direction.copy_(torch.from_numpy(components[0]))
    return model.eval()


def _word_vectors(
    config: PlaylistsConfig, model: Word2VecConfig, playlists: Ragged, n_items: int
) -> NDArray[np.float32]:
    """(V, D) skip-gram vectors."""
    found = _word2vec()(
        sentences=[playlists[row].tolist() for row in range(len(playlists))],
        vector_size=config.dim,
        window=model.window,
        epochs=model.epochs,
        sg=1,
        min_count=1,
        sample=0,
        workers=1,  # several would make other vectors each time
        seed=config.seed + 1,
    ).wv
    vectors = np.zeros((n_items, config.dim), dtype=np.float32)
    vectors[np.asarray(found.index_to_key) - 1] = found.vectors
    return vectors


def _word2vec() -> Any:  # noqa: ANN401 -- gensim has no types
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise InputError(
            "word2vec needs gensim, which is not installed: pip install 'recsys[playlists]', or train "
            "another encoder (model=pooled, model=seq2seq)"
        ) from error
    return Word2Vec
