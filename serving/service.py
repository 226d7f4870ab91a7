"""What the endpoint's requests are answered from: the model in force and the tables beside it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from recsys.answering import stage_of
from recsys.answers import Filters, Question, Recommendations
from recsys.errors import InputError
from recsys.item_texts import ItemText
from recsys.recommender import Recommender
from recsys.vocabulary import ItemId, Vocabulary
from serving import schemas
from serving.batching import Batcher
from serving.metrics import Metrics
from serving.playlists import PlaylistService
from serving.security import ApiKeys
from serving.tables import Availability, Histories
from serving.watched import Watched, Watcher, stamp

READY_FOR = 5.0  # seconds that a model that answered counts as ready
WAITING_SCORES = 32  # requests; each may hold thousands of items


@dataclass(frozen=True)
class Settings:
    """How the endpoint runs.

    Attributes:
        window: seconds that a request waits at most for others to be answered with, and only under load.
        most: questions that are answered together; 1 answers each alone.
        waiting: questions that may wait for an answer; more are refused with 503.
        threads: batches at a time; default: one less than there are processors, from 1 to 4.
        deadline: seconds from the start of a request to its answer.
        watch: seconds between two looks at what may change.
        availability: table of which items can be had, or None: all.
        histories: stored histories, or None.
        playlists: folder of a playlist encoder with its index, or None.
        keys: file of hashed API keys, or None: the endpoint is open.
        origins: web pages of these origins may ask (CORS); default: none.
    """

    window: float = 0.002
    most: int = 64
    waiting: int = 1024
    threads: int = max(1, min(4, (os.cpu_count() or 1) - 1))
    deadline: float = 10.0
    watch: float = 10.0
    availability: Path | None = None
    histories: Path | None = None
    playlists: Path | None = None
    keys: Path | None = None
    origins: Sequence[str] = ()


@dataclass(frozen=True)
class Similar:
    """The question for items like one."""

    item: ItemId


@dataclass(frozen=True)
class Asked:
    """A question as it waits: the model that will answer it is not known yet."""

    what: Sequence[ItemId | ItemText] | Similar
    filters: schemas.Filtered


@dataclass(frozen=True)
class Answered:
    """An answer, or what is wrong with the question.

    Attributes:
        answer: names the unknown ids of its history.
        unknown: ids of the filters that the model does not know; one list for all questions of a request.
    """

    answer: Recommendations | Exception
    unknown: Sequence[ItemId] = ()


@dataclass(frozen=True)
class Reply:
    """The answers to one request; attributes as of `Answered`."""

    answers: list[Recommendations]
    unknown: Sequence[ItemId]

    @property
    def single(self) -> Recommendations:
        """The answer to the only question; it names all unknown ids."""
        (answer,) = self.answers
        return answer.naming(self.unknown)


class Service:
    """Answers questions in batches with whatever is in force at that moment."""

    def __init__(self, model: Watched[Recommender], settings: Settings) -> None:
        """Read the tables.

        Raises:
            InputError: one cannot be read.
        """
        self.model = model
        self.availability = _watched("availability", settings.availability, self._read_availability)
        self.histories = _watched("histories", settings.histories, Histories.read)
        self.keys = _watched("keys", settings.keys, ApiKeys.read)
        self.playlists = PlaylistService(
            settings.playlists,
            self._available,
            lambda *each: self.metrics.stage(*each),
            settings.threads,
            settings.waiting,
        )
        tables = (self.availability, self.histories, self.playlists.watched, self.keys)
        self.watched: list[Watched[Any]] = [model, *(each for each in tables if each is not None)]
        self.metrics = Metrics(self.watched)
        self.watcher = Watcher(self.watched, settings.watch)
        self._batcher = Batcher[Asked, Answered](
            self._answer,
            window=settings.window,
            most=settings.most,
            waiting=settings.waiting,
            threads=settings.threads,
            observe=self.metrics.batch,
        )
        self._ready = "", 0.0  # version, and when it answered
        self._readying = asyncio.Lock()
        # Beside the others, so that however much is to be scored does not keep them waiting.
        self._scoring = Batcher[schemas.ScoreRequest, schemas.ScoreResponse](
            self._score, window=0, most=1, waiting=min(WAITING_SCORES, settings.waiting)
        )

    def _read_availability(self, path: Path) -> Availability:
        table = Availability.read(path)
        table.mask(self.model.value.vocabulary, None)  # looks its items up before a request has to
        return table

    def _available(self, vocabulary: Vocabulary, region: str | None) -> NDArray[np.bool_] | None:
        """(V,) items that can be had in a region (None: anywhere), or None where no table says so."""
        return None if self.availability is None else self.availability.value.mask(vocabulary, region)

    def start(self) -> None:
        """Begin to watch."""
        self.watcher.start()

    def stop(self) -> None:
        """Watch no longer, and let the threads go."""
        self.watcher.stop()
        self._batcher.close()
        self._scoring.close()
        self.playlists.stop()

    @property
    def version(self) -> str:
        """Of the model in force."""
        return self.model.value.model_version

    @property
    def problems(self) -> dict[str, str]:
        """What is not as new as it could be, and why."""
        return {each.name: each.problem for each in self.watched if each.problem is not None}

    async def ask(
        self, whats: Sequence[Sequence[ItemId | ItemText] | Similar], filters: schemas.Filtered
    ) -> Reply:
        """Answers of one model to the questions of one request.

        Raises:
            InputError: one of the questions is wrong.
            Overloaded: too many are waiting.
        """
        found = await self._batcher.ask([Asked(what, filters) for what in whats])
        answers = []
        for each in found:
            if isinstance(each.answer, Exception):
                raise each.answer
            answers.append(each.answer)
        return Reply(answers, found[0].unknown)

    async def ready(self) -> str:
        """Version of the model in force, which was seen to answer in the last few seconds.

        However many ask, the model is asked once in a while, and by one of them.

        Raises:
            Exception: whatever is wrong with the model.
            Overloaded: too many are waiting.
        """
        async with self._readying:
            version, seen = self._ready
            if version != self.version or time.monotonic() - seen > READY_FOR:
                first = self.model.value.vocabulary.decode([1])
                answer = (await self.ask([first], schemas.Filtered(k=1, exclude_seen=False))).single
                self._ready = answer.model_version, time.monotonic()
            return self._ready[0]

    async def score(self, asked: schemas.ScoreRequest) -> schemas.ScoreResponse:
        """What the model makes of single items after a history.

        Raises:
            InputError: the model cannot score them.
            Overloaded: too many are waiting.
        """
        (answer,) = await self._scoring.ask([asked])
        return answer

    def histories_of(self, users: Sequence[ItemId]) -> list[list[ItemId]]:
        """Stored histories.

        Raises:
            InputError: none are stored here at all.
            HTTPException: 404, a user has none.
        """
        if self.histories is None:
            raise InputError(
                "no histories are stored here (`recsys serve --histories`); send `history` instead"
            )
        stored = self.histories.value
        found = {user: stored.of(user) for user in users}
        unknown = [user for user, history in found.items() if history is None]
        if unknown:
            shown = ", ".join(repr(user) for user in unknown[:10])
            raise HTTPException(404, f"no history is stored of {shown}; send `history` instead")
        return [found[user] or [] for user in users]

    def _answer(self, batch: list[Asked]) -> list[Answered]:
        """In a thread: answers of the model that is in force when the batch begins.

        Where the batch fails, its requests are answered one by one, and only those that fail alone do.
        """
        recommender = self.model.value
        try:
            return self._answer_together(recommender, batch)
        except Exception:
            requests: dict[int, list[int]] = {}
            for place, each in enumerate(batch):
                requests.setdefault(id(each.filters), []).append(place)
            answers: dict[int, Answered] = {}
            for places in requests.values():
                try:
                    found = self._answer_together(recommender, [batch[place] for place in places])
                except Exception as error:
                    found = [Answered(error)] * len(places)
                answers |= zip(places, found, strict=True)
            return [answers[place] for place in range(len(batch))]

    def _answer_together(self, recommender: Recommender, batch: list[Asked]) -> list[Answered]:
        filters: dict[int, Filters] = {}  # one for the questions of a request, which share their masks
        unknown: dict[int, list[ItemId]] = {}
        for each in batch:
            request = id(each.filters)
            if request not in filters:
                mask = self._available(recommender.vocabulary, each.filters.region)
                filters[request] = each.filters.filters(mask)
                unknown[request] = filters[request].unknown_to(recommender.vocabulary)
        questions = [
            Question(each.what, each.filters.k, filters[id(each.filters)])
            for each in batch
            if not isinstance(each.what, Similar)
        ]
        answers = iter(recommender.answer(questions, self.metrics.stage) if questions else [])
        return [
            Answered(
                self._similar(recommender, each.what.item, each.filters.k, filters[id(each.filters)])
                if isinstance(each.what, Similar)
                else next(answers),
                unknown[id(each.filters)],
            )
            for each in batch
        ]

    def _similar(
        self, recommender: Recommender, item: ItemId, k: int, filters: Filters
    ) -> Recommendations | InputError:
        try:
            with stage_of("search", self.metrics.stage):
                return recommender.answer_similar(item, k, filters)
        except InputError as error:
            return error

    def _score(self, batch: list[schemas.ScoreRequest]) -> list[schemas.ScoreResponse]:
        """In a thread of its own."""
        recommender = self.model.value
        with stage_of("score", self.metrics.stage):
            return [
                schemas.ScoreResponse(
                    scores=recommender.score(schemas.items_of(each.history), schemas.items_of(each.items)),
                    model_version=recommender.model_version,
                )
                for each in batch
            ]


def _watched(name: str, path: Path | None, read: Any) -> Watched[Any] | None:  # noqa: ANN401
    return None if path is None else Watched(name, lambda: stamp(path), lambda: read(path))
