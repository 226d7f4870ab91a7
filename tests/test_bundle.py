from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from recsys.bundle import Bundle, _read_config, save_bundle
from recsys.dataset import PreparedData
from recsys.encoding import encode_histories
from recsys.environment import TrainingRecord, environment
from recsys.errors import InputError
from recsys.models import fit_counting
from recsys.models.protocol import CountingModel, Encoder
from recsys.sequences import Ragged
from tests.worlds import PUBLISHED, counting_bundle, encoder_bundle, experiment, prepared, ring, small_encoder

N_ITEMS = 40
COUNTING = [
    {"name": "popularity"},
    {"name": "recent_popularity"},
    {"name": "markov"},
    {"name": "item_knn", "history": "all"},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepared(tmp_path_factory.mktemp("bundle") / "data", ring(N_ITEMS, 30), N_ITEMS)


def test_an_encoder_comes_back_equal(tmp_path: Path, data: PreparedData) -> None:
    _, original = small_encoder(N_ITEMS)
    bundle = encoder_bundle(tmp_path / "bundle", data)
    assert isinstance(original, Encoder) and isinstance(bundle.model, Encoder)
    assert torch.equal(original.item_table(), bundle.model.item_table())
    histories = data.sequences.take([0, 1, 2])
    assert np.array_equal(encode_histories(original, histories), encode_histories(bundle.model, histories))
    assert bundle.vocabulary.hash == data.vocabulary.hash
    assert bundle.config == experiment(name="bert4rec", dim=16, layers=1, heads=2, max_length=21, **PUBLISHED)
    manifest = bundle.manifest
    assert (manifest["best_epoch"], manifest["trained_on"]) == (3, "training")
    assert manifest["metrics"] == {"ndcg@10": 0.5}
    assert manifest["data"]["content_digest"] == data.digest
    assert bundle.prepared_data().digest == data.digest


@pytest.mark.parametrize("model", COUNTING, ids=lambda model: str(model["name"]))
def test_a_counting_model_comes_back_equal(tmp_path: Path, data: PreparedData, model: dict[str, str]) -> None:
    bundle = counting_bundle(tmp_path / "bundle", data, **model)
    fitted = fit_counting(bundle.config.model, data.training(), data.training_times(), N_ITEMS)
    assert isinstance(bundle.model, CountingModel)
    assert np.array_equal(bundle.model.prior, fitted.prior)
    before, after = fitted.scores(data.sequences), bundle.model.scores(data.sequences)
    assert np.array_equal(before.toarray(), after.toarray())


def test_recent_counts_are_of_the_last_week_that_was_trained_on(tmp_path: Path, data: PreparedData) -> None:
    config, model = small_encoder(N_ITEMS)
    parts: list[tuple[Literal["training", "all"], Ragged, NDArray[np.int64] | None]] = [
        ("training", data.training(), data.training_times()),
        ("all", data.sequences, data.times),
    ]
    for trained_on, events, times in parts:
        assert times is not None
        folder = tmp_path / trained_on
        save_bundle(
            folder, config=config, model=model, data=data, metrics={}, trained_on=trained_on, best_epoch=1
        )
        items = Bundle.load(folder).items
        late = events.values[times > times.max() - 7 * 86_400_000_000]
        assert 0 < len(late) < len(events.values)
        assert items["recent"].to_pylist() == np.bincount(late, minlength=N_ITEMS + 1)[1:].tolist()
        assert sum(items["count"].to_pylist()) == len(events.values)


def test_without_times_recent_is_the_count(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 10), N_ITEMS, timed=False)
    items = encoder_bundle(tmp_path / "bundle", data).items
    assert items["recent"].to_pylist() == items["count"].to_pylist()


def test_the_version_is_of_the_content_alone(tmp_path: Path, data: PreparedData) -> None:
    one = encoder_bundle(tmp_path / "one", data)
    two = encoder_bundle(tmp_path / "elsewhere" / "two", data)
    assert one.model_version == two.model_version
    config, other = small_encoder(N_ITEMS, seed=1)
    save_bundle(
        one.folder, config=config, model=other, data=data, metrics={}, trained_on="training", best_epoch=1
    )
    assert Bundle.load(one.folder).model_version != two.model_version, "an older bundle is replaced"


@pytest.mark.parametrize("name", ["weights.safetensors", "items.parquet", "config.yaml"])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, data: PreparedData, name: str) -> None:
    folder = encoder_bundle(tmp_path / "bundle", data).folder
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} has SHA-256 .* changed or damaged .* copy the bundle anew"):
        Bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}; the bundle is incomplete"):
        Bundle.load(folder)


