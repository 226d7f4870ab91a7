"""What models that know items by their text have in common.

Shapes: `V` items of a model, `n` new ones, `N` tokens of all sentences.
"""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import pyarrow as pa
import torch

from recsys.config import SentenceConfig
from recsys.models.protocol import Encoder
from recsys.text.tokens import ItemTokenizer, Sentences


@runtime_checkable
class TextReader(Encoder, Protocol):
    """An encoder that gives an item a vector by its text alone."""

    @property
    def tokenizer(self) -> ItemTokenizer | None:
        """Makes the sentences; None where the model turns out to read no text."""
        ...

    def extended(self, sentences: Sentences) -> Self:
        """A view of the model with n more items, V+1..V+n."""
        ...

    def with_sentences(self, sentences: Sentences) -> Self:
        """A view of the model with other items in place of its own."""
        ...

    def extended_state(self, sentences: Sentences) -> dict[str, torch.Tensor]:
        """Weights and catalogue with n more items, to be stored."""
        ...


def text_reader(model: object) -> TextReader:
    """The model as one that reads text, which its configuration says that it does."""
    assert isinstance(model, TextReader) and model.tokenizer is not None
    return model


def sentences_of(config: SentenceConfig, tokenizer: ItemTokenizer, items: pa.Table) -> Sentences:
    """Sentences of an item table's rows, as the configuration says.

    Raises:
        InputError: no column of it is a text.
    """
    return tokenizer.sentences(
        items,
        config.attributes,
        max_attributes=config.max_attributes,
        max_tokens=config.max_attribute_tokens,
    )


def for_catalogue(model: object, config: object, items: pa.Table) -> TextReader:
    """A trained model over another item table, which is encoded.

    Raises:
        InputError: the table has no text.
    """
    reader = text_reader(model)
    assert isinstance(config, SentenceConfig) and reader.tokenizer is not None
    return reader.with_sentences(sentences_of(config, reader.tokenizer, items))


def joined_sentences(
    tokens_N: torch.Tensor, types_N: torch.Tensor, offsets: torch.Tensor, new: Sentences
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sentences as tensors with new ones behind them, that of items without a text left out of these."""
    one, own = int(new.tokens.offsets[1]), len(tokens_N)
    return (
        torch.cat([tokens_N, torch.from_numpy(new.tokens.values[one:]).to(tokens_N.device)]),
        torch.cat([types_N, torch.from_numpy(new.types[one:]).to(types_N.device)]),
        torch.cat([offsets, torch.from_numpy(new.tokens.offsets[2:] - one + own).to(offsets.device)]),
    )
