"""The Million Playlist format of the RecSys Challenge 2018: slices of playlists with their tracks.

    {"info": {...}, "playlists": [{"pid": 0, "name": "...", "tracks": [{"pos": 0, "track_uri": "...",
     "track_name": "...", "artist_uri": "...", "artist_name": "...", "album_uri": "...", "album_name": "...",
     "duration_ms": 1}, ...]}, ...]}

A slice is the log and the item table at once: `read_mpd` gives a row a track of a playlist, in the order of
`pos`, with the track's own columns beside it, and `mpd_items` a row a track.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from recsys.errors import InputError

SLICES = "mpd.slice.*.json"
"""Files of the data set in its folder."""
PLAYLIST, NAME, TRACK = "pid", "name", "track_uri"
TITLE = "track_name"
TEXTS = (TITLE, "artist_name", "album_name", "artist_uri", "album_uri")
DURATION = "duration_ms"
SCHEMA = {
    PLAYLIST: pl.Int64(),
    NAME: pl.String(),
    "pos": pl.Int64(),
    TRACK: pl.String(),
    **dict.fromkeys(TEXTS, pl.String()),
    DURATION: pl.Int64(),
}


def read_mpd(file: Path) -> pl.LazyFrame:
    """One row a track of a playlist, by playlist as in the file and then by `pos`.

    Raises:
        InputError: the file is no slice of this format.
    """
    rows = [row for playlist in _playlists(file) for row in _tracks(playlist, file)]
    try:
        return pl.DataFrame(rows, schema=SCHEMA, orient="row").lazy()
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise _unfit(file, f"a value has another type ({str(error).splitlines()[0]})") from error


def mpd_items(files: list[Path]) -> pl.DataFrame:
    """The tracks of all slices, each once, with its names, artist, album and duration."""
    columns = [TRACK, *TEXTS, DURATION]
    slices = [read_mpd(file).select(columns) for file in files]
    return pl.concat(slices).unique(TRACK, keep="first", maintain_order=True).collect()


def mpd_titles(files: list[Path]) -> dict[int, str]:
    """Playlist id -> its name, of all slices; those without a name are not in it."""
    named = [read_mpd(file).select(PLAYLIST, NAME) for file in files]
    return dict(pl.concat(named).drop_nulls().unique(PLAYLIST, keep="first").collect().iter_rows())


def _playlists(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _unfit(file, f"it is not JSON ({error})") from error
    found = content.get("playlists") if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise _unfit(file, "it has no list `playlists`")
    return found


def _tracks(playlist: Any, file: Path) -> list[tuple[Any, ...]]:  # noqa: ANN401 -- whatever the JSON holds
    try:
        tracks = sorted(playlist["tracks"], key=lambda track: int(track["pos"]))
        name = playlist.get(NAME)
        return [
            (playlist[PLAYLIST], name, track["pos"], track[TRACK], *map(track.get, (*TEXTS, DURATION)))
            for track in tracks
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        which = playlist.get(PLAYLIST, "without pid") if isinstance(playlist, dict) else repr(playlist)[:40]
        raise _unfit(
            file, f"playlist {which} lacks a field or has one of another type ({error!r})"
        ) from error


def _unfit(file: Path, reason: str) -> InputError:
    return InputError(
        f"{file} is no slice of the Million Playlist format: {reason}; expected "
        '{"playlists": [{"pid": 0, "tracks": [{"pos": 0, "track_uri": "..."}]}]}'
    )
