"""The files of well-known public data sets as their publishers lay them out: one line of `LAYOUTS` each.

A layout says how a log and its item table are read, which files they are in a folder, and which column is
what, so that a configuration names the layout and the folder only. What differs between releases of a data
set (`ratings.dat` or `ratings.csv`) is told by the first line of the file, not by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from data_prep.json_files import json_rows
from data_prep.text_files import first_line, text_source, utf8_source
from recsys.config import Columns
from recsys.errors import InputError

Reader = Callable[[Path], pl.LazyFrame]

MOVIELENS = ("user_id", "item_id", "rating", "timestamp")
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The flags of MovieLens 100K's `u.item`, in their order."""

LASTFM_1K = ("userid", "timestamp", "artid", "artname", "traid", "traname")


@dataclass(frozen=True)
class Layout:
    """How one publisher lays out a data set.

    Attributes:
        columns: which column of the log is what.
        events: reader of the log.
        files: names (or globs) of the log in a folder; the first that is there counts.
        items: reader of the item table, whose id column has the name that the log gives it; None where
            there is no such file.
        item_files: names of the item table in a folder.
    """

    columns: Columns
    events: Reader
    files: tuple[str, ...]
    items: Reader | None = None
    item_files: tuple[str, ...] = ()


def movielens_ratings(file: Path) -> pl.LazyFrame:
    """`ratings.dat` (1M, 10M: `user::item::rating::seconds`), `u.data` (100K: tabs) or `ratings.csv`."""
    head = first_line(file)
    if head.startswith("userId,"):
        frame = pl.scan_csv(text_source(file), infer_schema=False, glob=False)
        return frame.rename(dict(zip(("userId", "movieId"), MOVIELENS[:2], strict=True)))
    return _fields(file, "::" if "::" in head else "\t", MOVIELENS)


def movielens_films(file: Path) -> pl.LazyFrame:
    """`movies.dat`, `u.item` or `movies.csv`: item_id, movie_title, release_year, class (genres)."""
    head = first_line(file)
    if head.startswith("movieId,"):
        frame = pl.scan_csv(text_source(file), infer_schema=False, glob=False)
        frame = frame.select(item_id="movieId", movie_title="title", genres="genres")
    elif "::" in head:
        frame = _fields(file, "::", ("item_id", "movie_title", "genres"))
    else:
        frame = _fields(file, "|", ("item_id", "movie_title", "released", "video", "url", *GENRES))
        flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES]
        frame = frame.with_columns(genres=pl.concat_str(flags, separator="|", ignore_nulls=True))
    title = pl.col("movie_title")
    return frame.select(
        "item_id",
        title.str.replace(r"\s*\(\d{4}\)\s*$", ""),
        title.str.extract(r"\((\d{4})\)\s*$").alias("release_year"),
        pl.col("genres").str.replace_all("|", " ", literal=True).alias("class"),
    )


def amazon_reviews(
    file: Path, fields: dict[str, pl.DataType], columns: Sequence[str], unit: str
) -> pl.LazyFrame:
    """A release's reviews as JSON lines, or its `ratings only` file as CSV.

    Args:
        file: the file.
        fields: of the JSON objects, and their types.
        columns: of a CSV file without a header.
        unit: of the times: s or ms.
    """
    head = first_line(file)
    if head.startswith("{"):
        frame = json_rows(file, fields)
    elif head.startswith("user_id,"):
        frame = pl.scan_csv(text_source(file), schema_overrides=fields, glob=False)
    else:
        types = {name: fields[name] for name in columns}
        frame = pl.scan_csv(text_source(file), has_header=False, schema=types, glob=False)
    moment = columns[-1]
    return frame.with_columns(pl.from_epoch(moment, "ms")) if unit == "ms" else frame


def playlist_slices(file: Path) -> pl.LazyFrame:
    """One `mpd.slice.*.json` of Spotify's Million Playlist Dataset, a row a track, in the lists' order."""
    text = {name: pl.String() for name in ("track_uri", "track_name", "artist_uri", "artist_name")}
    track = {"pos": pl.Int64(), **text, "album_uri": pl.String(), "album_name": pl.String()}
    track["duration_ms"] = pl.Int64()
    of_list = {"pid": pl.Int64(), "name": pl.String(), "modified_at": pl.Int64()}
    playlist = {**of_list, "tracks": pl.List(pl.Struct(track))}
    source = text_source(file)
    whole = pl.read_json(source, schema={"playlists": pl.List(pl.Struct(playlist))})
    rows = whole.select(pl.col("playlists").explode(empty_as_null=False)).unnest("playlists")
    rows = rows.explode("tracks", empty_as_null=False).unnest("tracks")
    return rows.drop_nulls("pid").sort("pid", "pos", maintain_order=True).lazy()


def lastfm_plays(file: Path) -> pl.LazyFrame:
    """LastFM-1K's plays; what an unescaped tab in a name pushes past the last column is left out."""
    return pl.scan_csv(
        text_source(file),
        separator="\t",
        quote_char=None,
        has_header=False,
        schema=dict.fromkeys(LASTFM_1K, pl.String()),
        truncate_ragged_lines=True,
        glob=False,
    )


def lastfm_tags(file: Path) -> pl.LazyFrame:
    """HetRec's `user_taggedartists-timestamps.dat`: who tagged which artist when (milliseconds)."""
    frame = pl.scan_csv(text_source(file), separator="\t", quote_char=None, infer_schema=False, glob=False)
    return frame.with_columns(pl.from_epoch(pl.col("timestamp").cast(pl.Int64), "ms"))


