"""Every ready experiment trains for a moment, the built-in sample standing in for its data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.prepare import prepare
from data_prep.sample import write_sample
from recsys.bundle import Bundle
from recsys.config import ExperimentConfig, build_config, load_config
from recsys.dataset import PreparedData
from recsys.environment import environment
from recsys.errors import InputError
from recsys.evaluation import evaluate_bundle
from recsys.experiment import train
from recsys.history import read_history
from recsys.mlflow_session import mlflow_session
from recsys.models import ANSWERS_SEEN, COUNTING, ENCODERS
from recsys.quickstart import configuration
from recsys.recommender import Recommender
from recsys.run_state import STATE_FILE

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small sample log."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, users=300, playlists=50)
    return folder


@pytest.fixture
def stand_in(sample: Path, tmp_path: Path, tracking_uri: str) -> dict[str, object]:
    """Sections that point a configuration at the sample and at a folder of this test."""
    return {
        "data": {"path": str(sample), "format": "sample"},
        "prepared": str(tmp_path / "prepared"),
        "output": str(tmp_path / "run"),
        "tracking": {"uri": tracking_uri},
    }


def shortened(config: ExperimentConfig, stand_in: dict[str, object], **training: object) -> ExperimentConfig:
    """The experiment on the sample, for one epoch, without cleaning rules that fit other data."""
    tree = json.loads(config.model_dump_json())
    tree |= {
        **stand_in,
        "clean": {},
        "sessions": "none",
        "expect": {},
        "training": {**tree["training"], "epochs": 1, "threads": 1, **training},
    }
    return build_config(tree, where="the test")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_trains(file: Path, stand_in: dict[str, object]) -> None:
    config = shortened(load_config(file), stand_in)
    prepare(config)
    trained = train(config)
    told = Bundle.load(trained.bundle).training
    assert told is not None
    assert (told.environment, told.seconds) == (environment(), trained.seconds)
    assert Recommender.load(trained.bundle).recommend([], k=3).fallback == "recent popularity"
    data = PreparedData.load(config.prepared_path)
    again = evaluate_bundle(Bundle.load(trained.bundle), data).metrics
    assert {f"test_{name}": value for name, value in again.items()} == pytest.approx(
        {name: value for name, value in trained.metrics.items() if name.startswith("test_")}, abs=1e-6
    )


def test_the_quickstart_is_the_sample_configuration(tmp_path: Path) -> None:
    ready, quick = load_config(ROOT / "configs/sample.yaml"), configuration(tmp_path)
    for section in ("name", "model", "training", "clean", "split", "index"):
        assert getattr(quick, section) == getattr(ready, section)


def test_data_is_named_by_a_path_that_can_be_overridden() -> None:
    folders = set()
    for file in CONFIGS:
        config = load_config(file)
        assert file.stem.startswith(config.name)
        folders.add(config.output_path)
        if config.data.format != "sample":
            assert config.data.path.startswith("data/")
    assert len(folders) == len(CONFIGS)  # no run takes the place of another


@pytest.mark.parametrize("name", [*COUNTING, *ENCODERS])
def test_every_model_goes_the_whole_way(name: str, stand_in: dict[str, object]) -> None:
    config = build_config({"name": "way", **stand_in, "model": name, "training": {"epochs": 1}}, where="test")
    prepare(config)
    lines: list[str] = []
    trained = train(config, say=lines.append)
    recommender = Recommender.load(trained.bundle)
    history = PreparedData.load(config.prepared_path).vocabulary.decode(np.array([1, 2, 3]))
    answer = recommender.recommend(history, k=5, exclude_seen=name not in ANSWERS_SEEN)
    assert len(answer.items) == 5
    assert all(item.title for item in answer.items)
    assert any("version 1 of the registered model way" in line for line in lines)


def test_final_takes_its_epochs_from_validation_and_refuses_to_be_measured(
    stand_in: dict[str, object],
) -> None:
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in, epochs=2, validate_every=1)
    prepare(config)
    with pytest.raises(InputError, match=r"--final takes the number of epochs from .*without --final first"):
        train(config, final=True)
    first = train(config)
    final = train(config, final=True)
    assert final.best_epoch == first.best_epoch
    assert final.metrics == first.metrics
    bundle = Bundle.load(final.bundle)
    data = PreparedData.load(config.prepared_path)
    counts = np.asarray(pq.read_table(final.bundle / "items.parquet")["count"])
    assert counts.sum() == len(data.sequences.values)  # every event, not only the training part
    with pytest.raises(InputError, match="fitted on all events"):
        evaluate_bundle(bundle, data)
    other = build_config({**json.loads(config.model_dump_json()), "training": {"epochs": 5}}, where="test")
    with pytest.raises(InputError, match="other model or training settings"):
        train(other, final=True)


def test_what_cannot_be_trained_leaves_an_earlier_training_alone(stand_in: dict[str, object]) -> None:
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in, epochs=2, validate_every=1)
    prepare(config)
    train(config)
    kept = {file: file.stat().st_mtime_ns for file in (config.output_path / "checkpoints").iterdir()}
    assert kept
    for wrong, message in (
        ({"loss": "gbce", "negatives": 1_000_000}, "gBCE needs fewer negatives"),
        ({"event_weights": {"view": 0.5}}, "needs the types of events"),
    ):
        with pytest.raises(InputError, match=message):
            train(shortened(config, stand_in, epochs=2, validate_every=1, **wrong))
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_a_training_that_diverges_says_so(stand_in: dict[str, object]) -> None:
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in, epochs=2, learning_rate=1e12)
    prepare(config)
    with pytest.raises(InputError, match=r"diverged in epoch 1: .*; set training\.learning_rate"):
        train(config)


def test_training_on_validation_targets_too_ends_at_the_last_epoch_and_says_nothing_of_validation(
    stand_in: dict[str, object],
) -> None:
    fit = "training+validation"
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in, epochs=2, fit=fit)
    prepare(config)
    trained = train(config)
    assert trained.best_epoch == 2
    assert {name.partition("_")[0] for name in trained.metrics} == {"test"}
    data, bundle = PreparedData.load(config.prepared_path), Bundle.load(trained.bundle)
    counts = np.asarray(pq.read_table(trained.bundle / "items.parquet")["count"])
    assert counts.sum() == len(data.training().values) + len(data.targets("valid").rows)
    with pytest.raises(InputError, match=r"fitted on the validation targets too.*--split test"):
        evaluate_bundle(bundle, data, split="valid")
    assert evaluate_bundle(bundle, data).metrics["ndcg@10"] == pytest.approx(trained.metrics["test_ndcg@10"])


def test_resume_continues_the_same_run_and_refuses_another(stand_in: dict[str, object]) -> None:
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in, epochs=2, validate_every=1)
    prepare(config)
    with pytest.raises(InputError, match="holds no training to resume"):
        train(config, resume=True)
    first = train(config)
    again = train(config, resume=True)
    assert (again.run_id, again.model_version) == (first.run_id, first.model_version)
    assert [row["epoch"] for row in read_history(config.output_path)] == [1, 2]
    assert (config.output_path / STATE_FILE).exists()
    with mlflow_session(config.tracking.uri) as client:
        assert len(client.search_model_versions("name = 'sample'")) == 1  # nothing new to register
    other = shortened(config, stand_in, epochs=3, validate_every=1)
    with pytest.raises(InputError, match="started with other model or training settings"):
        train(other, resume=True)


def test_a_new_training_leaves_nothing_of_the_old_one_to_resume(
    stand_in: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in)
    prepare(config)
    train(config)
    other = shortened(config, stand_in, learning_rate=0.05)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recsys.experiment.fit_encoder", killed)
        with pytest.raises(KeyboardInterrupt):
            train(other)
    assert not (config.output_path / "checkpoints").exists()


def test_a_finished_training_does_not_fail_for_its_report(
    stand_in: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in)
    prepare(config)
    lines: list[str] = []
    assert "<html" in (train(config).bundle.parent / "report.html").read_text()

    def broken(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("recsys.experiment.write_report", broken)
    assert train(config, say=lines.append).bundle.is_dir()
    assert any("no report was written: OSError: the disk is full" in line for line in lines)


def test_data_prepared_in_another_way_is_refused(stand_in: dict[str, object]) -> None:
    config = shortened(load_config(ROOT / "configs/sample.yaml"), stand_in)
    prepare(config)
    tree = json.loads(config.model_dump_json())
    other = build_config({**tree, "split": "user_holdout", "clean": {"min_item_count": 9}}, where="test")
    with pytest.raises(
        InputError, match=r"other settings \(clean\.min_item_count was 1, is 9; split\.kind was"
    ):
        train(other)