def test_weights_of_other_items_are_refused(tmp_path: Path, data: PreparedData) -> None:
    more = prepared(tmp_path / "more", ring(N_ITEMS + 1, 30), N_ITEMS + 1)
    markov = partial(counting_bundle, name="markov")
    for kind, make in (("encoder", encoder_bundle), ("markov", markov)):
        folder = make(tmp_path / kind, data).folder
        other = make(tmp_path / f"{kind}-more", more).folder
        shutil.copy(other / "weights.safetensors", folder)
        manifest, others = (json.loads((each / "manifest.json").read_text()) for each in (folder, other))
        manifest["files"]["weights.safetensors"] = others["files"]["weights.safetensors"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=f"do not fit the configuration and the {N_ITEMS} items"):
            Bundle.load(folder)


def test_what_is_no_bundle_is_refused(tmp_path: Path, data: PreparedData) -> None:
    with pytest.raises(InputError, match=r"has no manifest.json; expected a bundle"):
        Bundle.load(tmp_path)
    with pytest.raises(InputError, match="is no bundle but something else"):
        Bundle.load(data.path)
    config, model = small_encoder(N_ITEMS)
    with pytest.raises(InputError, match="exists and is not a bundle"):
        save_bundle(
            data.path, config=config, model=model, data=data, metrics={}, trained_on="training", best_epoch=1
        )
    assert PreparedData.load(data.path).digest == data.digest


def test_a_half_written_bundle_never_shows(
    tmp_path: Path, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, model = small_encoder(N_ITEMS)

    def full_disk(*_: object) -> None:
        assert any(path.name == "weights.safetensors" for path in tmp_path.rglob("*")), "it was under way"
        raise OSError("no space left on device")

    monkeypatch.setattr("recsys.bundle.pq.write_table", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_bundle(
            tmp_path / "b", config=config, model=model, data=data, metrics={}, trained_on="all", best_epoch=1
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_tells_how_it_was_trained(tmp_path: Path, data: PreparedData) -> None:
    config, model = small_encoder(N_ITEMS)
    training = TrainingRecord(
        environment=environment(), started_at=datetime(2026, 3, 1, 12, 30, tzinfo=UTC), seconds=61.5
    )
    save_bundle(
        tmp_path / "bundle",
        config=config,
        model=model,
        data=data,
        metrics={},
        trained_on="training",
        best_epoch=1,
        training=training,
    )
    assert Bundle.load(tmp_path / "bundle").training == training
    assert (
        Bundle.load(tmp_path / "bundle").model_version == encoder_bundle(tmp_path / "b", data).model_version
    )


def test_an_older_bundle_without_the_record_of_its_training_is_read(
    tmp_path: Path, data: PreparedData
) -> None:
    folder = encoder_bundle(tmp_path / "bundle", data).folder
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["training"]
    file.write_text(json.dumps(manifest))
    assert Bundle.load(folder).training is None
    file.write_text(json.dumps(manifest | {"training": {"environment": {}, "started_at": "then"}}))
    with pytest.raises(
        InputError, match=r"manifest.json: `training.environment.command` cannot be read .*anew"
    ):
        _ = Bundle.load(folder).training


def test_data_that_was_prepared_anew_is_refused(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ring(N_ITEMS, 10), N_ITEMS)
    bundle = encoder_bundle(tmp_path / "bundle", data)
    shutil.rmtree(data.path)
    prepared(tmp_path / "data", ring(N_ITEMS, 11), N_ITEMS)
    with pytest.raises(InputError, match="prepared anew since; train again, or name the data set to use"):
        bundle.prepared_data()
    assert len(bundle.prepared_data(tmp_path / "data").sequences) == 11
    prepared(tmp_path / "other", ring(N_ITEMS + 1, 10), N_ITEMS + 1)
    with pytest.raises(InputError, match=f"the {N_ITEMS + 1} items of .* are not the {N_ITEMS} of"):
        bundle.prepared_data(tmp_path / "other")


def test_a_bundle_from_before_the_forms_could_be_chosen_is_of_the_published_one(tmp_path: Path) -> None:
    config = experiment(name="bert4rec", dim=16, layers=1, heads=2, max_length=21, **PUBLISHED)
    record = config.to_record()
    later = ("norm", "feed_forward", "scoring", "temperature", "next_item_prob", "read")
    record["model"] = {key: value for key, value in record["model"].items() if key not in later}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(record))
    assert _read_config(file).model == config.model
