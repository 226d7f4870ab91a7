"""New items for a bundle that reads text: no training, and a new version in seconds.

Shapes: `V` items of the bundle, `n` new ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from recsys import schema
from recsys.bundle import TITLE, Bundle, save_changed
from recsys.config import SentenceConfig
from recsys.errors import InputError
from recsys.index import build_index, read_index_info
from recsys.models import TEXT_ENCODERS, reads_text
from recsys.models.protocol import Model
from recsys.models.reading import sentences_of, text_reader
from recsys.sequences import Ragged
from recsys.text.attributes import own_columns, text_columns

READERS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Added:
    """What `add_items` did.

    Attributes:
        bundle: the new version.
        items: new items n.
        notes: what a person should know of their texts.
        seconds: all of it, the index included.
    """

    bundle: Bundle
    items: int
    notes: list[str]
    seconds: float


def add_items(
    bundle: Bundle,
    table: pa.Table,
    *,
    out: Path | None = None,
    id_column: str = schema.ITEM_ID,
    title: str | None = None,
    queries: Ragged | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Added:
    """Encode new items, extend vocabulary and table, and write a new version with an index of all.

    Args:
        bundle: of a model that reads text.
        table: n new items, with columns named as in the bundle's items.
        out: where to write; default: in place of the old version, in one step.
        id_column: column of the new ids.
        title: column of the titles, where it is not `title`.
        queries: histories to measure the index with, see `build_index`; default: single items.
        say: called with a line for each stage.

    Raises:
        InputError: the model knows items by their events alone, a column is missing or of another type, or an
            id is null, repeated, or known already.
    """
    started = time.perf_counter()
    config = bundle.config.model
    if not isinstance(config, SentenceConfig) or not reads_text(bundle.config.model):
        raise InputError(
            f"{bundle.folder} is of model `{config.name}`, which knows items by their events alone, and new "
            "ones have none: train it again when they have, or use a model that reads text "
            "(model=recformer, or model.item_encoder=id+text)"
        )
    reader = text_reader(bundle.model)
    info = read_index_info(bundle)
    table = _with_title(table, title)
    read = text_columns(bundle.items, config.attributes, config.max_attributes)
    rows = _new_rows(bundle, table, read, id_column)
    assert reader.tokenizer is not None
    sentences = sentences_of(config, reader.tokenizer, rows)
    notes = sentences.notes(rows[schema.ITEM_ID])
    if missing := [name for name in read if name not in table.column_names]:
        notes.insert(0, f"the new items have no column {', '.join(missing)}, which the model reads")
    say(f"encoding {len(rows):,} items")
    items = pa.concat_tables([bundle.items, rows])
    state = reader.extended_state(sentences)
    grown = TEXT_ENCODERS[config.name](config, len(items), state, reader.tokenizer)
    history = [*bundle.manifest.get("added", []), {"from": bundle.model_version, "items": len(rows)}]
    folder = save_changed(out or bundle.folder, bundle, model=cast(Model, grown), items=items, added=history)
    changed = Bundle.load(folder)
    if info:
        say(f"building the index of {len(items):,} items")
        none = Ragged.of([])
        build_index(changed, queries or none, recall=info.asked_recall, backend=info.backend, k=info.k)
    return Added(changed, len(rows), notes, time.perf_counter() - started)


def read_item_file(
    file: Path, bundle: Bundle, id_column: str = schema.ITEM_ID, title: str | None = None
) -> pa.Table:
    """A Parquet, CSV or JSON-lines file of items; what is text in the bundle is text in a CSV, digits too.

    Raises:
        InputError: it is missing, of another format, or cannot be read.
    """
    if file.suffix not in READERS:
        raise InputError(f"{file} is no {', '.join(READERS)} file; convert the new items to one of these")
    try:
        if file.suffix == ".parquet":
            return pq.read_table(file)
        if file.suffix == ".jsonl":
            return pyarrow.json.read_json(file)
        types = {
            (title or TITLE) if field.name == TITLE else field.name: field.type
            for field in bundle.items.schema
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        } | {id_column: bundle.vocabulary.ids.type}
        return pyarrow.csv.read_csv(file, convert_options=pyarrow.csv.ConvertOptions(column_types=types))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _new_rows(bundle: Bundle, table: pa.Table, read: list[str], id_column: str) -> pa.Table:
    """The new items with the columns of the bundle's, in their types; without an event so far."""
    if id_column not in table.column_names:
        raise InputError(
            f"the new items have no column `{id_column}`, only {', '.join(table.column_names)}; name the "
            "column of their ids with --id"
        )
    if not set(read) & set(table.column_names):
        raise InputError(
            f"the new items have none of the columns that the model reads ({', '.join(read)}), only "
            f"{', '.join(table.column_names)}; rename them"
        )
    n, size = len(table), len(bundle.vocabulary)
    columns = {
        schema.ITEM_INDEX: pa.array(np.arange(size + 1, size + n + 1)),
        schema.ITEM_ID: table[id_column],
        schema.ITEM_COUNT: pa.array(np.zeros(n, np.int64)),
        schema.ITEM_RECENT: pa.array(np.zeros(n, np.int64)),
    }
    for name in own_columns(bundle.items):
        columns[name] = table[name] if name in table.column_names else pa.nulls(n)
    cast = {}
    for field in bundle.items.schema:
        try:
            cast[field.name] = columns[field.name].cast(field.type)
        except (pa.ArrowException, NotImplementedError) as error:
            raise InputError(
                f"column `{field.name}` of the new items is of type {columns[field.name].type}, but the "
                f"bundle's is of type {field.type}; convert it"
            ) from error
    _check_ids(cast[schema.ITEM_ID], bundle)
    return pa.table(cast, schema=bundle.items.schema)


def _with_title(table: pa.Table, title: str | None) -> pa.Table:
    """The table with its titles in the column `title`, and no name twice."""
    names = table.column_names
    if title and title not in names:
        raise InputError(
            f"the new items have no column `{title}`, only {', '.join(names)}; name the column of their "
            "titles with --title"
        )
    if title and title != TITLE and TITLE in names:
        raise InputError(
            f"the new items have a column `{TITLE}` beside `{title}`, which --title names; leave one out"
        )
    for name in (name for name in names if names.count(name) > 1):
        raise InputError(f"the new items have two columns `{name}`; keep one")
    return table.rename_columns([TITLE if name == title else name for name in names])


def _check_ids(ids: pa.ChunkedArray, bundle: Bundle) -> None:
    if not len(ids):
        raise InputError("there is no new item in the table; give at least one row")
    if ids.null_count:
        raise InputError(f"{ids.null_count} ids of the new items are null; give each an id")
    twice = ids.value_counts()
    repeated = pc.filter(twice.field("values"), pc.greater(twice.field("counts"), 1))
    if len(repeated):
        raise InputError(f"id {repeated[0].as_py()!r} stands twice among the new items; keep one row of each")
    known = pc.filter(ids, pa.array(bundle.vocabulary.encode_array(ids) > 0))
    if len(known):
        raise InputError(
            f"{len(known):,} of the new items are in {bundle.folder} already, such as {known[0].as_py()!r}; "
            "leave them out"
        )
