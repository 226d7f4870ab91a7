"""The built-in sample: the log of a made-up music service, and the best that any model can do on it.

Shapes: `V` items, numbered from 0 here, `U` listeners, `L` positions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.world import (
    N_ERAS,
    N_ITEMS,
    NOTHING,
    Catalogue,
    Floats,
    Ints,
    Listeners,
    Playlists,
    draw_listeners,
    draw_playlists,
    make_catalogue,
    target_distribution,
)
from recsys.errors import InputError

CUTOFF = 10  # of HR@10 and NDCG@10
FIRST_YEAR, YEARS_PER_ERA = 1964, 6
FIRST_SECOND = 1_672_531_200  # 2023-01-01 UTC
DAY = 86_400  # seconds
ARTISTS_PER_CELL = 2

GENRES = ("ambient", "blues", "chanson", "disco", "electro", "folk", "gospel", "house", "indie", "jazz")
TITLE_STARTS = (
    "Amber", "Borrowed", "Broken", "Chalk", "Copper", "Crooked", "Distant", "Drifting", "Early", "Electric",
    "Empty", "Faded", "Folded", "Frozen", "Gilded", "Half-Lit", "Hidden", "Hollow", "Honest", "Idle",
    "Late", "Little", "Lonely", "Long", "Marble", "Northern", "Paper", "Patient", "Quiet", "Restless",
    "Salted", "Second", "Silver", "Slow", "Tangled", "Tin", "Velvet", "Wandering", "Wooden", "Yellow",
)  # fmt: skip
TITLE_ENDS = (
    "Afternoon", "Anchors", "Avenue", "Balcony", "Bridges", "Cartography", "Chimneys", "Compass", "Corridor",
    "Daylight", "Departures", "Echoes", "Embers", "Ferry", "Footsteps", "Fountain", "Gardens", "Harbour",
    "Horizon", "Kitchen", "Ladders", "Lanterns", "Letters", "Lighthouse", "Meadow", "Mirrors", "Mornings",
    "Orchard", "Platform", "Postcards", "Rain", "Rooftops", "Signals", "Staircase", "Station", "Tides",
    "Tramlines", "Umbrellas", "Windows", "Winter",
)  # fmt: skip
FIRST_NAMES = (
    "Adela", "Bruno", "Calla", "Dorian", "Elowen", "Fintan", "Greta", "Halden", "Ines", "Jory",
    "Kasimir", "Lotte", "Marlow", "Nadja", "Osric", "Petra", "Quillon", "Runa", "Severin", "Tamsin",
)  # fmt: skip
NAME_STARTS = ("Ash", "Bracken", "Cinder", "Dapple", "Elder", "Fen", "Gorse", "Hazel", "Larch", "Thistle")
NAME_ENDS = ("acre", "brook", "combe", "fell", "garth", "holt", "mere", "thwaite", "wick", "worth")


@dataclass(frozen=True)
class Oracle:
    """What can be reached on the leave-one-out test targets, full ranking, seen items removed.

    Attributes:
        hr_at_10: expected HR@10 of ranking by the true probabilities: no model can expect more.
        ndcg_at_10: expected NDCG@10 of the same ranking.
        markov_hr_at_10: measured HR@10 of a first-order Markov chain, backing off to popularity.
        popularity_hr_at_10: measured HR@10 of the most popular items.
    """

    hr_at_10: float
    ndcg_at_10: float
    markov_hr_at_10: float
    popularity_hr_at_10: float


def write_sample(folder: Path, *, seed: int = 0, users: int = 5000, playlists: int = 1500) -> None:
    """Write the sample's files into a folder, which is made where it is missing.

    `plays.csv` (user, item, time in unix seconds; by time), `items.csv` (item, title, artist, genre, year),
    `playlists.csv` (playlist, track, position), `playlists_truth.csv` (playlist, genre, second_genre,
    switch_at, ordered, length) and `oracle.json` (see `Oracle`). The same arguments give the same bytes.

    Args:
        folder: where to write.
        seed: the world and everything drawn in it.
        users: listeners, 15 events each on average.
        playlists: playlists, 35 tracks each on average.

    Raises:
        InputError: fewer than one user or a negative number of playlists, or the seed is negative.
    """
    if users < 1 or playlists < 0 or seed < 0:
        raise InputError(
            f"the sample was asked for {users} users and {playlists} playlists with seed {seed}; "
            "expected at least 1 user, 0 playlists and seed 0"
        )
    of_items, of_names, of_plays, of_times, of_lists = np.random.default_rng(seed).spawn(5)
    catalogue = make_catalogue(of_items)
    # Shuffled, so that neighbouring ids have nothing in common.
    ids = np.array([f"track-{number:04d}" for number in of_names.permutation(N_ITEMS) + 1])
    folder.mkdir(parents=True, exist_ok=True)
    _write_items(folder / "items.csv", catalogue, ids, of_names)
    _write_playlists(folder, draw_playlists(catalogue, playlists, of_lists), ids)
    listeners = draw_listeners(catalogue, users, of_plays)
    _write_oracle(folder / "oracle.json", oracle(catalogue, listeners))
    _write_plays(folder / "plays.csv", listeners, ids, of_times)  # last: its presence says that all is there


def read_oracle(folder: Path) -> Oracle:
    """What `write_sample` stated in `oracle.json`.

    Raises:
        InputError: the file is missing or not what `write_sample` writes.
    """
    file = folder / "oracle.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        best, reference = content["oracle"], content["reference"]
        return Oracle(
            hr_at_10=float(best["hr@10"]),
            ndcg_at_10=float(best["ndcg@10"]),
            markov_hr_at_10=float(reference["markov"]["hr@10"]),
            popularity_hr_at_10=float(reference["popularity"]["hr@10"]),
        )
    except FileNotFoundError as error:
        raise InputError(f"there is no {file}; write the sample again") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} is no oracle of a sample ({error!r}); write the sample again") from error


def oracle(catalogue: Catalogue, listeners: Listeners) -> Oracle:
    """The exact expectation of the best ranking, and what counting reaches, on the last events."""
    best = -np.sort(-target_distribution(catalogue, listeners), axis=1)[:, :CUTOFF]
    gains = 1 / np.log2(np.arange(CUTOFF) + 2)
    events = np.arange(listeners.items.shape[1])
    training = np.where(events < listeners.lengths[:, None] - 2, listeners.items, NOTHING)
    popularity = np.bincount(training[training != NOTHING], minlength=N_ITEMS) * 1.0
    before, after = training[:, :-1], training[:, 1:]
    inside = after != NOTHING
    transitions = np.zeros((N_ITEMS, N_ITEMS))
    np.add.at(transitions, (before[inside], after[inside]), 1.0)
    last = listeners.items[np.arange(len(listeners.lengths)), listeners.lengths - 2]
    backoff = popularity / (popularity.max() + 1)  # below one transition
    return Oracle(
        hr_at_10=float(best.sum(axis=1).mean()),
        ndcg_at_10=float((best @ gains).mean()),
        markov_hr_at_10=_hit_rate(transitions[last] + backoff, listeners),
        popularity_hr_at_10=_hit_rate(np.tile(popularity, (len(last), 1)), listeners),
    )


def _hit_rate(scores: Floats, listeners: Listeners) -> float:
    """HR@10 of scores (U, V) on the last events, without the items heard before; a tied target shares."""
    users, ends = np.arange(len(scores)), listeners.lengths - 1
    targets = listeners.items[users, ends]
    own = scores[users, targets][:, None].copy()
    rows, columns = np.nonzero(listeners.items != NOTHING)
    scores[rows, listeners.items[rows, columns]] = -np.inf
    scores[users, targets] = own[:, 0]
    above, level = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    # Chance of a place in the list for a target anywhere among the items of its score.
    return float(np.clip((CUTOFF - above) / level, 0.0, 1.0).mean())


def _write_items(file: Path, catalogue: Catalogue, ids: NDArray[np.str_], rng: np.random.Generator) -> None:
    titles = rng.choice(len(TITLE_STARTS) * len(TITLE_ENDS), N_ITEMS, replace=False)
    cells = (catalogue.genre * N_ERAS + catalogue.era) * ARTISTS_PER_CELL
    artists = cells + rng.integers(ARTISTS_PER_CELL, size=N_ITEMS)
    names = rng.choice(len(FIRST_NAMES) * len(NAME_STARTS) * len(NAME_ENDS), artists.max() + 1, replace=False)
    years = FIRST_YEAR + catalogue.era * YEARS_PER_ERA + rng.integers(YEARS_PER_ERA, size=N_ITEMS)
    genres = [GENRES[genre] for genre in catalogue.genre]
    rows = (
        (ids[j], _title(int(titles[j])), _artist(int(names[artists[j]])), genres[j], years[j])
        for j in ids.argsort()
    )
    _write_csv(file, ("item", "title", "artist", "genre", "year"), rows)


def _title(number: int) -> str:
    start, end = divmod(number, len(TITLE_ENDS))
    return f"{TITLE_STARTS[start]} {TITLE_ENDS[end]}"


def _artist(number: int) -> str:
    first, family = divmod(number, len(NAME_STARTS) * len(NAME_ENDS))
    start, end = divmod(family, len(NAME_ENDS))
    return f"{FIRST_NAMES[first]} {NAME_STARTS[start]}{NAME_ENDS[end]}"


def _write_plays(file: Path, listeners: Listeners, ids: NDArray[np.str_], rng: np.random.Generator) -> None:
    times = _times(listeners.items.shape, rng)
    users, columns = np.nonzero(listeners.items != NOTHING)
    seconds = times[users, columns]
    items = listeners.items[users, columns]
    order = np.lexsort((users, seconds))  # within a user times rise strictly
    rows = ((f"user-{users[e] + 1:04d}", ids[items[e]], seconds[e]) for e in order)
    _write_csv(file, ("user", "item", "time"), rows)


def _times(shape: tuple[int, ...], rng: np.random.Generator) -> Ints:
    """(U, L) unix seconds, strictly rising in each row: tracks minutes apart, with days between sittings."""
    minutes = rng.integers(120, 480, shape)
    days = rng.lognormal(np.log(2 * DAY), 1.0, shape).astype(np.int64) + 3600
    gaps = np.where(rng.random(shape) < 0.75, minutes, days)
    return np.asarray(FIRST_SECOND + rng.integers(300 * DAY, size=(shape[0], 1)) + gaps.cumsum(axis=1))


def _write_playlists(folder: Path, playlists: Playlists, ids: NDArray[np.str_]) -> None:
    names = [f"playlist-{number:04d}" for number in range(1, len(playlists.lengths) + 1)]
    rows, places = np.nonzero(playlists.items != NOTHING)
    tracks = ids[playlists.items[rows, places]]
    entries = ((names[row], track, place) for row, track, place in zip(rows, tracks, places, strict=True))
    _write_csv(folder / "playlists.csv", ("playlist", "track", "position"), entries)
    truth = (
        (
            name,
            GENRES[playlists.genres[0, p]],
            GENRES[playlists.genres[1, p]] if playlists.switch_at[p] != NOTHING else "",
            playlists.switch_at[p] if playlists.switch_at[p] != NOTHING else "",
            int(playlists.ordered[p]),
            playlists.lengths[p],
        )
        for p, name in enumerate(names)
    )
    columns = ("playlist", "genre", "second_genre", "switch_at", "ordered", "length")
    _write_csv(folder / "playlists_truth.csv", columns, truth)


def _write_oracle(file: Path, found: Oracle) -> None:
    stated = asdict(found)
    content = {
        "targets": "the last event of each user, all items ranked, items heard before removed",
        "oracle": {"hr@10": stated["hr_at_10"], "ndcg@10": stated["ndcg_at_10"]},
        "reference": {
            "markov": {"hr@10": stated["markov_hr_at_10"]},
            "popularity": {"hr@10": stated["popularity_hr_at_10"]},
        },
    }
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
