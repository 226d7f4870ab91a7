"""Continuing playlists: slates from a scorer whose right answers are known, and the challenge's measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.errors import InputError
from recsys.playlists import continuation_scores as measures
from recsys.playlists.continuation import Diverse, Limit, diverse_beams, groups_of, one_shot
from recsys.playlists.judging import endings, score_slates
from recsys.sequences import Ragged


class Ladder:
    """Track j has the vector (1 / j,), a playlist (1,): low numbers first, whatever the seed."""

    max_history = 50

    def __init__(self, n_items: int) -> None:
        self.table = (6.0 / torch.arange(1, n_items + 1))[:, None]

    def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(items_BL), 1)

    def item_table(self) -> torch.Tensor:
        return self.table


LADDER = Ladder(12)
ARTISTS = groups_of(["a", "a", "a", "a", "b", "b", "b", None, None, "c", "c", "c"])
"""Tracks 1-4 are a's, 5-7 b's, 10-12 c's; nobody knows whose 8 and 9 are."""


def test_one_shot_takes_the_best_that_the_seed_does_not_hold() -> None:
    seeds = Ragged.of([[1, 3, 3], [12]])
    assert one_shot(LADDER, seeds, 4).tolist() == [[2, 4, 5, 6], [1, 2, 3, 4]]
    allowed = np.arange(1, 13) > 9
    assert one_shot(LADDER, seeds, 3, allowed=allowed).tolist() == [[10, 11, 12], [10, 11, 0]]


def test_limits_are_filters() -> None:
    seeds = Ragged.of([[1]])
    assert one_shot(LADDER, seeds, 6, [Limit(ARTISTS, 1)]).tolist() == [[2, 5, 8, 9, 10, 0]]
    assert one_shot(LADDER, seeds, 6, [Limit(ARTISTS, 2)]).tolist() == [[2, 3, 5, 6, 8, 9]]
    (slate,) = diverse_beams(LADDER, seeds[0], 6, Diverse(1, 1, 0.0), [Limit(ARTISTS, 1)])
    assert slate.tolist() == [2, 5, 8, 9, 10]


def test_a_beam_without_diversity_is_greedy_and_pays_for_repeated_artists_with_it() -> None:
    seed = np.array([12], dtype=np.int32)
    (plain,) = diverse_beams(LADDER, seed, 4, Diverse(1, 3, 0.0))
    assert sorted(plain.tolist()) == [1, 2, 3, 4]
    (varied,) = diverse_beams(LADDER, seed, 4, Diverse(1, 2, 50.0, shared=ARTISTS))
    assert len(set(ARTISTS[varied - 1].tolist()) | {-2}) >= 3
    assert measures.repetition(varied[None], ARTISTS)[0] < measures.repetition(plain[None], ARTISTS)[0]


def test_groups_pay_for_the_choices_of_earlier_ones() -> None:
    seed = np.array([12], dtype=np.int32)
    first, second = diverse_beams(LADDER, seed, 1, Diverse(2, 1, 50.0))
    assert (first.tolist(), second.tolist()) == ([1], [2])
    same = diverse_beams(LADDER, seed, 1, Diverse(2, 1, 0.0))
    assert [slate.tolist() for slate in same] == [[1], [1]]
    with pytest.raises(InputError, match="0 groups of 2 beams"):
        Diverse(groups=0)


def test_a_beam_reads_one_window_of_a_long_seed_and_answers_none_of_it() -> None:
    read: list[set[int]] = []

    class Told(Ladder):
        def encode(self, items_BL: torch.Tensor) -> torch.Tensor:
            read.append(set(items_BL.flatten().tolist()))
            return super().encode(items_BL)

    seed = np.arange(1, 501, dtype=np.int32)
    (slate,) = diverse_beams(Told(600), seed, 1, Diverse(1, 1))
    assert read == [set(range(451, 501))]
    assert slate.tolist() == [501]


def test_a_beam_that_nobody_waits_for_goes_no_further() -> None:
    asked = iter([False, False, True])
    seed = np.array([12], dtype=np.int32)
    slates = diverse_beams(LADDER, seed, 9, Diverse(2, 2), ended=lambda: next(asked))
    assert [len(slate) for slate in slates] == [2, 2]


def test_the_measures_of_the_challenge() -> None:
    slates = np.array([[1, 2, 3, 4], [5, 6, 7, 0], [9, 8, 0, 0]])
    targets = Ragged.of([[2, 4], [1], [8, 9, 9]])
    np.testing.assert_allclose(measures.r_precision(slates, targets), [0.5, 0, 1])
    gains = 1 / np.log2(np.arange(2, 6))
    best = gains[0] + gains[1]
    np.testing.assert_allclose(measures.ndcg(slates, targets), [(gains[1] + gains[3]) / best, 0, 1])
    assert measures.clicks(slates, targets).tolist() == [0, 51, 0]
    long = np.arange(1, 41)[None]
    assert measures.clicks(long, Ragged.of([[25]])).tolist() == [2]
    assert measures.distinct(slates, ARTISTS).tolist() == [1, 1, 1]
    np.testing.assert_allclose(measures.repetition(slates, ARTISTS), [0.75, 2 / 3, 0.5])


def test_intra_list_diversity_is_the_mean_distance_of_pairs() -> None:
    table = np.array([[1, 0], [0, 2], [3, 0]], dtype=np.float32)
    slates = np.array([[1, 2, 3], [1, 3, 0], [2, 0, 0]])
    np.testing.assert_allclose(measures.intra_list_diversity(slates, table), [2 / 3, 0, 0], atol=1e-7)


def test_endings_ask_for_tracks_that_the_seed_does_not_hold() -> None:
    seeds, targets = endings(Ragged.of([[1, 2, 3, 1, 4], [5, 6], [7, 8, 7], [1, 2, 9]]), 2)
    assert [seed.tolist() for seed in (seeds[0], seeds[1])] == [[1, 2], [1, 2]]
    assert [targets[row].tolist() for row in range(len(targets))] == [[3, 4], [9]]
    found = score_slates(one_shot(LADDER, seeds, 12), targets, None, {"artist": ARTISTS})
    assert found["r-precision"].tolist() == [1, 0]
    assert found["distinct artists"].tolist() == [1, 1]
