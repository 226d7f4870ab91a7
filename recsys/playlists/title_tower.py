"""The text tower (`recsys.models.text_tower`, token vectors) among playlists: where a text's playlist is.

A tower's vectors are spread alike in all dimensions around 0; those of playlists are not, so an affine map
places the ones among the others. Shapes: `n` texts, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import nn

from recsys import schema
from recsys.models.text_tower import SENTENCES, TextTower
from recsys.text.tokens import VALUE, ItemTokenizer, Sentences

MOST_TOKENS = 32


class TitleTower(nn.Module):
    """Texts to vectors of playlists."""

    def __init__(
        self, tokenizer: ItemTokenizer, sentences: Sentences, *, dim: int, token_dropout: float = 0.0
    ) -> None:
        """Draw the weights from the global torch generator.

        Args:
            tokenizer: made the sentences.
            sentences: of the n texts to learn.
            dim: width D.
            token_dropout: share of the tokens that training does not read.
        """
        super().__init__()
        self.tower = TextTower(tokenizer, sentences, dim=dim, token_dropout=token_dropout)
        self.place = nn.Linear(dim, dim)
        first = sentences.tokens.lengths[0]  # what stands for no text at all
        read = sentences.tokens.values[first:][sentences.types[first:] == VALUE]
        unread = np.setdiff1d(np.arange(len(tokenizer)), read)
        # The letters that a new word is cut into say nothing, where no text is cut so.
        self.tower.token_embedding.weight.data[torch.from_numpy(unread)] = 0

    def forward(self, texts_n: torch.Tensor) -> torch.Tensor:
        """(n, D) vectors of texts by their numbers, from 1."""
        placed: torch.Tensor = self.place(self.tower(texts_n))
        return placed

    def of_title(self, title: str) -> torch.Tensor | None:
        """(D,) vector of a new title; None where no piece of it is known."""
        sentences = title_sentences(self.tower.tokenizer, [title])
        said = sentences.tokens[1][sentences.types[sentences.tokens.offsets[1] :] == VALUE]
        if not self.tower.token_embedding.weight[torch.from_numpy(said).long()].any():
            return None
        placed: torch.Tensor = self.place(self.tower.of_sentences(sentences))[0]
        return placed

    def save(self, weights: Path, tokenizer: Path) -> None:
        """Write what was learned, without the texts."""
        state = {
            name: tensor.detach().contiguous()
            for name, tensor in self.state_dict().items()
            if name.removeprefix("tower.") not in SENTENCES
        }
        safetensors.torch.save_file(state, weights)
        tokenizer.write_text(self.tower.tokenizer.definition, encoding="utf-8")

    @classmethod
    def load(cls, weights: Path, tokenizer: Path, *, dim: int) -> TitleTower:
        """Read what `save` wrote."""
        known = ItemTokenizer(tokenizer.read_text(encoding="utf-8"))
        none = np.array([known.unknown], dtype=np.int32), np.array([VALUE], dtype=np.uint8), np.array([0, 1])
        found = cls(known, Sentences.stored(*none), dim=dim)
        found.load_state_dict(found.state_dict() | safetensors.torch.load_file(weights))
        return found.eval().requires_grad_(False)


def title_sentences(tokenizer: ItemTokenizer, texts: Sequence[str]) -> Sentences:
    """One sentence a text."""
    table = pa.table({schema.SEQUENCE_TITLE: pa.array(texts, pa.string())})
    return tokenizer.sentences(table, None, max_attributes=1, max_tokens=MOST_TOKENS)
