"""Items that are described instead of named: in a history, or to be scored, by a model that reads text.

Shapes: `V` items of a model, `n` described ones, `D` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.config import SentenceConfig
from recsys.encoding import encode_histories
from recsys.errors import InputError
from recsys.models import reads_text
from recsys.models.protocol import Encoder
from recsys.models.reading import TextReader, sentences_of, text_reader
from recsys.sequences import Ragged
from recsys.text.attributes import own_columns
from recsys.vocabulary import ItemId


@dataclass(frozen=True)
class ItemText:
    """An item by its attributes, as columns of the item table: `{"title": "The Great Greek"}`."""

    text: Mapping[str, Any]


def described(bundle: Bundle, texts: Sequence[ItemText]) -> pa.Table:
    """(n rows) the attributes of described items, in the types of the bundle's item table.

    Raises:
        InputError: the model reads no text, or an attribute is none of the item table's or of another type.
    """
    if not reads_text(bundle.config.model):
        raise InputError(
            f"the history describes an item, but model {bundle.model_version} (`{bundle.config.model.name}`) "
            "knows items by their ids alone; send ids, or serve a model that reads text"
        )
    columns = own_columns(bundle.items)
    for name in (name for each in texts for name in each.text if name not in columns):
        raise InputError(f"items have no attribute `{name}`; they have {', '.join(columns)}")
    arrays = {}
    for name in columns:
        kind = bundle.items.schema.field(name).type
        try:
            arrays[name] = pa.array([_read(each.text.get(name), kind) for each in texts], kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"attribute `{name}` of a described item is no {kind} ({error})") from error
    return pa.table(arrays)


def _read(value: object, kind: pa.DataType) -> object:
    """A value of an attribute; JSON has dates and times as ISO texts alone."""
    if isinstance(value, str) and pa.types.is_temporal(kind):
        return pa.scalar(value).cast(kind).as_py()
    return value


def extended(bundle: Bundle, rows: pa.Table) -> TextReader:
    """The bundle's model with described items after its own, as V+1..V+n."""
    reader = text_reader(bundle.model)
    config = cast(SentenceConfig, bundle.config.model)
    assert reader.tokenizer is not None
    return reader.extended(sentences_of(config, reader.tokenizer, rows))


def scores_of(
    bundle: Bundle,
    history: Sequence[ItemId | ItemText],
    items: Sequence[ItemId | ItemText],
    device: str,
) -> list[float | None]:
    """What the model makes of items as the next one, named or described; None for ids that it does not know.

    Raises:
        InputError: the model counts, an item is described that it cannot read, or the history is empty.
    """
    if not isinstance(bundle.model, Encoder):
        raise InputError(f"model `{bundle.config.model.name}` counts, and scores no single items")
    model: Encoder = bundle.model
    if texts := [each for each in (*history, *items) if isinstance(each, ItemText)]:
        model = extended(bundle, described(bundle, texts))
    rows = numbered([*history, *items], bundle)
    read = rows[: len(history)]
    if not read.any():
        raise InputError("no item of the history is known or described; nothing can be scored after it")
    vector_D = encode_histories(model, Ragged.of([read[read > 0]]), device)[0]
    with torch.inference_mode():
        asked = torch.from_numpy(np.maximum(rows[len(history) :] - 1, 0).astype(np.int64))
        table_nD = model.item_table()[asked.to(device)].float().cpu().numpy()
    found = (table_nD @ vector_D).tolist()
    return [score if row else None for score, row in zip(found, rows[len(history) :], strict=True)]


def numbered(items: Sequence[ItemId | ItemText], bundle: Bundle) -> NDArray[np.int32]:
    """Item indices, of described items V+1.. in their order; 0 where an id is unknown."""
    is_text = np.array([isinstance(each, ItemText) for each in items], dtype=np.bool_)
    indices = np.zeros(len(items), dtype=np.int32)
    indices[~is_text] = bundle.vocabulary.encode([each for each in items if not isinstance(each, ItemText)])
    indices[is_text] = len(bundle.vocabulary) + 1 + np.arange(is_text.sum())
    return indices
