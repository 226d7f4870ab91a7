"""What of a bundle is measured on data: the model as it was trained, or, zero-shot, on another catalogue.

Shapes: `V` items of the data, `B` sequences, `L` positions, `D` width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.dataset import PreparedData, Split
from recsys.errors import InputError
from recsys.models import reads_text
from recsys.models.protocol import Encoder, Model
from recsys.models.reading import for_catalogue
from recsys.text.attributes import can_be_text, own_columns, texts_of

COMPARED = 10_000
"""Items of an equal id whose texts are compared, at most."""
ALIKE = 0.5
"""Share of the words of the shorter that two texts of one item have in common at least, and share of items of
an equal id that have two such texts where both are of one catalogue."""


@dataclass(frozen=True)
class FirstItems:
    """An encoder that answers with the first of its items alone: those before others were added to it."""

    encoder: Encoder
    items: int

    @property
    def max_history(self) -> int:
        """Newest items of a history that it reads."""
        return self.encoder.max_history

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        """(B, D) vectors of histories (B, L)."""
        return self.encoder.encode(items_BL)

    def item_table(self) -> torch.Tensor:
        """(V, D) vectors of its first V items."""
        return self.encoder.item_table()[: self.items]


def model_for(bundle: Bundle, data: PreparedData, split: Split) -> tuple[Model, str | None]:
    """The model to measure on a data set, and, where that is zero-shot, why the data is taken for a stranger.

    A model that reads text is measured on the catalogue that it was trained on only with that very data, as
    every other model; on another catalogue, which it has seen nothing of, it is measured after encoding it.

    Raises:
        InputError: the bundle has seen the targets, or may have.
    """
    if reads_text(bundle.config.model) and not _is_trained_on(bundle, data):
        stranger = _other_catalogue(bundle, data)
        if stranger:
            return for_catalogue(bundle.model, bundle.config.model, data.items), stranger
    _check_unseen(bundle, split)
    check_trained_on(bundle, data)
    if isinstance(bundle.model, Encoder) and len(data.vocabulary) < len(bundle.vocabulary):
        return FirstItems(bundle.model, len(data.vocabulary)), None
    return bundle.model, None


def check_trained_on(bundle: Bundle, data: PreparedData) -> None:
    """Refuse data that the bundle was not trained on: what is a target here it may have seen there.

    Raises:
        InputError: the digests differ.
    """
    if not _is_trained_on(bundle, data):
        raise InputError(
            f"{data.path} has content {data.digest[:12]}, but {bundle.folder} was trained on "
            f"{_digest(bundle)[:12]} and may have seen the targets; measure it on the data that it was "
            "trained on (leave --data out, or name a copy), or train on this one"
        )


def _is_trained_on(bundle: Bundle, data: PreparedData) -> bool:
    return data.digest == _digest(bundle)


def _digest(bundle: Bundle) -> str:
    return str(bundle.manifest["data"]["content_digest"])


def _check_unseen(bundle: Bundle, split: Split) -> None:
    """Refuse a split whose targets were fitted to."""
    if bundle.manifest["trained_on"] == "all":
        raise InputError(
            f"{bundle.folder} was fitted on all events, the {split} targets included (train --final): "
            "measuring it on them says nothing; evaluate the bundle of the run without --final"
        )
    if split == "valid" and bundle.manifest["trained_on"] == "training+validation":
        raise InputError(
            f"{bundle.folder} was fitted on the validation targets too (training.fit): measure it on the "
            "test split (--split test)"
        )


def _other_catalogue(bundle: Bundle, data: PreparedData) -> str | None:
    """Why the data is taken for another catalogue than the bundle's; None where it has items of that one.

    Many catalogues number their items from 1: items of an equal id are the same only if their texts, of
    whatever columns, share words. Where there are no texts to compare, the ids decide.
    """
    rows = bundle.vocabulary.encode_texts(data.vocabulary.ids.cast(pa.large_string())) - 1
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        return f"none of its {len(rows):,} items has the id of an item of the bundle"
    compared = known[:COMPARED]
    pairs = zip(_words(data.items, compared), _words(bundle.items, rows[compared]), strict=True)
    alike = [len(one & other) >= ALIKE * min(len(one), len(other)) for one, other in pairs if one and other]
    if not alike or sum(alike) >= ALIKE * len(alike):
        return None
    return (
        f"{len(known):,} of its {len(rows):,} items have the id of an item of the bundle, but of "
        f"{len(alike):,} that were compared {sum(alike):,} a text like that one's"
    )


def _words(items: pa.Table, rows: NDArray[np.integer]) -> list[set[str]]:
    """Words of some items, of all their columns that can be text."""
    table = items.take(pa.array(rows))
    columns = [texts_of(table[name]) for name in own_columns(items) if can_be_text(items[name].type)]
    texts = (" ".join(column[at] or "" for column in columns) for at in range(len(rows)))
    return [set(text.lower().replace(",", " ").split()) for text in texts]
