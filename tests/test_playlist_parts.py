"""Parts of the playlists: probes, neighbours, settings, the map, and the Million Playlist format."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from data_prep.prepare import prepare
from recsys.bootstrap import Interval
from recsys.cli_playlists import app
from recsys.config import build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.playlists.explore import PlaylistMap, laid_out, write_html, write_png
from recsys.playlists.labels import Labels
from recsys.playlists.neighbours import Neighbours, neighbour_precision
from recsys.playlists.preference import Preference, likeness_of_neighbours, preferred_order
from recsys.playlists.probes import Question, content_pairs, length_bins, questions, run_probe
from recsys.playlists.settings import playlists_config
from recsys.sequences import Ragged, shuffled
from tests.benchmarks.playlist_oracle import Truth, right_answers
from tests.test_playlists import genre_playlists
from tests.worlds import prepared, ring


def test_a_probe_knows_chance_and_leaves_small_classes_out() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(300, 4)).astype(np.float32)
    classes = np.r_[np.zeros(150), np.ones(145), np.full(5, 2)].astype(np.int64)
    asked = Question("noise", classes, np.arange(300))
    blind = run_probe(asked, noise, seed=0)
    assert blind is not None
    assert (blind.classes, blind.examples) == (2, 295)
    assert abs(blind.accuracy - blind.chance) < 0.12
    told = run_probe(asked, noise + classes[:, None] * 9, seed=0)
    assert told is not None
    assert told.accuracy > 0.99
    assert run_probe(Question("one", np.zeros(300, np.int64), np.arange(300)), noise, seed=0) is None


def test_content_pairs_are_half_true() -> None:
    playlists = genre_playlists(50, seed=4)
    asked, tracks, inside = content_pairs(playlists, np.random.default_rng(0))
    held = np.array([track in playlists[row] for row, track in zip(asked, tracks, strict=True)])
    np.testing.assert_array_equal(held, inside == 1)
    assert inside.mean() == 0.5
    assert length_bins(np.arange(100)).tolist() == (np.arange(100) // 20).tolist()


def test_an_oracle_knows_all_but_the_order_of_what_has_none() -> None:
    labels = Labels(np.repeat([0, 1], 6), ["blues", "jazz"])  # tracks 1-6 and 7-12, an era a track
    playlists = Ragged.of([[1, 2, 4], [3, 1, 9, 8], [5, 2, 3]])
    truth = Truth(
        genres=np.array([[0, 0], [0, 1], [0, 0]]),
        switch_at=np.array([-1, 2, -1]),
        ordered=np.array([True, False, False]),
        eras=np.tile(np.arange(6), 2),
    )
    told = {name: right_answers(asked, truth, playlists, labels) for name, asked in _asked(playlists, labels)}
    assert told["label switch"].tolist() == told["length"].tolist() == [1, 1, 1]
    assert told["order"][[2, 5]].tolist() == [0.5, 0.5]
    assert told["order"][:2].tolist() == [1, 0]  # the second one's eras do not ascend over its switch
    again = Question("order", np.repeat([0, 1], 3), np.tile(np.arange(3), 2), permuted=playlists)
    assert right_answers(again, truth, playlists, labels).tolist() == [1, 0, 0.5, 0, 1, 0.5]


def _asked(playlists: Ragged, labels: Labels) -> list[tuple[str, Question]]:
    return [(asked.name, asked) for asked in questions(playlists, labels, seed=0)]


def test_neighbouring_tracks_are_alike_where_playlists_are_walks() -> None:
    rng = np.random.default_rng(0)
    playlists = Ragged.of([[1, 2, 3], [4, 4], [2, 4, 1, 3]])
    table = rng.normal(size=(4, 5)).astype(np.float32)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosines = unit @ unit.T
    first = (cosines[0, 1] + cosines[1, 2]) / 2 - (cosines[0, 1] + cosines[1, 2] + cosines[0, 2]) / 3
    np.testing.assert_allclose(likeness_of_neighbours(playlists, table)[:2], [first, 0], atol=1e-6)


@pytest.mark.parametrize("walks", [True, False])
def test_the_order_that_the_data_prefers(walks: bool, tmp_path: Path) -> None:
    playlists = ring(40, 300)
    if not walks:
        playlists = shuffled(playlists, np.random.default_rng(0))
    data = prepared(tmp_path / "data", playlists, 40)
    found = preferred_order(
        playlists_config(["dim=8", "model.epochs=1", "model.layers=1", "model.batch_size=16"]), data
    )
    assert (found.trained, found.judged) == (192, 48)
    assert (found.alike.low > 0) == walks
    assert ("neighbouring tracks are alike, which only order: sequence" in found.lines()[-1]) == walks
    assert list(found.to_json()["differences"]) == list(found.means)


def test_the_verdict_is_that_of_the_intervals() -> None:
    def said(*differences: tuple[float, float]) -> str:
        tasks = {str(place): Interval(0.0, *ends) for place, ends in enumerate(differences)}
        return Preference(8, 2, {}, tasks, alike=Interval(0.0, math.nan, math.nan)).verdict()

    assert said((0.1, 0.2), (-0.1, 0.1)).startswith("the data prefers order: sequence; that neighbouring")
    assert said((-0.2, -0.1), (-0.1, 0.1)).startswith("the data prefers order: set;")
    assert said((-0.2, -0.1), (0.1, 0.2)).startswith("the tasks disagree;")
    assert said((math.nan, math.nan)).startswith("no difference can be shown between set and sequence;")


def test_a_bag_of_tracks_has_no_order_to_prefer(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(10, 10), 10)
    with pytest.raises(InputError, match="model `sif` is a bag of tracks, the same with either order"):
        preferred_order(playlists_config(["model=sif"]), data)


def test_neighbours_are_the_exact_ones_and_precision_counts_them() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    classes = rng.integers(4, size=200)
    vectors = (centres[classes] + rng.normal(size=(200, 8)) * 0.1).astype(np.float32)
    index = Neighbours.build(vectors)
    exact = np.argsort(-(index.vectors @ index.vectors[7]), kind="stable")[1:6]
    np.testing.assert_array_equal(index.search(vectors[7], 5, exclude=7)[0], exact)
    assert neighbour_precision(index, classes, queries=50).mean() == 1
    assert neighbour_precision(index, np.where(classes == 0, 0, -1), queries=500).shape == (
        int((classes == 0).sum()),
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.epochz=3"], "unknown key `epochz` in `model` of the settings; did you mean `epochs`"),
        (["dimm=3"], "unknown key `dimm` in the settings; did you mean `dim`"),
        (["dim=10", "model.heads=4"], "dim 10 is not a multiple of heads 4"),
        (["dim=5", "model=seq2seq", "model.bidirectional=true"], "dim 5 is odd"),
        (["order=random"], "`order` in the settings: Input should be 'sequence' or 'set'; got 'random'"),
    ],
)
def test_settings_are_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        playlists_config(overrides)


def test_the_map_stands_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = laid_out(rng.normal(size=(12, 6)).astype(np.float32))
    names = [f"</script> <b>{row}" for row in range(12)]
    label = np.r_[np.full(4, -1), np.zeros(4), np.ones(4)].astype(np.int64)
    found = PlaylistMap(places, names, label, ["rock & roll", "jazz"], ["5 tracks"] * 12)
    write_html(found, tmp_path / "map.html", "Mine <i>")
    page = (tmp_path / "map.html").read_text()
    assert "http" not in page
    assert page.count("</script>") == 2  # no name ends an element early
    assert "rock &amp; roll" in page
    assert "Mine &lt;i&gt;" in page
    write_png(found, tmp_path / "map.png", "Mine $1")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="there are 4 playlists; a map needs at least 5"):
        laid_out(np.zeros((4, 3), np.float32))


def test_slices_of_the_million_playlist_data_set_become_playlists_with_titles(tmp_path: Path) -> None:
    lists = [
        {
            "name": f"list {pid}" if pid else None,
            "pid": pid,
            "tracks": [
                {
                    "pos": pos,
                    "track_uri": f"spotify:track:{number}",
                    "track_name": f"Song {number}",
                    "artist_uri": f"spotify:artist:{number // 3}",
                    "artist_name": f"Artist {number // 3}",
                    "album_uri": "spotify:album:1",
                    "album_name": "Album 1",
                    "duration_ms": 1000 * number,
                }
                for pos, number in enumerate(range(pid, pid + 6))
            ][::-1],
        }
        for pid in range(8)
    ]
    (tmp_path / "mpd.slice.0-7.json").write_text(json.dumps({"playlists": lists}))
    tree: dict[str, Any] = {
        "name": "mpd",
        "prepared": str(tmp_path / "prepared"),
        "data": {
            "path": str(tmp_path),
            "format": "spotify-mpd",
            "items": "log",
            "columns": {"context": ["name"]},
            "item_columns": {"title": "track_name", "attributes": ["artist_name", "duration_ms"]},
        },
    }
    data = PreparedData.load(prepare(build_config(tree, where="the test")).path)
    assert data.titles is not None
    assert data.titles.to_pylist() == [None, *(f"list {pid}" for pid in range(1, 8))]
    assert data.vocabulary.decode(data.sequences[3]) == [f"spotify:track:{n}" for n in range(3, 9)]
    for titles, words in (("tower", "Artist 2"), ("letters", "List 7")):
        out = tmp_path / titles
        settings = ("dim=8", "model.epochs=1", "model.layers=1", "holdout=0")
        _recsys("train", data.path, "--out", out, "--titles", titles, *settings)
        assert (out / "titles.safetensors").exists() == (titles == "tower")
        assert _recsys("continue", out, "--title", words, "-n", 3).count("spotify:track:") == 3
    with pytest.raises(InputError, match="--titles `words` is unknown; known: tower, letters"):
        _recsys("train", data.path, "--out", tmp_path / "other", "--titles", "words")


def _recsys(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception:
        raise done.exception
    return done.output
