"""Questions about playlists: similar ones, what comes next in one, its tracks, and the map of all.

They have threads and queues of their own: however long a beam search takes, nobody else waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Annotated, Any, TypeVar, cast

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import TypeAdapter

from recsys.answering import Observe, stage_of
from recsys.errors import InputError
from recsys.playlists.explore import colour, screen_places
from recsys.playlists.recommender import (
    Continuation,
    PlaylistRecommender,
    Seed,
    SimilarPlaylists,
    WholePlaylist,
)
from recsys.vocabulary import Vocabulary
from serving import playlist_schemas as schemas
from serving.batching import Batcher
from serving.card import PlaylistsCard
from serving.model import copied
from serving.replies import one_of, told
from serving.watched import Watched, stamp

WAITING, WAITING_BEAMS = 256, 16  # requests at most; more get 503

Available = Callable[[Vocabulary, str | None], NDArray[np.bool_] | None]
"""Which of a vocabulary's items can be had in a region; None for all."""

_SIMILAR = TypeAdapter(SimilarPlaylists)
_CONTINUATION = TypeAdapter(Continuation)
_WHOLE = TypeAdapter(WholePlaylist)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Loaded:
    """Playlists as they are served; `map` is the answer of that endpoint, None where there is no map."""

    recommender: PlaylistRecommender
    map: bytes | None

    @classmethod
    def from_folder(cls, folder: Path) -> Loaded:
        """Read and check a copy of a folder, and make ready what the first question would have to.

        Raises:
            InputError: it is no folder of playlists with an index, is damaged, or does not answer.
        """
        with copied(folder) as copy:
            recommender = PlaylistRecommender.load(copy)
        first = recommender.index.ids[0].as_py()
        recommender.similar(recommender.read_stored(first), 1)
        recommender.vocabulary.index(0)
        return cls(recommender, _map_of(recommender))


class PlaylistService:
    """Answers questions about playlists with whatever is in force at that moment."""

    def __init__(
        self, folder: Path | None, available: Available, observe: Observe, threads: int, waiting: int
    ) -> None:
        """Read the playlists.

        Args:
            folder: what `recsys playlists` wrote, or None: there are none.
            available: of tracks.
            observe: is told how long each stage took.
            threads: questions answered at a time; beam searches come one after the other, beside them.
            waiting: questions that may wait, where that is fewer than `WAITING` and `WAITING_BEAMS`.

        Raises:
            InputError: the folder cannot be read.
        """
        self.watched = (
            None
            if folder is None
            else Watched("playlists", lambda: stamp(folder), lambda: Loaded.from_folder(folder))
        )
        self._available = available
        self._observe = observe
        self._quick = _queue(min(WAITING, waiting), threads)
        self._beams = _queue(min(WAITING_BEAMS, waiting), 1)

    def stop(self) -> None:
        """Let the threads go."""
        self._quick.close()
        self._beams.close()

    @property
    def loaded(self) -> Loaded:
        """What is in force.

        Raises:
            InputError: no playlists are served at all.
        """
        if self.watched is None:
            raise InputError(
                "no playlists are served here; start it as `recsys serve ... --playlists FOLDER`"
            )
        return self.watched.value

    @property
    def card(self) -> PlaylistsCard | None:
        """What can be told of the playlists, if there are any."""
        if self.watched is None:
            return None
        loaded = self.watched.value
        return PlaylistsCard(
            model=loaded.recommender.model.config.model.name,
            model_version=loaded.recommender.model_version,
            playlists=len(loaded.recommender.index.ids),
            map=loaded.map is not None,
            attributes=loaded.recommender.single_attributes,
        )

    async def similar(self, asked: schemas.SimilarPlaylistsRequest) -> SimilarPlaylists:
        """Similar playlists.

        Raises:
            InputError: the question is wrong.
            Overloaded: too many are waiting.
        """
        recommender = self.loaded.recommender
        return await _asked(
            self._quick,
            lambda: recommender.similar(self._seed(recommender, asked), asked.k, self._observe),
        )

    async def continued(self, asked: schemas.ContinueRequest) -> Continuation:
        """What may follow a playlist.

        Raises:
            InputError: the question is wrong.
            Overloaded: too many are waiting.
        """
        if asked.diverse and asked.k > schemas.MOST_DIVERSE:
            raise InputError(
                f"k is {asked.k}; diverse slates have at most {schemas.MOST_DIVERSE} tracks: ask for fewer, "
                "or leave out `diverse`"
            )
        queue = self._beams if asked.diverse else self._quick
        gone = Event()
        try:
            return await _asked(queue, partial(self._continued, self.loaded.recommender, asked, gone.is_set))
        finally:  # at the deadline, too, and when the server stops: a beam search goes no further
            gone.set()

    async def stored(self, playlist: str) -> tuple[str, bytes]:
        """The version of the encoder, and a stored playlist in JSON, written in the thread: it may be long.

        Raises:
            InputError: there is none of that id.
            Overloaded: too many are waiting.
        """
        recommender = self.loaded.recommender
        body = await _asked(self._quick, lambda: _WHOLE.dump_json(recommender.stored(playlist)))
        return recommender.model_version, body

    def _seed(
        self,
        recommender: PlaylistRecommender,
        asked: schemas.SimilarPlaylistsRequest | schemas.ContinueRequest,
    ) -> Seed:
        with stage_of("encode", self._observe):
            if asked.playlist is not None:
                return recommender.read_stored(asked.playlist)
            return recommender.read(asked.tracks or [])

    def _continued(
        self, recommender: PlaylistRecommender, asked: schemas.ContinueRequest, ended: Callable[[], bool]
    ) -> Continuation:
        filters = asked.filters(self._available(recommender.vocabulary, asked.region))
        seed = self._seed(recommender, asked)
        if asked.diverse is None:
            return recommender.continued(seed, asked.k, filters, self._observe)
        return recommender.diverse(
            seed, asked.k, filters, **asked.diverse.model_dump(), observe=self._observe, ended=ended
        )


