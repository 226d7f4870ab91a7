"""What a playlist is called, as a vector among those of playlists.

The text tower learns to put a text where the encoder puts what it names: a title where its playlist is, and a
text of the catalogue (a track's title, an artist, a genre) where the playlist of all tracks that have it
would be. So a title may name what no playlist was called after. What is learned is the mean, by squared
distance: a title that says nothing then gives what most playlists have. Without a tower, a title is the mean
of the playlists with like letters.

Shapes: `n` texts, `D` width, `V` tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from recsys.batching import number_of_batches
from recsys.bundle import TOKENIZER_FILE
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.models.protocol import Encoder
from recsys.playlists.continuation import nearest_tracks
from recsys.playlists.continuation_scores import LONGEST, ndcg
from recsys.playlists.embedding import embed, unit
from recsys.playlists.fitting import descend
from recsys.playlists.settings import PlaylistsConfig, TrainedConfig
from recsys.playlists.store import TITLES_FILE, PlaylistModel, load_playlist_index
from recsys.playlists.title_tower import TitleTower, title_sentences
from recsys.playlists.training import held_out
from recsys.sequences import Ragged
from recsys.text.attributes import own_columns
from recsys.text.tokens import ItemTokenizer
from recsys.torch_settings import seeded

NAMESAKES = 20
"""Playlists with the nearest letters that a title's vector is made of."""
VOCABULARY = 20_000
MOST_NAMES = 200_000
"""Texts of the catalogue that are learned; of more, those of the commonest tracks."""
BATCH, LEARNING_RATE = 256, 5e-3
EPOCHS, LEAST_STEPS = 20, 400
TOKEN_DROPOUT = 0.3
MOST_JUDGED = 500

Floats = NDArray[np.float32]


class TitleReader(Protocol):
    """Reads titles."""

    def vector(self, title: str) -> Floats:
        """(D,) vector of the playlist that a title promises.

        Raises:
            InputError: nothing of the title is known.
        """
        ...


class TowerReader:
    """Titles by the text tower."""

    def __init__(self, tower: TitleTower) -> None:
        """Take a trained tower in evaluation mode."""
        self.tower = tower

    def vector(self, title: str) -> Floats:
        """As `TitleReader`."""
        with torch.inference_mode():
            found = self.tower.of_title(title)
        if found is None:
            raise InputError(f"title `{title}` has no word that is known; give another title, or --seed")
        return np.asarray(found.numpy())


class LetterReader:
    """Titles by the playlists with like titles: TF-IDF of three to five letters within words."""

    def __init__(self, titles: Sequence[str], vectors: Floats) -> None:
        """Take n titles and the vectors (n, D) of their playlists."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._example, self._vectors = titles[0], vectors
        self._letters = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32
        )
        self._known = self._letters.fit_transform(titles)

    def vector(self, title: str) -> Floats:
        """As `TitleReader`: the mean of the namesakes' vectors, weighted by the cosines of their titles."""
        cosines = np.asarray((self._known @ self._letters.transform([title]).T).todense())[:, 0]
        near = np.argsort(-cosines, kind="stable")[:NAMESAKES]
        near = near[cosines[near] > 0]
        if not len(near):
            raise InputError(
                f"title `{title}` has nothing in common with the {len(cosines):,} known ones, such as "
                f"`{self._example}`; give another title, or --seed"
            )
        return np.asarray(cosines[near] @ self._vectors[near], dtype=np.float32)


def title_reader(model: PlaylistModel) -> TitleReader:
    """The tower of a model, or where it has none the titles of its index.

    Raises:
        InputError: there are no titles.
    """
    if TITLES_FILE in model.manifest["files"]:
        return TowerReader(_stored_tower(model))
    index = load_playlist_index(model)
    rows, titles = _titled(index.titles, np.ones(len(index.ids), dtype=np.bool_))
    if not titles:
        raise InputError(
            "the embedded playlists have no titles, so none can be continued from its title; give --seed, or "
            "prepare data with the context `name`, and train on that"
        )
    return LetterReader(titles, index.neighbours.vectors[rows])


