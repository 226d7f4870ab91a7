"""Playlist vectors: what every encoder promises, and what the pooled one learns of a planted world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from recsys.dataset import PreparedData
from recsys.encoding import item_vectors
from recsys.errors import InputError
from recsys.models.protocol import Encoder
from recsys.playlists.continuation import nearest_tracks
from recsys.playlists.embedding import embed
from recsys.playlists.judging import judge
from recsys.playlists.labels import Labels, cluster_labels, column_labels, track_column
from recsys.playlists.pooled_steps import pooled_step
from recsys.playlists.search import search_tracks
from recsys.playlists.settings import playlists_config
from recsys.playlists.store import (
    PlaylistModel,
    build_playlist_index,
    load_playlist_index,
    save_playlist_model,
)
from recsys.playlists.titles import (
    LetterReader,
    TowerReader,
    catalogue_names,
    judge_titles,
    title_reader,
    train_titles,
)
from recsys.playlists.training import ENCODERS, fit_playlists
from recsys.sequences import Ragged, shuffled
from tests.worlds import prepared

N_GENRES, N_TRACKS = 3, 60
"""Track j is of genre (j - 1) // 20; an ordered playlist walks upwards through its genre."""
QUICK = ["model.learning_rate=5e-3", "model.track_rate=1"]
"""The world is small, and its vectors may learn fast."""
KINDS = {
    "pooled": ["model.epochs=1", "model.layers=1"],
    "seq2seq": ["model=seq2seq", "model.epochs=1", "model.negatives=16"],
    "seq2seq, all options": [
        *["model=seq2seq", "model.epochs=1", "model.negatives=16", "model.cell=lstm"],
        *["model.bidirectional=true", "model.attention=true", "model.reverse=true"],
    ],
    "word2vec": ["model=word2vec", "model.epochs=1"],
    "sif": ["model=sif", "model.epochs=1"],
}  # fmt: skip