def lastfm_artists(file: Path) -> pl.LazyFrame:
    """HetRec's `artists.dat`: artistID and name."""
    frame = pl.scan_csv(utf8_source(file), separator="\t", quote_char=None, infer_schema=False, glob=False)
    return frame.select("name", artistID="id")


def amazon_2014_items(file: Path) -> pl.LazyFrame:
    """`meta_*.json.gz` of 2014; its nested categories become one list."""
    nested = pl.List(pl.List(pl.String()))
    frame = json_rows(file, {**_texts("asin", "title", "brand", "description"), "categories": nested})
    flat = pl.col("categories").list.eval(pl.element().explode(empty_as_null=False)).list.drop_nulls()
    return frame.with_columns(flat.list.unique(maintain_order=True))


def steam_games(file: Path) -> pl.LazyFrame:
    """`steam_games.json.gz`: product_id, title, developer, genres and tags."""
    lists = {name: pl.List(pl.String()) for name in ("genres", "tags")}
    frame = json_rows(file, {**_texts("id", "app_name", "developer"), **lists})
    return frame.rename({"id": "product_id", "app_name": "title"})


def _fields(file: Path, separator: str, names: Sequence[str]) -> pl.LazyFrame:
    """Lines of exactly these fields, without quotes and without a header; all as strings."""
    lines = pl.scan_lines(utf8_source(file), row_index_name="number", glob=False).filter(pl.col("line") != "")
    split = lines.select("number", fields=pl.col("line").str.split(separator)).collect()
    wrong = split.filter(pl.col("fields").list.len() != len(names))
    if len(wrong):
        number, found = wrong.row(0)
        shown = separator.replace("\t", "a tab")
        raise InputError(
            f"{file} line {number + 1} has {len(found)} fields; expected {len(names)}, separated by {shown}: "
            f"{', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
        )
    fields = pl.col("fields").list
    return split.lazy().select(
        pl.when(fields.get(i) != "").then(fields.get(i)).alias(name) for i, name in enumerate(names)
    )


def _texts(*names: str) -> dict[str, pl.DataType]:
    return {name: pl.String() for name in names}


def _amazon_2014_or_2018(columns: tuple[str, str, str, str], items: Reader) -> Layout:
    fields: dict[str, pl.DataType] = {
        **_texts("reviewerID", "asin"),
        "overall": pl.Float64(),
        "unixReviewTime": pl.Int64(),
    }
    return Layout(
        Columns(sequence="reviewerID", item="asin", time="unixReviewTime", rating="overall"),
        partial(amazon_reviews, fields=fields, columns=columns, unit="s"),
        files=("reviews_*.json*", "*_5.json*", "[!m]*.json*", "*.csv*"),
        items=items,
        item_files=("meta_*.json*",),
    )


def _amazon_2023() -> Layout:
    columns = ("user_id", "parent_asin", "rating", "timestamp")
    types = (pl.String(), pl.String(), pl.Float64(), pl.Int64())
    lists = {name: pl.List(pl.String()) for name in ("categories", "features", "description")}
    return Layout(
        Columns(sequence="user_id", item="parent_asin", time="timestamp", rating="rating"),
        partial(amazon_reviews, fields=dict(zip(columns, types, strict=True)), columns=columns, unit="ms"),
        files=("[!m]*.jsonl*", "*.csv*"),
        items=partial(
            json_rows, fields={**_texts("parent_asin", "title", "store", "main_category"), **lists}
        ),
        item_files=("meta_*.jsonl*",),
    )


LAYOUTS: dict[str, Layout] = {
    "movielens": Layout(
        Columns(sequence="user_id", item="item_id", time="timestamp", rating="rating"),
        movielens_ratings,
        files=("u.data", "ratings.dat", "ratings.csv"),
        items=movielens_films,
        item_files=("u.item", "movies.dat", "movies.csv"),
    ),
    "amazon-2014": _amazon_2014_or_2018(
        ("reviewerID", "asin", "overall", "unixReviewTime"), amazon_2014_items
    ),
    "amazon-2018": _amazon_2014_or_2018(
        ("asin", "reviewerID", "overall", "unixReviewTime"),
        partial(
            json_rows,
            fields={
                **_texts("asin", "title", "brand", "main_cat"),
                "category": pl.List(pl.String()),
                "description": pl.List(pl.String()),
            },
        ),
    ),
    "amazon-2023": _amazon_2023(),
    "spotify-mpd": Layout(
        Columns(sequence="pid", item="track_uri"),
        playlist_slices,
        files=("mpd.slice.*.json", "data/mpd.slice.*.json"),
    ),
    "lastfm-1k": Layout(
        Columns(sequence="userid", item="artid", time="timestamp"),
        lastfm_plays,
        files=("userid-timestamp-artid-artname-traid-traname.tsv*",),
    ),
    "lastfm-2k": Layout(
        Columns(sequence="userID", item="artistID", time="timestamp"),
        lastfm_tags,
        files=("user_taggedartists-timestamps.dat",),
        items=lastfm_artists,
        item_files=("artists.dat",),
    ),
    "steam": Layout(
        Columns(sequence="username", item="product_id", time="date"),
        partial(json_rows, fields={**_texts("username", "product_id", "date"), "hours": pl.Float64()}),
        files=("steam_reviews.json*", "steam_new.json*"),
        items=steam_games,
        item_files=("steam_games.json*",),
    ),
    "yelp": Layout(
        Columns(sequence="user_id", item="business_id", time="date", rating="stars"),
        partial(json_rows, fields={**_texts("user_id", "business_id", "date"), "stars": pl.Float64()}),
        files=("*review.json*",),
        items=partial(json_rows, fields=_texts("business_id", "name", "categories", "city", "state")),
        item_files=("*business.json*",),
    ),
}
"""Format -> layout."""
