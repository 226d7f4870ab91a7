"""From tracks, or a stored playlist, to similar playlists and to what comes next: what the endpoint asks.

Shapes: `S` playlists, `V` tracks, `D` width, `k` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.answering import Observe, best, check_question, scored, stage_of, told, unobserved
from recsys.answers import Filters, Question, ScoredItem, why_fewer
from recsys.catalogue import Catalogue
from recsys.encoding import item_vectors
from recsys.errors import InputError
from recsys.playlists.continuation import Diverse, Limit, diverse_beams, groups_of
from recsys.playlists.embedding import embed, unit
from recsys.playlists.labels import track_column
from recsys.playlists.map_store import StoredMap, load_map
from recsys.playlists.store import PlaylistIndex, PlaylistModel, load_playlist_index
from recsys.search import ExactIndex
from recsys.sequences import Ragged
from recsys.vocabulary import ItemId, Vocabulary

GLIMPSE = 3  # first tracks of a playlist that are told
TESTED = 16  # playlists that the check embeds again
SAME = 0.999  # cosine of a playlist's vector now and as it is stored


@dataclass(frozen=True)
class Seed:
    """A playlist as it was read.

    Attributes:
        tracks: (n,) track indices, at least one.
        vector: (D,) what the encoder makes of them.
        unknown: ids that the encoder does not know, each once.
        row: of the index, where it is a stored one.
    """

    tracks: NDArray[np.int32]
    vector: NDArray[np.float32]
    unknown: list[ItemId]
    row: int | None = None


@dataclass(frozen=True)
class Track:
    """A track by its original id; its title, if any."""

    id: ItemId
    title: str | None


@dataclass(frozen=True)
class StoredPlaylist:
    """A stored playlist: original id, title if any, its length, and some or all of its tracks."""

    id: ItemId
    title: str | None
    length: int
    tracks: list[Track]


@dataclass(frozen=True)
class WholePlaylist(StoredPlaylist):
    """One with all its tracks, and the version of the encoder that knows it."""

    model_version: str


@dataclass(frozen=True)
class SimilarPlaylist(StoredPlaylist):
    """One that is similar: the cosine of the vectors, and how many different tracks both have."""

    score: float
    shared: int


@dataclass(frozen=True)
class SimilarPlaylists:
    """The nearest playlists, nearest first; the rest as of `recsys.answers.Recommendations`."""

    playlists: list[SimilarPlaylist]
    unknown: list[ItemId]
    fewer_because: str | None
    model_version: str


@dataclass(frozen=True)
class Continuation:
    """Slates of next tracks, each best first; the rest as of `recsys.answers.Recommendations`.

    A score is the inner product of the track's vector with that of the seed, however the slate was found.
    """

    slates: list[list[ScoredItem]]
    unknown: list[ItemId]
    fewer_because: str | None
    model_version: str


class PlaylistRecommender:
    """Embed, search, continue. Immutable after construction, and safe to ask from several threads."""

    def __init__(self, model: PlaylistModel, index: PlaylistIndex, places: StoredMap | None = None) -> None:
        """Take what `load` reads.

        Args:
            model: the encoder with its tracks.
            index: every embedded playlist.
            places: a map of them, if one was made.
        """
        self.model = model
        self.index = index
        self.map = places
        self.catalogue = Catalogue(model.items, model.vocabulary)
        self._table = item_vectors(model.encoder)
        self._tracks = ExactIndex(self._table)
        self._numbers: dict[str, NDArray[np.int64]] = {}

    @classmethod
    def load(cls, folder: Path | str) -> PlaylistRecommender:
        """Read the folder that `recsys playlists train` and `embed` wrote, and perhaps `map`.

        Raises:
            InputError: something is missing, damaged, or of another model.
        """
        model = PlaylistModel.load(folder)
        found = cls(model, load_playlist_index(model), load_map(model))
        found._check()
        return found

    def _check(self) -> None:
        """Embed a few playlists again, and look for them."""
        near = self.index.neighbours
        told = np.flatnonzero(np.any(near.vectors, axis=1))  # a bag of tracks never trained on has zeros
        rows = np.unique(told[np.linspace(0, len(told) - 1, min(TESTED, len(told))).astype(int)])
        again = unit(embed(self.model.encoder, self.index.playlists.take(rows)))
        cosines = {
            "embedded again": (again * near.vectors[rows]).sum(axis=1),
            "looked for": np.array([near.search(near.vectors[row], 1)[1].max(initial=-1) for row in rows]),
        }
        for what, each in cosines.items():
            if not each.min(initial=1) > SAME:
                raise InputError(
                    f"a playlist of {self.model.folder} that is {what} is not the stored one (cosine "
                    f"{each.min():.3f}); run `recsys playlists embed` anew"
                )

    @property
    def vocabulary(self) -> Vocabulary:
        """Original ids and indices of the tracks."""
        return self.model.vocabulary

    @property
    def model_version(self) -> str:
        """Short content hash of the encoder."""
        return self.model.version

    @property
    def single_attributes(self) -> list[str]:
        """Attributes of which a track has one value: those that `diverse` can count."""
        kinds = {name: self.catalogue.items[name].type for name in self.catalogue.attributes}
        return [name for name, kind in kinds.items() if not pa.types.is_nested(kind)]

    def read(self, tracks: Sequence[ItemId]) -> Seed:
        """Tracks read as a playlist, in their order.

        Raises:
            InputError: there is none, or none is known.
        """
        read, unknown = self.model.tracks(tracks, "`tracks`")
        return Seed(read[0], embed(self.model.encoder, read)[0], list(dict.fromkeys(unknown)))

    def read_stored(self, playlist: ItemId) -> Seed:
        """A stored playlist.

        Raises:
            UnknownItem: there is none of that id.
        """
        row = self.index.row(playlist)
        read = self.index.playlists.take([row])
        return Seed(read[0], embed(self.model.encoder, read)[0], [], row)

    def stored(self, playlist: ItemId) -> WholePlaylist:
        """A stored playlist with all its tracks.

        Raises:
            UnknownItem: there is none of that id.
        """
        row = self.index.row(playlist)
        tracks = self.index.playlists[row]
        return WholePlaylist(*self._named(row), len(tracks), self._told(tracks), self.model_version)

    def similar(self, seed: Seed, k: int, observe: Observe = unobserved) -> SimilarPlaylists:
        """The k playlists whose vectors are nearest to the seed's; a stored seed itself never comes.

        Raises:
            InputError: k is below 1.
        """
        check_question(k, Filters())
        with stage_of("search", observe):
            rows, cosines = self.index.neighbours.search(seed.vector, k, exclude=seed.row)
        found = []
        for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True):
            tracks = self.index.playlists[row]
            shared = len(np.intersect1d(tracks, seed.tracks))
            first = self._told(tracks[:GLIMPSE])
            found.append(SimilarPlaylist(*self._named(row), len(tracks), first, cosine, shared))
        other = "" if seed.row is None else "other "
        why = None if len(found) == k else f"only {len(found)} {other}playlists are embedded"
        return SimilarPlaylists(found, seed.unknown, why, self.model_version)

    def continued(self, seed: Seed, k: int, filters: Filters, observe: Observe = unobserved) -> Continuation:
        """The k next tracks at once, as one slate; tracks of the seed never come.

        Raises:
            InputError: k or a filter is wrong.
        """
        check_question(k, filters)
        with stage_of("filter", observe):
            allowed = self.catalogue.allowed_by(filters)
        exclude = Ragged.of([np.unique(seed.tracks)])
        with stage_of("search", observe):
            row = best(
                lambda k, allowed: self._tracks.search(
                    seed.vector[None], k, allowed=allowed, exclude=exclude
                ),
                k,
                allowed,
                filters,
                self,
            )
        answer = told(self, Question([], k, filters), row, self._unknown(seed, filters))
        return Continuation([answer.items], answer.unknown, answer.fewer_because, self.model_version)

    def diverse(
        self,
        seed: Seed,
        k: int,
        filters: Filters,
        *,
        groups: int,
        width: int,
        strength: float,
        attribute: str | None,
        observe: Observe = unobserved,
        ended: Callable[[], bool] = lambda: False,
    ) -> Continuation:
        """Slates of k next tracks by diverse beam search; tracks of the seed never come.

        Args:
            seed: what is continued.
            k: tracks of a slate.
            filters: `max_per` only of attributes of which a track has one value.
            groups: slates.
            width: beams of a group.
            strength: what a repetition costs, in nats.
            attribute: whose repetition costs; None: the track's own, which only separates the slates.
            observe: is told how long each stage took.
            ended: as of `diverse_beams`.

        Raises:
            InputError: a number, a filter or the attribute is wrong.
        """
        check_question(k, filters)
        with stage_of("filter", observe):
            limits = [Limit(self._groups_of(name), most) for name, most in filters.max_per.items()]
            shared = None if attribute is None else self._groups_of(attribute)
            settings = Diverse(groups, width, strength, shared)
            allowed = self._allowed(seed, filters)
            enough = allowed & self._scores_enough(seed, filters)
        with stage_of("beam", observe):
            found = [np.empty(0, np.int64)] * groups
            if enough.any():
                found = diverse_beams(
                    self.model.encoder, seed.tracks, k, settings, limits, enough, self._table, ended
                )
        fewest = min(map(len, found))
        there = fewest if filters.max_per else int(allowed.sum())
        why = why_fewer(filters, there, fewest, k, len(self.vocabulary))
        slates = [scored(self, slate, self._scores(seed, slate)) for slate in found]
        return Continuation(slates, self._unknown(seed, filters), why, self.model_version)

    def _allowed(self, seed: Seed, filters: Filters) -> NDArray[np.bool_]:
        """(V,) tracks that may come, whatever they score."""
        mask = self.catalogue.allowed_by(filters)
        mask = np.ones(len(self.vocabulary), dtype=bool) if mask is None else mask.copy()
        mask[seed.tracks - 1] = False
        return mask

    def _scores_enough(self, seed: Seed, filters: Filters) -> NDArray[np.bool_]:
        """(V,) tracks that score at least `min_score`."""
        if filters.min_score is None:
            return np.ones(len(self.vocabulary), dtype=bool)
        return self._scores(seed, np.arange(1, len(self.vocabulary) + 1)) >= filters.min_score

    def _scores(self, seed: Seed, tracks: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n,) inner products of track indices (n,) with the seed, as `recsys.search` computes them."""
        products = self._table[tracks - 1].astype(np.float64) @ seed.vector.astype(np.float64)
        return np.asarray(products, dtype=np.float32)

    def _groups_of(self, name: str) -> NDArray[np.int64]:
        """(V,) number of each track's value of an attribute, -1 for none; made once."""
        if name in self.catalogue.attributes and name not in self.single_attributes:
            raise InputError(
                f"tracks have several values of `{name}`, which diverse slates cannot count; leave it out, "
                "or leave out `diverse`"
            )
        if name not in self._numbers:
            self._numbers[name] = groups_of(track_column(self.model.items, name))
        return self._numbers[name]

    def _unknown(self, seed: Seed, filters: Filters) -> list[ItemId]:
        return list(dict.fromkeys((*seed.unknown, *filters.unknown_to(self.vocabulary))))

    def _named(self, row: int) -> tuple[ItemId, str | None]:
        titles = self.index.titles
        return self.index.ids[row].as_py(), None if titles is None else titles[row].as_py()

    def _told(self, tracks: NDArray[np.int32]) -> list[Track]:
        ids, titles = self.vocabulary.decode(tracks), self.catalogue.titles(tracks)
        return [Track(*each) for each in zip(ids, titles, strict=True)]
