"""The Million Playlist format, on a small slice made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.prepare import prepare
from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError


def track(number: int, pos: int) -> dict[str, Any]:
    return {
        "pos": pos,
        "track_uri": f"spotify:track:{number}",
        "track_name": f"Song {number}",
        "artist_uri": f"spotify:artist:{number // 3}",
        "artist_name": f"Artist {number // 3}",
        "album_uri": f"spotify:album:{number // 2}",
        "album_name": f"Album {number // 2}",
        "duration_ms": 1000 * number,
    }


def write_slice(file: Path, playlists: list[list[int]], first: int) -> None:
    """A slice as the data set has it; tracks stand in the file from the last to the first."""
    entries = [
        {
            "name": f"list {pid}",
            "collaborative": "false",
            "pid": pid,
            "num_tracks": len(numbers),
            "tracks": [track(number, pos) for pos, number in enumerate(numbers)][::-1],
        }
        for pid, numbers in enumerate(playlists, start=first)
    ]
    file.write_text(json.dumps({"info": {"version": "v1"}, "playlists": entries}), encoding="utf-8")


def config(path: Path, folder: Path, **data: Any) -> ExperimentConfig:  # noqa: ANN401
    tree = {"name": "mpd", "prepared": str(folder), "data": {"path": str(path), "format": "mpd", **data}}
    return build_config(tree, where="the test")


def test_slices_become_a_prepared_data_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [rng.permutation(30)[: rng.integers(5, 20)].tolist() for _ in range(40)]
    write_slice(tmp_path / "mpd.slice.0-24.json", made[:25], first=0)
    write_slice(tmp_path / "mpd.slice.25-39.json", made[25:], first=25)
    data = PreparedData.load(prepare(config(tmp_path, tmp_path / "prepared")).path)
    assert data.ids.to_pylist() == list(range(40))
    for row, numbers in enumerate(made):
        expected = [f"spotify:track:{number}" for number in numbers]
        assert data.vocabulary.decode(data.sequences[row]) == expected
    assert data.titles is not None
    assert data.titles.to_pylist() == [f"list {pid}" for pid in range(40)]
    place = data.vocabulary.index("spotify:track:7") - 1
    item = {name: data.items[name][place].as_py() for name in data.items.column_names}
    assert (item["title"], item["artist_name"], item["duration_ms"]) == ("Song 7", "Artist 2", 7000)


def test_attributes_can_be_chosen(tmp_path: Path) -> None:
    write_slice(tmp_path / "one.json", [[1, 2, 3, 4], [2, 3, 4, 5]], first=7)
    chosen = config(
        tmp_path / "one.json", tmp_path / "prepared", item_columns={"attributes": ["artist_name"]}
    )
    names = PreparedData.load(prepare(chosen).path).items.column_names
    assert names[-2:] == ["title", "artist_name"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "it has no list `playlists`"),
        ("{", "it is not JSON"),
        ('{"playlists": [{"pid": 3, "tracks": [{"pos": 0}]}]}', r"playlist 3 lacks a field .*'track_uri'"),
        ('{"playlists": ["x"]}', "playlist 'x' lacks a field or has one of another type"),
        (
            '{"playlists": [{"pid": "a", "tracks": [{"pos": 0, "track_uri": "t"}]}]}',
            "a value has another type",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(InputError, match=message):
        prepare(config(tmp_path / "bad.json", tmp_path / "prepared"))
    assert not (tmp_path / "prepared").exists()
