from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.index import build_index
from recsys.recommender import Recommender
from recsys.sequences import Ragged
from serving.export import export
from tests.worlds import counting_bundle, encoder_bundle, prepared, ring

N_ITEMS = 60


def with_an_empty_one() -> Ragged:
    sequences = ring(N_ITEMS, 25)
    return Ragged(sequences.values, np.append(sequences.offsets, sequences.offsets[-1]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepared(tmp_path_factory.mktemp("export") / "data", with_an_empty_one(), N_ITEMS, strings=False)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> Recommender:
    bundle = encoder_bundle(tmp_path_factory.mktemp("export") / "bundle", data)
    build_index(bundle, data.sequences, k=20)
    return Recommender.load(bundle.folder, backend="annoy")


def test_every_sequence_gets_what_recommend_gives(
    tmp_path: Path, recommender: Recommender, data: PreparedData
) -> None:
    calls: list[tuple[int, int]] = []
    report = export(
        recommender, data, tmp_path / "recs.parquet", k=9, block=7, progress=lambda *at: calls.append(at)
    )
    assert calls == [(7, 26), (14, 26), (21, 26), (26, 26)]
    assert (report.sequences, report.items, report.fallback) == (26, 26 * 9, 1)
    assert (report.backend, report.trained_on_this) == ("annoy", True)
    table = pq.read_table(report.path)
    kinds = {field.name: field.type for field in table.schema}
    assert kinds == {
        "sequence": pa.string(),
        "items": pa.list_(pa.int64()),
        "scores": pa.list_(pa.float32()),
        "model_version": pa.string(),
        "generated_at": pa.timestamp("us", tz="UTC"),
    }
    assert table["sequence"].to_pylist() == [f"u{row}" for row in range(26)]
    assert set(table["model_version"].to_pylist()) == {recommender.model_version}
    (moment,) = set(table["generated_at"].to_pylist())
    assert timedelta(0) <= datetime.now(UTC) - moment < timedelta(minutes=5)
    for row, line in enumerate(table.to_pylist()):
        answer = recommender.recommend(data.vocabulary.decode(data.sequences[row]), k=9)
        assert line["items"] == [item.id for item in answer.items]
        assert line["scores"] == [item.score for item in answer.items]


def test_chosen_rows_and_short_answers(tmp_path: Path, data: PreparedData) -> None:
    recommender = Recommender.load(counting_bundle(tmp_path / "knn", data, name="item_knn").folder)
    report = export(recommender, data, tmp_path / "recs.parquet", k=1000, rows=[4, 2, 25])
    assert (report.sequences, report.fallback, report.trained_on_this) == (3, 1, True), "u25 has no event"
    lines = pq.read_table(report.path).to_pylist()
    assert [line["sequence"] for line in lines] == ["u4", "u2", "u25"]
    assert [len(line["items"]) for line in lines] == [
        N_ITEMS - len(set(data.sequences[row].tolist())) for row in (4, 2, 25)
    ]
    everything = export(recommender, data, tmp_path / "all.parquet", k=1000, exclude_seen=False)
    assert everything.items == 26 * N_ITEMS
    assert export(recommender, data, tmp_path / "some.parquet", rows=[4, 2]).fallback == 0


def test_new_events_of_known_items_are_welcome_and_other_items_are_not(
    tmp_path: Path, recommender: Recommender
) -> None:
    newer = prepared(tmp_path / "newer", ring(N_ITEMS, 5, seed=1), N_ITEMS, strings=False)
    assert export(recommender, newer, tmp_path / "recs.parquet", k=3).trained_on_this is False
    other = prepared(tmp_path / "other", ring(N_ITEMS, 5), N_ITEMS, strings=True)
    with pytest.raises(InputError, match=f"the {N_ITEMS} items of .*other .* are not the {N_ITEMS} of"):
        export(recommender, other, tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_a_broken_export_leaves_the_former_file(
    tmp_path: Path, recommender: Recommender, data: PreparedData
) -> None:
    out = tmp_path / "recs.parquet"
    export(recommender, data, out, k=2)
    before = out.read_bytes()

    def stop(done: int, _: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(recommender, data, out, k=3, block=5, progress=stop)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_bad_arguments(tmp_path: Path, recommender: Recommender, data: PreparedData) -> None:
    with pytest.raises(InputError, match="k is 0 and block is 1024; expected at least 1"):
        export(recommender, data, tmp_path / "recs.parquet", k=0)
    for out in (tmp_path, tmp_path / "no" / "recs.parquet"):
        with pytest.raises(InputError, match=r"cannot write .*(it is a folder|there is no folder)"):
            export(recommender, data, out)