def add_playlists(app: FastAPI, service: PlaylistService) -> None:
    """Add the endpoints."""

    @app.post("/v1/playlists/similar", response_model=schemas.SimilarPlaylistsResponse)
    async def similar_playlists(asked: schemas.SimilarPlaylistsRequest, request: Request) -> Response:
        """Stored playlists like a stored one, or like some tracks read as one."""
        one_of("tracks", asked.tracks, "playlist", asked.playlist)
        found = await service.similar(asked)
        return told(request, found.model_version, _SIMILAR.dump_json(found))

    @app.post("/v1/playlists/continue", response_model=schemas.ContinueResponse)
    async def continue_playlist(asked: schemas.ContinueRequest, request: Request) -> Response:
        """What may come next in a stored playlist, or after some tracks: at once, or as diverse slates."""
        one_of("tracks", asked.tracks, "playlist", asked.playlist)
        found = await service.continued(asked)
        return told(request, found.model_version, _CONTINUATION.dump_json(found))

    @app.get("/v1/playlists/tracks", response_model=schemas.PlaylistResponse)
    async def playlist_tracks(
        playlist: Annotated[str, Query(max_length=200, description="id of a stored playlist")],
        request: Request,
    ) -> Response:
        """The tracks of a stored playlist."""
        return told(request, *await service.stored(playlist))

    @app.get("/v1/playlists/map", response_model=schemas.MapResponse)
    async def playlist_map(request: Request) -> Response:
        """Where the stored playlists lie in two dimensions, and what their labels are."""
        loaded = service.loaded
        if loaded.map is None:
            raise HTTPException(404, "there is no map of these playlists; `recsys playlists map` makes one")
        return told(request, loaded.recommender.model_version, loaded.map)


def _map_of(recommender: PlaylistRecommender) -> bytes | None:
    found, index = recommender.map, recommender.index
    if found is None:
        return None
    x, y = screen_places(found.places)
    titles = None if index.titles is None else index.titles.take(found.rows).to_pylist()
    answer = schemas.MapResponse(
        ids=index.ids.take(found.rows).to_pylist(),
        titles=titles or [None] * len(found.rows),
        lengths=index.playlists.lengths[found.rows].tolist(),
        x=x,
        y=y,
        label=found.label.tolist(),
        labels=[schemas.Label(name=name, colour=colour(place)) for place, name in enumerate(found.labels)],
        model_version=recommender.model_version,
    )
    return answer.model_dump_json().encode()


def _queue(waiting: int, threads: int) -> Batcher[Callable[[], Any], Any]:
    return Batcher[Callable[[], Any], Any](
        lambda calls: [call() for call in calls], window=0, most=1, waiting=waiting, threads=threads
    )


async def _asked(queue: Batcher[Callable[[], Any], Any], call: Callable[[], _Found]) -> _Found:
    (found,) = await queue.ask([call])
    return cast(_Found, found)
