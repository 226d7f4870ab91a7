"""What can be told of a model: its data, its figures, and which attributes its items can be filtered by."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from recsys.bundle import TITLE
from recsys.recommender import Recommender
from recsys.search import AnnoyIndex

MOST_VALUES = 40  # of an attribute; the most frequent ones


class AttributeCard(BaseModel):
    """An attribute that `where` and `max_per` may name: a number within bounds, or one of some values."""

    name: str
    least: float | None = Field(description="the smallest number; null for what is no number")
    greatest: float | None = Field(description="the greatest number; null for what is no number")
    values: list[str | bool] | None = Field(description="the most frequent values; null for numbers")
    more: int = Field(0, description="how many other values there are")


class IndexCard(BaseModel):
    """The index that is searched, and its recall against exact search, measured when it was built."""

    k: int
    recall: float
    asked_recall: float
    trees: int
    search_k: int


class PlaylistsCard(BaseModel):
    """The playlists that are served beside a model."""

    model: str = Field(description="their encoder")
    model_version: str
    playlists: int
    map: bool = Field(description="whether there is a map of them")
    attributes: list[str] = Field(description="of tracks: those that a diverse continuation can count")


class ModelCard(BaseModel):
    """A model as it was trained and measured."""

    model: str
    model_version: str
    created_at: str
    data: str | None = Field(description="name of the prepared data")
    data_digest: str | None = Field(description="of what was in it")
    trained_until: str | None = Field(description="time of the newest event that was learned")
    trained_on: str
    best_epoch: int | None
    items: int
    backend: str = Field(description="annoy, exact, or counts for a model that needs no index")
    index: IndexCard | None = Field(description="null where all items are searched")
    metrics: dict[str, float]
    packages: dict[str, str] = Field(description="versions that it was trained with")
    attributes: list[AttributeCard]
    regions: bool = Field(description="whether availability is by region here")
    playlists: PlaylistsCard | None = Field(description="null where none are served")


def model_card(recommender: Recommender, *, regions: bool, playlists: PlaylistsCard | None) -> ModelCard:
    """The card of a model; where its data lies and what command made it are nobody's business.

    Args:
        recommender: of the model.
        regions: whether availability is by region.
        playlists: what is served beside it.
    """
    manifest = recommender.bundle.manifest
    data = manifest["data"]
    info = recommender.index_info if isinstance(recommender.index, AnnoyIndex) else None
    environment = (manifest.get("training") or {}).get("environment") or {}
    columns = recommender.catalogue.items
    return ModelCard(
        model=manifest["model"],
        model_version=recommender.model_version,
        created_at=manifest["created_at"],
        data=data.get("name"),
        data_digest=data.get("content_digest"),
        trained_until=_day(data.get("trained_until")),
        trained_on=manifest["trained_on"],
        best_epoch=manifest["best_epoch"],
        items=len(recommender.vocabulary),
        backend=recommender.backend,
        index=info and IndexCard.model_validate(info, from_attributes=True),
        metrics=manifest["metrics"],
        packages=environment.get("packages") or {},
        attributes=[
            attribute_card(name, columns[name]) for name in recommender.catalogue.attributes if name != TITLE
        ],
        regions=regions,
        playlists=playlists,
    )


def attribute_card(name: str, column: pa.ChunkedArray) -> AttributeCard:
    """What an attribute can be asked for."""
    values: Any = column.combine_chunks()
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = pc.list_flatten(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        bounds = pc.min_max(values).as_py()
        return AttributeCard(name=name, least=bounds["min"], greatest=bounds["max"], values=None)
    found: list[str | bool] = []
    if (
        pa.types.is_boolean(values.type)
        or pa.types.is_string(values.type)
        or pa.types.is_large_string(values.type)
    ):
        counts = pc.value_counts(values.drop_null())
        order = pc.sort_indices(counts, sort_keys=[("counts", "descending"), ("values", "ascending")])
        found = counts.field("values").take(order).to_pylist()
    shown = found[:MOST_VALUES]
    return AttributeCard(name=name, least=None, greatest=None, values=shown, more=len(found) - len(shown))


def _day(micros: int | None) -> str | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="seconds")
