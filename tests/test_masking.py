from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.masking import cloze_mask
from recsys.sequences import Ragged

rows = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=12), min_size=1, max_size=8)


@given(rows, st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_cloze_hides_a_fixed_share_of_real_items(plain: list[list[int]], mask_prob: float, seed: int) -> None:
    items = Ragged.of(plain).padded()
    mask = cloze_mask(items, mask_prob=mask_prob, last_item_prob=0.0, rng=np.random.default_rng(seed))
    assert not mask[items == 0].any()
    lengths = np.array([len(row) for row in plain])
    assert mask.sum(axis=1).tolist() == np.maximum(np.rint(mask_prob * lengths), 1).tolist()


@given(rows, st.integers(0, 2**31))
def test_last_item_samples_hide_nothing_else(plain: list[list[int]], seed: int) -> None:
    items = Ragged.of(plain).padded()
    mask = cloze_mask(items, mask_prob=0.5, last_item_prob=1.0, rng=np.random.default_rng(seed))
    assert mask[:, -1].all()
    assert mask.sum() == len(plain)


def test_every_position_is_hidden_equally_often() -> None:
    items = np.ones((20_000, 10), dtype=np.int32)
    mask = cloze_mask(items, mask_prob=0.3, last_item_prob=0.0, rng=np.random.default_rng(0))
    # 20,000 draws of probability 0.3: five deviations are 0.016
    np.testing.assert_allclose(mask.mean(axis=0), 0.3, atol=0.016)
