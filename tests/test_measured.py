"""Which data a model that reads text has seen something of, and which are another catalogue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.bundle import Bundle, save_bundle
from recsys.errors import InputError
from recsys.evaluation import evaluate_bundle
from recsys.recformer_fit import make_recformer
from recsys.vocabulary import Vocabulary
from tests.test_recformer import experiment
from tests.text_world import song_table, walks, write_songs


def test_a_catalogue_is_known_by_its_ids_and_texts(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", walks(40))
    model = make_recformer(experiment().model, songs.items)[0].eval()  # type: ignore[arg-type]
    folder = save_bundle(
        tmp_path / "bundle", config=experiment(), model=model, data=songs, metrics={}, trained_on="training",
        best_epoch=1,
    )  # fmt: skip
    bundle = Bundle.load(folder)
    other = write_songs(tmp_path / "data", walks(30, seed=5))
    few = replace(other, vocabulary=Vocabulary(other.vocabulary.ids[:40]), items=other.items[:40])
    bare = replace(other, items=other.items.select(["index", "id", "count"]))
    for same in (few, bare):
        with pytest.raises(InputError, match=r"was trained on .* and may have seen the targets"):
            evaluate_bundle(bundle, same)
    columns = {name: np.roll(np.asarray(column), 11) for name, column in song_table().items()}
    items = pa.table({**{name: other.items[name] for name in ("index", "id", "count")}, **columns})
    by_accident = replace(other, items=items)  # other songs under the very ids
    final = replace(bundle, manifest={**bundle.manifest, "trained_on": "all"})
    found = evaluate_bundle(final, by_accident)
    assert found.zero_shot is not None and found.users == len(other.targets("test").rows)
    assert "48 of its 48 items have the id of an item of the bundle, but of 48 " in found.zero_shot
    with pytest.raises(InputError, match="fitted on all events"):
        evaluate_bundle(final, songs)