def train_titles(model: Encoder, config: PlaylistsConfig, data: PreparedData) -> TitleTower | None:
    """A tower for the titles of the playlists that are not held out; None where fewer than two have one.

    Args:
        model: the trained encoder.
        config: its settings; the seed is that of the tower, too.
        data: what it was trained on.

    Raises:
        InputError: the package `tokenizers` is missing.
    """
    seen = ~held_out(config, len(data.sequences))
    rows, titles = _titled(data.titles, seen & (data.sequences.lengths > 0))
    if len(titles) < 2:  # one says nothing of what others are not
        return None
    names, lists = catalogue_names(data, data.sequences.take(np.flatnonzero(seen)), config.max_length)
    texts = [*titles, *names]
    goals = torch.from_numpy(unit(embed(model, Ragged.joined([data.sequences.take(rows), lists]))))
    tokenizer = ItemTokenizer.trained(sorted(set(texts)), size=VOCABULARY, kind="wordpiece")
    sentences = title_sentences(tokenizer, texts)
    with seeded(config.seed):
        tower = TitleTower(tokenizer, sentences, dim=config.dim, token_dropout=TOKEN_DROPOUT)
        tower.place.bias.data[:] = goals.mean(0)

        def loss(chosen: NDArray[np.int64], _: np.random.Generator) -> torch.Tensor:
            missed = tower(torch.from_numpy(chosen + 1)) - goals[torch.from_numpy(chosen)]
            distance: torch.Tensor = missed.square().sum(1).mean()
            return distance

        epochs = max(EPOCHS, LEAST_STEPS // number_of_batches(len(texts), BATCH))
        training = TrainedConfig(epochs=epochs, batch_size=BATCH, learning_rate=LEARNING_RATE, weight_decay=0)
        descend(tower, loss, len(texts), training, config.seed)
    return tower


def catalogue_names(data: PreparedData, training: Ragged, most_tracks: int) -> tuple[list[str], Ragged]:
    """Texts of the catalogue, and for each the tracks that have it, the commonest first.

    Args:
        data: whose item table has texts, or lists of them.
        training: playlists; tracks that stand in none are known to no encoder.
        most_tracks: tracks of a text that are taken.
    """
    counts = np.bincount(training.values, minlength=len(data.vocabulary) + 1)[1:]
    tracks = np.argsort(-counts, kind="stable")
    tracks = tracks[counts[tracks] > 0]
    held: dict[tuple[str, str], list[int]] = {}
    for column in own_columns(data.items):
        kind = data.items[column].type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        element = kind.value_type if is_list else kind
        if not (pa.types.is_string(element) or pa.types.is_large_string(element)):
            continue  # a number is no name
        values = data.items[column].to_pylist()
        for track in tracks.tolist():
            found = values[track] if is_list else [values[track]]
            for text in filter(None, found or ()):
                held.setdefault((column, text), []).append(track + 1)
    names = sorted(held, key=lambda name: -int(counts[held[name][0] - 1]))[:MOST_NAMES]
    return [text for _, text in names], Ragged.of([held[name][:most_tracks] for name in names])


@dataclass(frozen=True)
class TitleScores:
    """How well held-out playlists are continued from their titles alone.

    Attributes:
        playlists: how many were asked for.
        ndcg: by reader, and for the commonest tracks; a title that a reader refuses scores 0.
    """

    playlists: int
    ndcg: dict[str, float]

    def line(self) -> str:
        """For people."""
        shown = ", ".join(f"{name} {value:.3f}" for name, value in self.ndcg.items())
        return f"continued from the title alone, NDCG over {self.playlists:,} playlists: {shown}"


def judge_titles(model: PlaylistModel, data: PreparedData) -> TitleScores | None:
    """Ask for held-out playlists by their titles; None where they have none.

    Args:
        model: with a tower or without.
        data: what it was trained on.
    """
    out = model.kept_out(data)
    filled = data.sequences.lengths > 0
    asked, titles = _titled(data.titles, out & filled)
    seen, known = _titled(data.titles, ~out & filled)
    if not titles or not known:
        return None
    asked, titles = asked[:MOST_JUDGED], titles[:MOST_JUDGED]
    readers: dict[str, TitleReader] = {
        "like letters": LetterReader(known, unit(embed(model.encoder, data.sequences.take(seen))))
    }
    if TITLES_FILE in model.manifest["files"]:
        readers["text tower"] = TowerReader(_stored_tower(model))
    counts = np.bincount(data.sequences.take(seen).values, minlength=len(data.vocabulary) + 1)[1:]
    common = np.argsort(-counts, kind="stable")[:LONGEST] + 1
    slates = {"commonest tracks": np.tile(common, (len(titles), 1))}
    for name, reader in readers.items():
        slates[name] = np.stack([_slate(model.encoder, reader, title) for title in titles])
    targets = data.sequences.take(asked)
    return TitleScores(
        len(titles), {name: float(ndcg(each, targets).mean()) for name, each in slates.items()}
    )


def _slate(model: Encoder, reader: TitleReader, title: str) -> NDArray[np.int64]:
    try:
        return nearest_tracks(model, reader.vector(title), LONGEST)
    except InputError:
        return np.zeros(LONGEST, dtype=np.int64)


def _titled(titles: pa.Array | None, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[str]]:
    """Rows among the chosen ones that have a title, and the titles."""
    if titles is None:
        return np.empty(0, dtype=np.int64), []
    named = np.array([bool(title and title.strip()) for title in titles.to_pylist()], dtype=np.bool_)
    rows = np.flatnonzero(named & chosen)
    return rows, titles.take(pa.array(rows)).to_pylist()


def _stored_tower(model: PlaylistModel) -> TitleTower:
    return TitleTower.load(model.folder / TITLES_FILE, model.folder / TOKENIZER_FILE, dim=model.config.dim)