def genre_playlists(count: int, seed: int = 0) -> Ragged:
    """Playlists of one genre, 4 to 16 tracks upwards, each track once."""
    rng = np.random.default_rng(seed)
    rows = []
    for genre, length in zip(
        rng.integers(N_GENRES, size=count), rng.integers(4, 17, size=count), strict=True
    ):
        rows.append(genre * 20 + 1 + np.sort(rng.choice(20, length, replace=False)))
    return Ragged.of(rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepared(tmp_path_factory.mktemp("playlists") / "data", genre_playlists(240), N_TRACKS)


@pytest.fixture(scope="module")
def trained(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> PlaylistModel:
    """A pooled encoder of the world, written and read back, with its index."""
    config = playlists_config(
        ["dim=16", "max_length=16", "model.epochs=40", "model.layers=1", "model.batch_size=16", *QUICK]
    )
    model = save_playlist_model(
        tmp_path_factory.mktemp("encoder") / "mine", fit_playlists(config, data), config, data
    )
    build_playlist_index(model, data)
    return model


GENRES = Labels(np.repeat(np.arange(N_GENRES), 20), ["rock", "jazz", "folk"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_trains_is_stored_and_reads_windows(
    kind: str, data: PreparedData, tmp_path: Path
) -> None:
    config = playlists_config(["dim=8", "max_length=10", *KINDS[kind]])
    encoder = fit_playlists(config, data)
    assert isinstance(encoder, Encoder)
    model = save_playlist_model(tmp_path / "encoder", encoder, config, data)
    long = Ragged.of([np.arange(10_000) % N_TRACKS + 1, [1, 2, 3], [5], [5, 5, 5]])
    vectors = embed(model.encoder, long)
    np.testing.assert_allclose(vectors, embed(encoder, long), rtol=1e-6)
    assert vectors.shape == (4, 8)
    assert np.isfinite(vectors).all()
    assert item_vectors(model.encoder).shape == (N_TRACKS, 8)
    alone = embed(model.encoder, long.take([1]))
    np.testing.assert_allclose(alone[0], vectors[1], rtol=1e-4, atol=1e-5)  # whatever stands beside it


def test_a_long_playlist_is_the_mean_of_its_windows(trained: PlaylistModel) -> None:
    tracks = np.arange(24) % 20 + 1
    windows = Ragged.of([tracks[:16], tracks[8:]])
    whole = embed(trained.encoder, Ragged.of([tracks, [1, 2]]))
    np.testing.assert_allclose(whole[0], embed(trained.encoder, windows).mean(axis=0), rtol=1e-4, atol=1e-5)


def test_one_vector_holds_label_content_length_and_order(trained: PlaylistModel) -> None:
    found = judge(trained.encoder, genre_playlists(200, seed=1), GENRES)
    accuracy = {probe.name: probe.accuracy for probe in found.probes}
    assert accuracy["label"] > 0.85  # chance 0.4
    assert accuracy["length"] > 0.5  # chance 0.2
    assert accuracy["order"] > 0.8  # chance 0.5
    assert accuracy["track content"] > 0.7
    assert found.skipped == ["label diversity", "label switch", "length by 20"]
    assert found.neighbours["label"] > 0.9
    assert any(line.startswith("note: no probe of label switch") for line in found.lines())


def test_a_set_has_no_order(data: PreparedData) -> None:
    config = playlists_config(["dim=8", "order=set", "model.epochs=1", "model.layers=1"])
    encoder = fit_playlists(config, data)
    assert isinstance(encoder, Encoder)
    playlists = genre_playlists(20, seed=2)
    mixed = shuffled(playlists, np.random.default_rng(0))
    np.testing.assert_allclose(embed(encoder, playlists), embed(encoder, mixed), rtol=1e-3, atol=1e-4)


def test_word2vec_averages_and_sif_removes_its_direction(data: PreparedData) -> None:
    mean = fit_playlists(playlists_config(["dim=8", "model=word2vec", "model.epochs=1"]), data)
    assert isinstance(mean, Encoder)
    table = item_vectors(mean)
    np.testing.assert_allclose(
        embed(mean, Ragged.of([[1, 2, 2]]))[0], (table[0] + 2 * table[1]) / 3, rtol=1e-5
    )
    sif = fit_playlists(playlists_config(["dim=8", "model=sif", "model.epochs=1"]), data)
    assert isinstance(sif, Encoder)
    direction = sif.get_buffer("direction")
    assert isinstance(direction, torch.Tensor)
    vectors = torch.from_numpy(embed(sif, genre_playlists(30)))
    assert (vectors @ direction).abs().max() < 1e-4 * vectors.norm(dim=1).max()


@given(st.integers(0, 1000), st.booleans())
def test_a_step_reads_parts_of_playlists_and_asks_for_the_whole(seed: int, ordered: bool) -> None:
    playlists = genre_playlists(12, seed=3)
    step = pooled_step(playlists, mask=99, mask_prob=0.3, ordered=ordered, rng=np.random.default_rng(seed))
    assert len(step.read) == len(playlists)
    assert step.read.lengths.min() >= 1
    np.testing.assert_array_equal(step.read.values == 99, step.masked)
    np.testing.assert_allclose(np.bincount(playlists.rows, weights=step.weights), 1, rtol=1e-5)
    for row in range(len(playlists)):
        part = slice(step.read.offsets[row], step.read.offsets[row + 1])
        answers = step.answers[part]
        assert len(np.unique(answers)) == len(answers)
        assert np.isin(answers, playlists[row]).all()
        if not step.permuted[row]:
            assert (np.diff(answers) > 0).all()


def test_labels_of_playlists() -> None:
    labels = column_labels(["a", "a", "b", None, ["b", "c"]])
    assert labels.of_tracks.tolist() == [0, 0, 1, -1, 1]
    lists = Ragged.of([[1, 2, 1, 3], [1, 3], [4], [1, 1, 3, 5]])
    assert labels.of(lists).tolist() == [0, -1, -1, -1]
    assert labels.diversity(lists).tolist() == [1 + 1, 2, 0, 2]
    assert labels.switches(lists).tolist() == [0, 1, -1, 1]
    with pytest.raises(InputError, match="holds 1 different values; expected at least 2"):
        column_labels(["a", None, "a"])


def test_clusters_find_who_keeps_company(data: PreparedData) -> None:
    owners = [index // 2 for index in range(N_TRACKS)]
    found = cluster_labels(owners, data.sequences, N_GENRES, seed=0).of_tracks.reshape(N_GENRES, 20)
    assert (found == found[:, :1]).all()
    assert len(set(found[:, 0].tolist())) == N_GENRES
    with pytest.raises(InputError, match="expected more than 40: ask for fewer --clusters"):
        cluster_labels(owners, data.sequences, 40, seed=0)


def test_the_index_comes_back_and_finds_playlists(trained: PlaylistModel, data: PreparedData) -> None:
    index = load_playlist_index(PlaylistModel.load(trained.folder))
    row = index.row("u5")
    near, cosines = index.neighbours.search(index.neighbours.vectors[row], 5, exclude=row)
    genre = GENRES.of(index.playlists)
    assert (genre[near] == genre[row]).mean() >= 0.8
    assert (np.diff(cosines) <= 0).all()
    wanted = Ragged.of([index.playlists[row][:3]])
    hits = search_tracks(trained.encoder, index, wanted, 10)
    assert [hit.held for hit in hits] == sorted((hit.held for hit in hits), reverse=True)
    assert hits[0].held == 3
    assert row in {hit.row for hit in search_tracks(trained.encoder, index, wanted, 60)}
    with pytest.raises(InputError, match="playlist `nobody` is not among the 240 embedded ones"):
        index.row("nobody")


@pytest.fixture(scope="module")
def called(data: PreparedData) -> PreparedData:
    """The same playlists with titles: each genre has a mood, which no text of the catalogue names."""
    moods, others = ("party", "study", "sleep"), ("mix", "best", "summer", "new", "road", "home")
    genre = (data.sequences.take(np.arange(240)).first(np.ones(240)).values - 1) // 20
    named = [f"{moods[each]} {others[row % 6]}" for row, each in enumerate(genre)]
    return replace(data, titles=pa.array([*named[:-1], None]))


def test_titles_are_read_by_the_tower_or_by_their_letters(
    trained: PlaylistModel, called: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the embedded playlists have no titles"):
        title_reader(trained)
    assert isinstance(trained.encoder, torch.nn.Module)
    tower = train_titles(trained.encoder, trained.config, called)
    told = save_playlist_model(tmp_path / "tower", trained.encoder, trained.config, called, tower)
    letters = save_playlist_model(tmp_path / "letters", trained.encoder, trained.config, called)
    build_playlist_index(letters, called)
    readers = title_reader(told), title_reader(letters)
    assert [type(reader) for reader in readers] == [TowerReader, LetterReader]
    for reader in readers:
        for genre, mood in enumerate(("PARTY", "study", "sleep")):
            tracks = nearest_tracks(trained.encoder, reader.vector(f"{mood} time"), 5)
            assert ((tracks - 1) // 20 == genre).mean() >= 0.8
    # What no playlist is called after, but a track.
    songs = [nearest_tracks(trained.encoder, readers[0].vector(f"song {n}"), 5) for n in (14, 28, 55)]
    for genre, tracks in enumerate(songs):
        assert ((tracks - 1) // 20 == genre).mean() >= 0.6
    for title in ("вечер", "xyzq", " "):
        with pytest.raises(InputError, match=f"title `{title}` has no word that is known"):
            readers[0].vector(title)
    with pytest.raises(InputError, match="title `xyzq` has nothing in common with the 239 known ones"):
        readers[1].vector("xyzq")
    found = judge_titles(told, called)
    assert found is not None
    assert found.playlists in (47, 48)
    assert min(found.ndcg["text tower"], found.ndcg["like letters"]) > 1.3 * found.ndcg["commonest tracks"]
    assert "text tower" in found.line()
    assert train_titles(trained.encoder, trained.config, replace(called, titles=None)) is None
    assert judge_titles(trained, replace(called, titles=None)) is None


def test_names_of_the_catalogue_have_their_tracks(data: PreparedData) -> None:
    names, lists = catalogue_names(data, Ragged.of([[3, 4, 6], [6]]), most_tracks=2)
    found = dict(zip(names, (row.tolist() for row in map(lists.__getitem__, range(len(lists)))), strict=True))
    # Track 3 has no title, tracks beyond these no event; years are no names, and the commonest come first.
    assert found == {"Song 4": [4], "Song 6": [6], "rock": [6, 3], "jazz": [4], "music": [6, 3]}


def test_bad_playlists_are_refused_in_one_line(
    trained: PlaylistModel, data: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="playlist 2 of 2 has no known track"):
        embed(trained.encoder, Ragged.of([[1], []]))
    with pytest.raises(InputError, match="--seed is empty; give at least one track id"):
        trained.tracks([], "--seed")
    with pytest.raises(
        InputError, match=r"--seed has 2 tracks and none of them is known \(x, y\).*such as i1"
    ):
        trained.tracks(["x", "y"], "--seed")
    tracks, unknown = trained.tracks(["i3", "x", "i3"], "--seed")
    assert (tracks[0].tolist(), unknown) == ([3, 3], ["x"])
    with pytest.raises(InputError, match="expected the folder of a playlist encoder"):
        PlaylistModel.load(data.path)
    with pytest.raises(InputError, match="exists and is not a playlist encoder"):
        save_playlist_model(data.path, torch.nn.Linear(1, 1), trained.config, data)
    with pytest.raises(InputError, match="tracks have no column `mood`; known: title, genres, year"):
        track_column(trained.items, "mood")
    nothing = prepared(tmp_path / "nothing", Ragged.of([[1], [2], []]), 3)
    with pytest.raises(InputError, match="0 training playlists of two tracks or more"):
        fit_playlists(trained.config, nothing)


def test_a_damaged_encoder_is_refused_and_an_index_of_another_too(
    trained: PlaylistModel, data: PreparedData, tmp_path: Path
) -> None:
    model = save_playlist_model(
        tmp_path / "copy", ENCODERS["pooled"][0](trained.config, N_TRACKS), trained.config, data
    )
    with pytest.raises(InputError, match="no readable index of playlists"):
        load_playlist_index(model)
    (model.folder / "index").mkdir()
    stated = (trained.folder / "index/index.json").read_text()
    (model.folder / "index/index.json").write_text(stated)
    with pytest.raises(InputError, match=f"is of model {trained.version}, not {model.version}"):
        load_playlist_index(model)
    (model.folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json is missing, or was changed or damaged"):
        PlaylistModel.load(model.folder)


@pytest.fixture
def run() -> Callable[..., str]:
    from recsys.cli_playlists import app

    def call(*arguments: object, fails: bool = False) -> str:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if fails:
            assert isinstance(done.exception, InputError)
            return str(done.exception)
        assert done.exception is None, done.output
        return done.output

    return call


def test_the_commands(
    run: Callable[..., str], data: PreparedData, trained: PlaylistModel, tmp_path: Path
) -> None:
    out = tmp_path / "encoder"
    said = run("train", data.path, "--out", out, "dim=8", "max_length=8", "model.epochs=1", "model.layers=1")
    assert "240 playlists embedded, 48 of them unseen" in said
    assert "more than 8 are read in windows of 8 that overlap by half" in said
    assert "240 playlists embedded and indexed" in run("embed", out)
    folder = trained.folder
    report = tmp_path / "probe.json"
    assert "order" in run("probe", folder, "--label", "genres", "--json", report)
    assert report.is_file()
    assert run("similar", folder, "--playlist", "u1", "-k", 3).count("tracks: ") == 3
    said = run("search", folder, "--tracks", "i1,i2,nope", "-k", 4)
    assert "unknown, ignored: nope" in said
    assert "holds 2 of 2" in said
    assert len(run("continue", folder, "--seed", "i1,i2", "-n", 5).splitlines()) == 5
    beams = run("continue", folder, "--seed", "i1,i2", "-n", 3, "--decoder", "beam", "--groups", 2)
    assert "slate 2" in beams
    limited = run("continue", folder, "--seed", "i1", "-n", 9, "--at-most", "year=1", "--at-most", "genres=1")
    assert "the limits leave 3 tracks, not 9" in limited
    run("map", folder, "--label", "genres", "--out", tmp_path / "m.html", "--png", tmp_path / "m.png")
    assert "name what labels the tracks" in run("probe", folder, fails=True)
    assert "--at-most `year` is no limit" in run(
        "continue", folder, "--seed", "i1", "--at-most", "year", fails=True
    )
    assert "either --seed with track ids, or --title" in run("continue", folder, fails=True)
    assert "the embedded playlists have no titles" in run("continue", folder, "--title", "x", fails=True)
    assert "decoder `greedy` is unknown" in run(
        "continue", folder, "--seed", "i1", "--decoder", "greedy", fails=True
    )
