"""Yesterday's bundle on grown data: matched by id, blind to the new, refused if it has seen targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.compare import compare_bundles
from recsys.errors import InputError
from recsys.evaluation import evaluate_bundle
from recsys.grown import evaluate_grown, grown_scorer, has_grown
from recsys.ranking import LOWEST, score_function
from recsys.sequences import Ragged
from recsys.vocabulary import vocabulary_of
from tests.worlds import counting_bundle, encoder_bundle, item_id, prepared, ring

OLD, NEW = 10, 12


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("grown")
    return encoder_bundle(folder / "bundle", prepared(folder / "data", ring(OLD, 60), OLD))


def test_items_are_matched_by_id_and_new_ones_are_unknown(yesterday: Bundle, tmp_path: Path) -> None:
    ids = [item_id(index) for index in range(NEW, 0, -1)]  # the other way round, two of them new
    today = replace(prepared(tmp_path / "data", ring(NEW, 20), NEW), vocabulary=vocabulary_of(ids))
    scorer = grown_scorer(yesterday, today)
    history = ["i3", "i11", "i4"]
    asked = Ragged.of([today.vocabulary.encode(history), today.vocabulary.encode(["i12"])])
    scores_BV = scorer(asked)
    own_BU = score_function(yesterday.model)(Ragged.of([yesterday.vocabulary.encode(["i3", "i4"]), []]))
    np.testing.assert_array_equal(scores_BV[:, 2:], own_BU[:, ::-1])
    assert (scores_BV[:, :2] == LOWEST).all()


def test_on_the_same_data_it_is_the_same_evaluation(yesterday: Bundle) -> None:
    data = yesterday.prepared_data()
    grown = evaluate_grown(yesterday, data, yesterday.config)
    assert grown.metrics == evaluate_bundle(yesterday, data).metrics


def test_only_what_has_grown_from_its_data_is_compared(yesterday: Bundle, tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(NEW, 80), NEW)
    today = counting_bundle(tmp_path / "today", data, name="markov")
    assert not has_grown(yesterday, data)
    with pytest.raises(InputError, match="or where the second has grown from the first"):
        compare_bundles(yesterday, today, metrics=["ndcg@10"])
    grown = replace(
        data, manifest={**data.manifest, "grown_from": [yesterday.manifest["data"]["content_digest"]]}
    )
    assert has_grown(yesterday, grown)
    final = replace(yesterday, manifest={**yesterday.manifest, "trained_on": "all"})
    with pytest.raises(InputError, match="was fitted to all events"):
        evaluate_grown(final, grown, today.config)
