"""Public data sets are read as their publishers lay them out: every release gives the same canonical log."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.items import items_file, read_items
from data_prep.layouts import LAYOUTS
from data_prep.logs import event_files, read_log
from data_prep.prepare import prepare
from recsys.config import DataConfig, build_config
from recsys.errors import InputError
from recsys.schema import ITEM_ID


def lines(*rows: object) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def literals(*rows: object) -> bytes:
    return "".join(f"{row!r}\n" for row in rows).encode()


def review(user: str, item: str, time: int, stars: float) -> dict[str, object]:
    """An Amazon review of 2014 or 2018."""
    return {
        "reviewerID": user,
        "asin": item,
        "helpful": [0, 1],
        "reviewText": "It's {fine}",
        "overall": stars,
        "unixReviewTime": time,
        "style": {"Size:": " L"},
    }


REVIEWS = [review("A", "001", 20, 5.0), review("B", "002", 10, 3.0)]
META = {"asin": "001", "title": "It's soap", "brand": "Acme", "imUrl": "x", "salesRank": {"Beauty": 3}}
TRACKS = [
    {
        "pos": 1,
        "track_uri": "t:2",
        "track_name": "Two",
        "artist_name": "B",
        "artist_uri": "a:b",
        "album_uri": "l:1",
        "album_name": "L",
        "duration_ms": 1,
    },
    {
        "pos": 0,
        "track_uri": "t:1",
        "track_name": "One",
        "artist_name": "A",
        "artist_uri": "a:a",
        "album_uri": "l:1",
        "album_name": "L",
        "duration_ms": 1,
    },
]

Rows = list[tuple[Any, Any, int | None]]
FILMS: Rows = [(1, 10, 978300760), (1, 11, 978300761)]
BOUGHT: Rows = [("A", "001", 20), ("B", "002", 10)]
RELEASES: dict[str, tuple[str, dict[str, bytes], dict[str, Any], Rows, dict[str, Any]]] = {
    "movielens 100K": (
        "movielens",
        {
            "u.data": b"1\t10\t5\t978300760\n1\t11\t3\t978300761\n",
            "u.item": "10|Misérables, Les (1995)|01-Jan-1995||url|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
            "11|unknown|||".encode("latin-1")
            + b"|"
            + b"|".join([b"1"] + [b"0"] * 18)
            + b"\n",
        },
        {"title": "movie_title", "attributes": ["release_year", "class"]},
        FILMS,
        {
            "id": [10, 11],
            "title": ["Misérables, Les", "unknown"],
            "release_year": [1995, None],
            "class": ["Animation Children's Comedy", "unknown"],
        },
    ),
    "movielens 1M": (
        "movielens",
        {
            "ratings.dat": b"1::10::5::978300760\n1::11::3::978300761\n",
            "movies.dat": "10::Misérables, Les (1995)::Drama|War\n".encode("latin-1"),
        },
        {"title": "movie_title", "attributes": ["class"]},
        FILMS,
        {"id": [10], "title": ["Misérables, Les"], "class": ["Drama War"]},
    ),
    "movielens 20M": (
        "movielens",
        {
            "ratings.csv": b"userId,movieId,rating,timestamp\n1,10,3.5,978300760\n1,11,4.0,978300761\n",
            "movies.csv": 'movieId,title,genres\n10,"Misérables, Les (1995)",Drama|War\n'.encode(),
        },
        {"title": "movie_title"},
        FILMS,
        {"id": [10], "title": ["Misérables, Les"], "release_year": [1995], "class": ["Drama War"]},
    ),
    "amazon 2014": (
        "amazon-2014",
        {
            "reviews_Beauty_5.json.gz": gzip.compress(lines(*REVIEWS)),
            "meta_Beauty.json.gz": gzip.compress(
                literals({**META, "categories": [["Beauty", "Soap"], ["Beauty"]]})
            ),
        },
        {"title": "title"},
        BOUGHT,
        {"id": ["001"], "title": ["It's soap"], "brand": ["Acme"], "categories": [["Beauty", "Soap"]]},
    ),
    "amazon 2014, all reviews": (
        "amazon-2014",
        {"reviews_Beauty.json": literals(*REVIEWS)},
        {},
        BOUGHT,
        {},
    ),
    "amazon 2014, ratings only": (
        "amazon-2014",
        {"ratings_Beauty.csv": b"A,001,5.0,20\nB,002,3.0,10\n"},
        {},
        BOUGHT,
        {},
    ),
    "amazon 2018": (
        "amazon-2018",
        {
            "All_Beauty_5.json.gz": gzip.compress(lines(*REVIEWS)),
            "meta_All_Beauty.json.gz": gzip.compress(lines({**META, "category": ["Beauty"], "price": "$1"})),
        },
        {"title": "title", "attributes": ["brand", "category"]},
        BOUGHT,
        {"id": ["001"], "title": ["It's soap"], "brand": ["Acme"], "category": [["Beauty"]]},
    ),
    "amazon 2018, ratings only": (
        "amazon-2018",
        {"All_Beauty.csv": b"001,A,5.0,20\n002,B,3.0,10\n"},
        {},
        BOUGHT,
        {},
    ),
    "amazon 2023": (
        "amazon-2023",
        {
            "All_Beauty.jsonl": lines(
                {"user_id": "A", "parent_asin": "001", "asin": "x", "rating": 5.0, "timestamp": 20_000},
                {"user_id": "B", "parent_asin": "002", "asin": "y", "rating": 3.0, "timestamp": 10_000},
            ),
            "meta_All_Beauty.jsonl": lines(
                {
                    "parent_asin": "001",
                    "title": "Soap",
                    "store": "Acme",
                    "price": None,
                    "categories": [],
                    "details": {"Size": "L"},
                }
            ),
        },
        {"title": "title", "attributes": ["store"]},
        BOUGHT,
        {"id": ["001"], "title": ["Soap"], "store": ["Acme"]},
    ),
    "amazon 2023, ratings only": (
        "amazon-2023",
        {"All_Beauty.csv": b"user_id,parent_asin,rating,timestamp\nA,001,5.0,20000\nB,002,3.0,10000\n"},
        {},
        BOUGHT,
        {},
    ),
    "spotify": (
        "spotify-mpd",
        {
            "mpd.slice.0-1.json": json.dumps(
                {
                    "info": {},
                    "playlists": [
                        {"name": "x", "pid": 7, "modified_at": 5, "tracks": TRACKS},
                        {"name": "y", "pid": 8, "modified_at": 5, "tracks": []},
                    ],
                }
            ).encode()
        },
        {"title": "track_name", "attributes": ["artist_name"]},
        [(7, "t:1", None), (7, "t:2", None)],
        {"id": ["t:1", "t:2"], "title": ["One", "Two"], "artist_name": ["A", "B"]},
    ),
    "lastfm 1K": (
        "lastfm-1k",
        {
            "userid-timestamp-artid-artname-traid-traname.tsv": (
                b'user_1\t1970-01-01T00:00:20Z\tart-1\t"Weird Al"\ttr\tSong\n'
                b"user_1\t1970-01-01T00:00:10Z\tart-2\tX\t\tY\tZ\n"
            )
        },
        {"title": "artname"},
        [("user_1", "art-1", 20), ("user_1", "art-2", 10)],
        {"id": ["art-1", "art-2"], "title": ['"Weird Al"', "X"]},
    ),
    "lastfm 2K": (
        "lastfm-2k",
        {
            "user_taggedartists-timestamps.dat": (
                b"userID\tartistID\ttagID\ttimestamp\n2\t52\t13\t20000\n2\t53\t13\t10000\n"
            ),
            "artists.dat": 'id\tname\turl\tpictureURL\n52\t"Weird Al"\tu\tp\n53\tSigur Rós\tu\tp\n'.encode(),
        },
        {"title": "name"},
        [(2, 52, 20), (2, 53, 10)],
        {"id": [52, 53], "title": ['"Weird Al"', "Sigur Rós"]},
    ),
    "steam": (
        "steam",
        {
            "steam_reviews.json.gz": gzip.compress(
                b"{u'username': u'Ann', u'product_id': u'10', u'date': u'1970-01-02', u't': u'it\\'s'}\n"
            ),
            "steam_games.json.gz": gzip.compress(
                b"{u'id': u'10', u'app_name': u'Half', u'genres': [u'Action'], u'price': 1}\n"
            ),
        },
        {"title": "title", "attributes": ["genres"]},
        [("Ann", "10", 86_400)],
        {"id": ["10"], "title": ["Half"], "genres": [["Action"]]},
    ),
    "yelp": (
        "yelp",
        {
            "yelp_academic_dataset_review.json": lines(
                {
                    "review_id": "r",
                    "user_id": "u",
                    "business_id": "b",
                    "stars": 4.0,
                    "date": "1970-01-01 00:00:20",
                    "text": "x",
                }
            ),
            "yelp_academic_dataset_business.json": lines(
                {
                    "business_id": "b",
                    "name": "Cafe",
                    "categories": "Food, Coffee",
                    "attributes": {"WiFi": "u'no'"},
                    "hours": None,
                }
            ),
        },
        {"title": "name"},
        [("u", "b", 20)],
        {"id": ["b"], "title": ["Cafe"], "categories": ["Food, Coffee"]},
    ),
}


def test_every_layout_is_tried() -> None:
    assert {release[0] for release in RELEASES.values()} == set(LAYOUTS)


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_read_from_its_folder(tmp_path: Path, name: str) -> None:
    kind, files, item_columns, rows, items = RELEASES[name]
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    (tmp_path / "README.txt").write_text("not data")
    from_log = {"items": "log"} if items and not LAYOUTS[kind].items else {}
    data = DataConfig.model_validate(
        {"path": str(tmp_path), "format": kind, "item_columns": item_columns, **from_log}
    )
    log = read_log(data, with_rating=LAYOUTS[kind].columns.rating is not None)
    assert [file.name for file in log.files] == [next(iter(files))]
    seconds = [None if time is None else time // 10**6 for time in log.events["time"]]
    assert list(zip(log.events["sequence"], log.events["item"], seconds, strict=True)) == rows
    table = read_items(data, items_file(data))
    assert (table is None) == (not items)
    if table is not None:
        assert table.to_dict(as_series=False) == items
        assert table.columns[0] == ITEM_ID


def test_the_rows_of_every_slice_make_one_log(tmp_path: Path) -> None:
    for pid in (3, 4):
        content = {"playlists": [{"pid": pid, "modified_at": 5, "tracks": TRACKS}]}
        (tmp_path / f"mpd.slice.{pid}.json").write_text(json.dumps(content))
    data = DataConfig(path=str(tmp_path), format="spotify-mpd", items="log")
    assert len(event_files(data)) == 2
    assert read_log(data, with_rating=False).events["sequence"].to_list() == [3, 3, 4, 4]
    table = read_items(data, None)
    assert table is not None
    assert table["id"].to_list() == ["t:1", "t:2"]


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        (
            "movielens",
            "ratings.dat",
            b"1::10::5::9\n1::11\n",
            r"ratings\.dat line 2 has 2 fields; expected 4, separ",
        ),
        (
            "steam",
            "steam_reviews.json",
            b"{u'username': 1 + }\n",
            r"line 1 is neither JSON nor a Python dictionary",
        ),
        (
            "steam",
            "steam_reviews.json",
            b"{u'username': [1], u'date': 3}\n",
            r"lines 1 to 1: `username` is not always",
        ),
        (
            "amazon-2018",
            "x_5.json",
            b'{"asin": "1"\n',
            r"x_5\.json is not JSON lines of this layout: .*check data\.format",
        ),
        (
            "amazon-2018",
            "x_5.json",
            b'{"asin": 3}\n',
            r"x_5\.json is not JSON lines of this layout: .*check data\.format",
        ),
        ("amazon-2018", "x_5.json", lines({"item": 3}), r"no column `reviewerID`"),
        (
            "spotify-mpd",
            "mpd.slice.0.json",
            b'{"playlists": 3',
            r"mpd\.slice\.0\.json cannot be read as spotify-mpd",
        ),
        ("spotify-mpd", "mpd.slice.0.json", b'{"info": 3}', r"has no events"),
        (
            "lastfm-2k",
            "user_taggedartists-timestamps.dat",
            b"userID\tartistID\ttagID\ttimestamp\n1\t2\t3\tx\n",
            r"cannot be read as lastfm-2k: conversion from `str` to `i64` failed",
        ),
        (
            "yelp",
            "other.txt",
            b"x",
            r"is a folder: set data\.events to the log's file in it; it has: other\.txt",
        ),
    ],
)
def test_a_bad_file_of_a_layout_is_named(
    tmp_path: Path, kind: str, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    tree = {"name": "x", "data": {"path": str(tmp_path), "format": kind}, "prepared": str(tmp_path / "out")}
    with pytest.raises(InputError, match=message):
        prepare(build_config(tree, where="test"))
    assert not (tmp_path / "out").exists()
