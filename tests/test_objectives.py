from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import BERT4RecConfig
from recsys.objectives import bert4rec, cloze, cloze_mask, next_item
from recsys.sequences import Ragged

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=8).map(np.array)


def per_row(mask: np.ndarray, lengths: np.ndarray) -> list[int]:
    return [int(part.sum()) for part in np.split(mask, np.cumsum(lengths)[:-1])]


@given(lengths, st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_cloze_hides_a_fixed_share_of_each_sequence(lengths: np.ndarray, mask_prob: float, seed: int) -> None:
    mask = cloze_mask(lengths, mask_prob=mask_prob, last_item_prob=0.0, rng=np.random.default_rng(seed))
    assert per_row(mask, lengths) == np.maximum(np.rint(mask_prob * lengths), 1).tolist()


@given(lengths, st.integers(0, 2**31))
def test_last_item_samples_hide_nothing_else(lengths: np.ndarray, seed: int) -> None:
    mask = cloze_mask(lengths, mask_prob=0.5, last_item_prob=1.0, rng=np.random.default_rng(seed))
    assert np.flatnonzero(mask).tolist() == (np.cumsum(lengths) - 1).tolist()


def test_every_position_is_hidden_equally_often() -> None:
    rng = np.random.default_rng(0)
    mask = cloze_mask(np.full(20_000, 10), mask_prob=0.3, last_item_prob=0.0, rng=rng)
    # 20,000 draws of probability 0.3: five deviations are 0.016
    np.testing.assert_allclose(mask.reshape(-1, 10).mean(axis=0), 0.3, atol=0.016)


def test_cloze_reads_a_mask_where_it_asks_and_the_item_elsewhere() -> None:
    sequences = Ragged.of([[1, 2, 3, 4], [5, 6]])
    draws = np.random.default_rng(0)
    examples = cloze(sequences, mask_prob=0.5, last_item_prob=0.0, mask=9, rng=draws)
    assert (examples.read.values[examples.asked] == 9).all()
    assert (examples.read.values == sequences.values)[~examples.asked].all()
    assert examples.answers.tolist() == sequences.values.tolist()
    second = examples.take(np.array([1]))
    assert second.read.values.tolist() == examples.read[1].tolist()
    assert second.asked.tolist() == examples.asked[4:].tolist()
    assert second.answers.tolist() == [5, 6]


def test_next_item_asks_at_every_item_for_the_one_after_it() -> None:
    examples = next_item(Ragged.of([[1, 2, 3], [7, 8]]))
    assert [examples.read[row].tolist() for row in (0, 1)] == [[1, 2], [7]]
    assert examples.asked.all()
    assert examples.answers.tolist() == [2, 3, 8]
    assert examples.causal.all()


def test_a_share_of_bert4recs_samples_are_next_item_samples() -> None:
    sequences = Ragged.of([[1, 2, 3, 4]] * 2_000)
    config = BERT4RecConfig(mask_prob=0.5, last_item_prob=0.0, next_item_prob=0.25)
    examples = bert4rec(sequences, config, 9, np.random.default_rng(0))
    # 2,000 draws of probability 1/4: five deviations are 0.048
    assert examples.causal.mean() == pytest.approx(0.25, abs=0.048)
    assert examples.ahead.tolist() == examples.causal.astype(int).tolist()
    for row in (0, 1_999):
        assert len(examples.read[row]) == (3 if examples.causal[row] else 4)
    masked = np.add.reduceat(examples.read.values == 9, examples.read.offsets[:-1])
    assert masked.tolist() == np.where(examples.causal, 0, 2).tolist()
    asked = np.add.reduceat(examples.asked, examples.read.offsets[:-1])
    assert asked.tolist() == np.where(examples.causal, 3, 2).tolist()
