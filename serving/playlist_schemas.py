"""What goes over the wire about playlists."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

from serving.schemas import AnswersInJson, Id, Item, Name, Narrowed, Request

LONGEST_PLAYLIST = 1000
MOST_DIVERSE = 100
"""Tracks of a diverse slate: each is a pass through the encoder for all beams."""

Tracks = Annotated[list[Id], Field(max_length=LONGEST_PLAYLIST)]
_TRACKS = "original track ids in their order; unknown ones are ignored and named"
_PLAYLIST = "instead of tracks: id of a stored playlist"


class SimilarPlaylistsRequest(Request):
    """A playlist, stored or given by its tracks, to find the like of."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"tracks": [50, 181, 258], "k": 5}, {"playlist": 7}]}
    )

    tracks: Tracks | None = Field(None, description=_TRACKS)
    playlist: Id | None = Field(None, description=_PLAYLIST + "; it never comes itself")
    k: AnswersInJson = 10


class DiverseSearch(Request):
    """Diverse beam search: step by step, where a repetition has its price."""

    groups: Annotated[StrictInt, Field(ge=1, le=5)] = Field(3, description="slates to choose from")
    width: Annotated[StrictInt, Field(ge=1, le=5)] = Field(2, description="beams of each")
    strength: Annotated[StrictFloat | StrictInt, Field(ge=0, le=100)] = Field(
        1.0, description="price of a repetition, in nats"
    )
    attribute: Name | None = Field(
        None, description="whose repetition costs, such as `artist`; null: only the track itself"
    )


class ContinueRequest(Narrowed):
    """A playlist, stored or given by its tracks, and what may follow it; its own tracks never do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"tracks": [50, 181], "k": 10, "max_per": {"artist": 2}},
                {"playlist": 7, "k": 10, "diverse": {"groups": 2, "attribute": "artist"}},
            ]
        }
    )

    tracks: Tracks | None = Field(None, description=_TRACKS)
    playlist: Id | None = Field(None, description=_PLAYLIST)
    diverse: DiverseSearch | None = Field(
        None,
        description=f"several slates of at most {MOST_DIVERSE} tracks by diverse beam search; default: one "
        "slate, of the nearest tracks",
    )


class Track(BaseModel):
    """A track of a playlist."""

    id: int | str
    title: str | None


class StoredPlaylist(BaseModel):
    """A stored playlist."""

    id: int | str
    title: str | None
    length: int = Field(description="tracks that it has")
    tracks: list[Track] = Field(description="its tracks in their order; the first three of a similar one")


class SimilarPlaylist(StoredPlaylist):
    """One that is similar."""

    score: float = Field(description="cosine of the two vectors")
    shared: int = Field(description="different tracks that both have")


class _Answer(BaseModel):
    unknown: list[int | str] = Field(description="ids of the request that the encoder does not know")
    fewer_because: str | None = Field(description="why fewer than k came; null where k came")
    model_version: str = Field(description="of the playlist encoder")


class SimilarPlaylistsResponse(_Answer):
    """The playlists whose vectors are nearest."""

    playlists: list[SimilarPlaylist] = Field(description="nearest first")


class ContinueResponse(_Answer):
    """What may follow a playlist."""

    slates: list[list[Item]] = Field(
        description="one, or as many as groups were asked for; each best first. A score is the inner product "
        "of the vectors of track and playlist"
    )


class PlaylistResponse(StoredPlaylist):
    """A stored playlist with all its tracks."""

    model_version: str = Field(description="of the playlist encoder")


class Label(BaseModel):
    """What playlists of one colour have in common."""

    name: str
    colour: str = Field(description="as CSS writes it")


class MapResponse(BaseModel):
    """Where playlists lie: near ones are alike. All lists but `labels` have an entry for each playlist."""

    ids: list[int | str]
    titles: list[str | None]
    lengths: list[int] = Field(description="tracks of each")
    x: list[float] = Field(description="from the left, 0 to 1")
    y: list[float] = Field(description="from the top, 0 to 1")
    label: list[int] = Field(description="place of its label in `labels`; -1 for none")
    labels: list[Label]
    model_version: str = Field(description="of the playlist encoder")
