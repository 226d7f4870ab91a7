"""The built-in sample: its files, and that the answer it states is the true one."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from data_prep import world
from data_prep.sample import GENRES, Oracle, oracle, read_oracle, write_sample
from recsys.errors import InputError

FILES = {"plays.csv", "items.csv", "playlists.csv", "playlists_truth.csv", "oracle.json"}
SMALL = {"users": 300, "playlists": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "sample"
    write_sample(path)
    return path


@pytest.fixture(scope="module")
def histories(folder: Path) -> list[list[str]]:
    """The items of each user in order."""
    plays = pl.read_csv(folder / "plays.csv").sort("user", "time")
    grouped = plays.group_by("user", maintain_order=True).agg("item")
    return list(grouped["item"].to_list())


def hit_rate(rankings: list[list[str]], histories: list[list[str]]) -> float:
    """Share of last items within the first ten of a ranking, without the items heard before."""
    hits = 0
    for ranking, history in zip(rankings, histories, strict=True):
        heard = set(history[:-1])
        hits += history[-1] in [item for item in ranking if item not in heard][:10]
    return hits / len(histories)


def test_the_files_are_a_log_a_person_has(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == FILES
    plays = pl.read_csv(folder / "plays.csv")
    assert plays.schema == {"user": pl.String, "item": pl.String, "time": pl.Int64}
    assert plays["user"].str.contains(r"^user-\d{4}$").all()
    assert plays["item"].str.contains(r"^track-\d{4}$").all()
    assert plays["time"].is_sorted()
    assert plays["user"].n_unique() == 5000
    assert 60_000 <= len(plays) <= 100_000
    # Interleaved: the log is not one user after the other.
    assert (plays["user"] != plays["user"].shift(1)).sum() > 3 * 5000
    in_2023_or_2024 = plays["time"].is_between(1_672_531_200, 1_735_689_600)
    assert in_2023_or_2024.sum() > 0.95 * len(plays)

    items = pl.read_csv(folder / "items.csv")
    assert items.columns == ["item", "title", "artist", "genre", "year"]
    assert len(items) == items["item"].n_unique() == items["title"].n_unique() == world.N_ITEMS
    assert set(items["genre"]) == set(GENRES)
    assert items["year"].is_between(1960, 2025).all()
    assert set(plays["item"]) <= set(items["item"])
    # A person makes music of one genre, and several pieces of it.
    assert items.group_by("artist").agg(pl.col("genre").n_unique())["genre"].max() == 1
    assert items["artist"].n_unique() < world.N_ITEMS / 3


def test_times_rise_within_a_user_and_nothing_is_heard_twice(folder: Path) -> None:
    plays = pl.read_csv(folder / "plays.csv")
    assert plays.select("user", "time").is_unique().all()
    assert plays.select("user", "item").is_unique().all()
    shortest, longest = world.HISTORY_LENGTHS
    lengths = plays.group_by("user").len()["len"]
    assert (lengths.min(), lengths.max()) == (shortest, longest)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        write_sample(tmp_path / name, seed=seed, **SMALL)
    for file in FILES:
        first = (tmp_path / "first" / file).read_bytes()
        assert first == (tmp_path / "again" / file).read_bytes(), file
        assert first != (tmp_path / "other" / file).read_bytes(), file


def test_the_items_do_not_depend_on_how_many_users_there_are(tmp_path: Path) -> None:
    write_sample(tmp_path / "few", users=20, playlists=0)
    write_sample(tmp_path / "more", **SMALL)
    assert (tmp_path / "few" / "items.csv").read_bytes() == (tmp_path / "more" / "items.csv").read_bytes()


def test_counting_stays_far_below_the_oracle(folder: Path, histories: list[list[str]]) -> None:
    stated = read_oracle(folder)
    assert 0.6 < stated.hr_at_10 < 0.9
    assert stated.ndcg_at_10 < stated.hr_at_10

    # Counted once more, with plain dictionaries, on the training parts.
    counts = Counter(item for history in histories for item in history[:-2])
    popular = [item for item, _ in counts.most_common()]
    popularity = hit_rate([popular] * len(histories), histories)
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    for history in histories:
        for before, following in pairwise(history[:-2]):
            followers[before][following] += 1
    rankings = []
    for history in histories:
        after = followers[history[-2]]
        near = sorted(after, key=lambda item: (-after[item], -counts[item]))
        rankings.append(near + [item for item in popular[:100] if item not in after])
    markov = hit_rate(rankings, histories)

    assert popularity < 0.25 * stated.hr_at_10
    assert markov < 0.70 * stated.hr_at_10
    assert markov > 3 * popularity  # the last item does tell something
    # Only ties are broken otherwise.
    assert stated.popularity_hr_at_10 == pytest.approx(popularity, abs=0.01)
    assert stated.markov_hr_at_10 == pytest.approx(markov, abs=0.01)


@pytest.fixture(scope="module")
def listeners() -> tuple[world.Catalogue, world.Listeners]:
    first, second = np.random.default_rng(7).spawn(2)
    catalogue = world.make_catalogue(first)
    return catalogue, world.draw_listeners(catalogue, 4000, second)


def best_lists(chances: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-chances, axis=1, kind="stable")[:, :10]


def test_the_oracles_lists_hit_as_often_as_it_says(
    listeners: tuple[world.Catalogue, world.Listeners],
) -> None:
    catalogue, drawn = listeners
    stated = oracle(catalogue, drawn)
    lists = best_lists(world.target_distribution(catalogue, drawn))
    targets = drawn.items[np.arange(4000), drawn.lengths - 1]
    found, places = np.nonzero(lists == targets[:, None])
    hits = len(found) / 4000
    standard_error = np.sqrt(stated.hr_at_10 * (1 - stated.hr_at_10) / 4000)
    assert abs(hits - stated.hr_at_10) < 4 * standard_error
    gained = (1 / np.log2(places + 2)).sum() / 4000
    assert abs(gained - stated.ndcg_at_10) < 4 * standard_error  # a gain is at most 1: no wider than a hit


def test_stated_probabilities_come_true(listeners: tuple[world.Catalogue, world.Listeners]) -> None:
    catalogue, drawn = listeners
    chances = world.target_distribution(catalogue, drawn)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-12)
    users, ends = np.arange(4000), drawn.lengths - 1
    targets = drawn.items[users, ends]
    # By place in the oracle's order: how often the target stood there, against what was promised.
    order = np.argsort(-chances, axis=1, kind="stable")
    promised = np.take_along_axis(chances, order, axis=1).sum(axis=0)
    seen = (order == targets[:, None]).sum(axis=0)
    for start, stop in ((0, 1), (1, 2), (2, 4), (4, 7), (7, 10), (10, 20), (20, world.N_ITEMS)):
        expected = promised[start:stop].sum()
        assert abs(seen[start:stop].sum() - expected) < 4 * np.sqrt(expected), (start, stop)
    # What was heard cannot come again.
    for user in range(0, 4000, 40):
        assert not chances[user, drawn.items[user, : ends[user]]].any()


def test_the_distribution_is_the_rule_renormalised() -> None:
    catalogue = world.make_catalogue(np.random.default_rng(0))
    history = np.array([[5, 17, world.NOTHING]])
    chances = world.next_item_distribution(catalogue, history, np.array([0]), np.array([9]))[0]
    for item in (0, 1, 5, 95, 99, 500, 999):
        weights = []
        for other in (item, *range(world.N_ITEMS)):
            rule = 0.0
            if catalogue.genre[other] == 0:  # era 9 and, round the ring, era 0
                rule = {9: world.SAME_ERA, 0: 1 - world.SAME_ERA}.get(int(catalogue.era[other]), 0.0)
            stray = world.STRAY / (world.N_GENRES * world.N_ERAS)
            weight = ((1 - world.STRAY) * rule + stray) * catalogue.share[other]
            weights.append(0.0 if other in (5, 17) else weight)
        assert chances[item] == pytest.approx(weights[0] / sum(weights[1:]), rel=1e-12)


def test_turns_alternate_between_two_genres_whatever_the_last_item(
    listeners: tuple[world.Catalogue, world.Listeners],
) -> None:
    catalogue, drawn = listeners
    rows, columns = np.nonzero(drawn.items != world.NOTHING)
    genres = catalogue.genre[drawn.items[rows, columns]]
    right = genres == drawn.genres[columns % 2, rows]
    # Later on strays have a larger share, since the cells that the rule names have been heard in part.
    assert right[columns == 0].mean() == pytest.approx(1 - world.STRAY * 0.9, abs=0.015)
    assert right.mean() > 0.9
    assert (drawn.genres[0] != drawn.genres[1]).all()


def test_playlists_are_what_their_truth_says(folder: Path) -> None:
    lists = pl.read_csv(folder / "playlists.csv")
    assert lists.columns == ["playlist", "track", "position"]
    assert lists.select("playlist", "track").is_unique().all()
    truth = pl.read_csv(folder / "playlists_truth.csv")
    assert truth.columns == ["playlist", "genre", "second_genre", "switch_at", "ordered", "length"]
    assert len(truth) == 1500
    items = pl.read_csv(folder / "items.csv").rename({"item": "track"})
    rows = lists.join(items, on="track", maintain_order="left").join(truth, on="playlist", suffix="_true")
    lengths = lists.group_by("playlist").agg(pl.len().alias("counted"), pl.col("position").max())
    checked = truth.join(lengths, on="playlist")
    assert (checked["length"] == checked["counted"]).all()
    assert (checked["position"] == checked["length"] - 1).all()

    after = pl.col("switch_at").is_not_null() & (pl.col("position") >= pl.col("switch_at"))
    expected = pl.when(after).then("second_genre").otherwise("genre_true")
    right = rows.select((pl.col("genre") == expected).alias("right"), after.alias("after"))
    assert right["right"].mean() == pytest.approx(1 - world.STRAY * 0.9, abs=0.01)
    assert right.filter("after")["right"].mean() == pytest.approx(1 - world.STRAY * 0.9, abs=0.01)
    switched = truth.filter(pl.col("switch_at").is_not_null())
    assert 0.3 < len(switched) / len(truth) < 0.5
    assert (switched["genre"] != switched["second_genre"]).all()
    assert truth["second_genre"].is_null().sum() == len(truth) - len(switched)


def test_ordered_playlists_run_from_old_to_new_and_the_others_do_not(folder: Path) -> None:
    items = pl.read_csv(folder / "items.csv").rename({"item": "track"})
    truth = pl.read_csv(folder / "playlists_truth.csv").filter(pl.col("length") >= 20)
    lists = pl.read_csv(folder / "playlists.csv").join(items, on="track", maintain_order="left")
    rising = lists.group_by("playlist").agg(pl.corr("position", "year", method="spearman").alias("order"))
    told = truth.join(rising, on="playlist")
    one_genre = told.filter(pl.col("switch_at").is_null())
    shuffled = one_genre.filter(pl.col("ordered") == 0)["order"].to_numpy()
    assert (told.filter(pl.col("ordered") == 1)["order"] > 0.85).all()
    assert abs(shuffled.mean()) < 0.05
    assert (np.abs(shuffled) < 0.85).all()


def test_the_oracle_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_sample(tmp_path, users=50, playlists=0)
    content = json.loads((tmp_path / "oracle.json").read_text())
    assert read_oracle(tmp_path) == Oracle(
        content["oracle"]["hr@10"],
        content["oracle"]["ndcg@10"],
        content["reference"]["markov"]["hr@10"],
        content["reference"]["popularity"]["hr@10"],
    )
    assert (tmp_path / "playlists.csv").read_text() == "playlist,track,position\n"


def test_a_missing_or_foreign_oracle_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*oracle\.json; write the sample again"):
        read_oracle(tmp_path)
    for text in ("{", "[]", '{"oracle": {}}', '{"oracle": {"hr@10": null}, "reference": {}}'):
        (tmp_path / "oracle.json").write_text(text)
        with pytest.raises(
            InputError, match=r"oracle\.json is no oracle of a sample .*write the sample again"
        ):
            read_oracle(tmp_path)


@pytest.mark.parametrize("asked", [{"users": 0}, {"playlists": -1}, {"seed": -1}])
def test_impossible_sizes_are_refused(tmp_path: Path, asked: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected at least 1 user, 0 playlists and seed 0"):
        write_sample(tmp_path / "none", **asked)
    assert not (tmp_path / "none").exists()
