"""A training's record in real MLflow."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys import tracking
from recsys.bundle import Bundle
from recsys.config import shown_uri
from recsys.errors import InputError
from recsys.mlflow_session import metric_key, metric_name, mlflow_session
from recsys.plots import plot_curves
from recsys.tracking import TrackedRun, flat_parameters, track_run
from tests.mlflow_world import (
    DIGEST,
    NAME,
    bundle,
    configured,
    prepared,
    run_python,
)

# Names, passwords, pictures.


@pytest.mark.parametrize("name", ["ndcg@10", "test_hr@5", "loss", "recall@100", "spread_at_home"])
def test_metric_names_survive_the_round_trip(name: str) -> None:
    assert "@" not in metric_key(name)
    assert metric_name(metric_key(name)) == name


def test_passwords_are_neither_shown_nor_recorded() -> None:
    secret = "postgresql+psycopg2://ann:hunter2@db.example.com:5432/mlflow"
    assert shown_uri(secret) == "postgresql+psycopg2://ann:***@db.example.com:5432/mlflow"
    assert shown_uri("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
    assert "hunter2" not in json.dumps(flat_parameters(configured(secret)))


def test_parameters_are_every_leaf_of_the_configuration() -> None:
    parameters = flat_parameters(configured("sqlite:///mlflow.db", "bert4rec", training={"epochs": 7}))
    assert parameters["training.epochs"] == "7"
    assert parameters["model.name"] == "bert4rec"
    assert parameters["clean.min_rating"] == "null"
    assert parameters["data.columns.rating"] == "null"
    assert parameters["index.recall"] == "0.99"


def test_two_processes_may_make_one_database(tmp_path: Path) -> None:
    code = (
        "from recsys.mlflow_session import mlflow_session\n"
        f"with mlflow_session('sqlite:///{tmp_path}/mlflow.db', create=True) as client:\n"
        "    print(len(client.search_experiments()))"
    )
    with ThreadPoolExecutor(2) as both:
        assert list(both.map(run_python, [code, code])) == ["1\n", "1\n"]


def test_curves_have_one_panel_for_each_recorded_quantity(tmp_path: Path) -> None:
    from matplotlib.image import imread

    both = [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0, "ndcg@10": 0.1}]
    two = imread(plot_curves(both, tmp_path / "two.png"))
    one = imread(plot_curves(both[:1], tmp_path / "one.png"))
    assert two.shape[0] == 2 * one.shape[0]
    assert one.std() > 0.01
    with pytest.raises(ValueError, match="none of 1 epochs holds `loss` or `ndcg@10`"):
        plot_curves([{"epoch": 1}], tmp_path / "none.png")


# Recording a run.


def test_a_run_records_all_that_explains_it(tracking_uri: str) -> None:
    config = configured(tracking_uri, "bert4rec", tracking={"uri": tracking_uri, "experiment": "trials"})
    with track_run(config, prepared().manifest, run_name="first try") as run:
        for epoch in (1, 2):
            run.log_epoch(epoch, {"loss": 3.0 / epoch, "ndcg@10": 0.1 * epoch})
        run.log_curves([{"epoch": 1, "loss": 3.0}])
        run.log_metrics({"test_ndcg@10": 0.15})
    with mlflow_session(tracking_uri) as client:
        found = client.get_run(run.run_id)
        history = client.get_metric_history(run.run_id, "ndcg_at_10")
        files = {file.path for file in client.list_artifacts(run.run_id)}
        experiment = client.get_experiment(found.info.experiment_id)
    assert (found.info.status, found.info.run_name, experiment.name) == ("FINISHED", "first try", "trials")
    assert found.data.params["model.dim"] == "64"
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2)]
    assert found.data.metrics["test_ndcg_at_10"] == 0.15
    assert files == {"config.yaml", "curves.png", "environment.json"}
    assert found.inputs is not None
    [data] = [each.dataset for each in found.inputs.dataset_inputs]
    assert (data.name, data.digest) == (NAME, DIGEST[:36])
    assert json.loads(data.profile or "") == {"items": 6, "events": 12}
    assert found.data.tags["python"] == sys.version.split()[0]


def test_a_resumed_run_is_the_same_run_without_doubled_points(tracking_uri: str) -> None:
    config = configured(tracking_uri)
    with pytest.raises(RuntimeError, match="power cut"), track_run(config, prepared().manifest) as run:
        run.log_epoch(1, {"loss": 3.0})
        run.log_epoch(2, {"loss": 2.0})
        raise RuntimeError("power cut")
    with mlflow_session(tracking_uri) as client:
        assert client.get_run(run.run_id).info.status == "FAILED"
    with track_run(config, prepared().manifest, run_id=run.run_id) as resumed:
        with mlflow_session(tracking_uri) as client:
            assert client.get_run(run.run_id).info.status == "RUNNING"
        resumed.log_epoch(2, {"loss": 2.0})
        resumed.log_epoch(3, {"loss": 1.0})
    with mlflow_session(tracking_uri) as client:
        assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == [1, 2, 3]
        assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_name_that_the_registry_refuses_is_refused_before_training(tracking_uri: str) -> None:
    config = configured(tracking_uri, tracking={"uri": tracking_uri, "registered_model": "shop/main"})
    message = "a registered model cannot be called `shop/main`: it has /; set tracking.registered_model"
    with pytest.raises(InputError, match=message), track_run(config, prepared().manifest):
        pass


def test_an_interrupted_run_is_marked_so(tracking_uri: str) -> None:
    with pytest.raises(KeyboardInterrupt), track_run(configured(tracking_uri), prepared().manifest) as run:
        raise KeyboardInterrupt
    with mlflow_session(tracking_uri) as client:
        assert client.get_run(run.run_id).info.status == "KILLED"


def test_resuming_an_unknown_run_is_an_error(tracking_uri: str) -> None:
    with (
        pytest.raises(
            InputError, match=r"there is no run 00ff at sqlite.* to resume; give the tracking\.uri"
        ),
        track_run(configured(tracking_uri), prepared().manifest, run_id="00ff"),
    ):
        pass


def test_what_could_not_be_sent_is_sent_later(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    database = Path(tracking_uri.removeprefix("sqlite:///"))
    with track_run(configured(tracking_uri), prepared().manifest) as run:
        away = database.rename(database.with_suffix(".away"))
        with pytest.warns(
            UserWarning, match="the training goes on, its record waits: there is no tracking"
        ) as told:
            run.log_epoch(1, {"loss": 3.0})
            run.log_epoch(2, {"loss": 2.0})
        assert len(told) == 1
        away.rename(database)
        run.log_epoch(3, {"loss": 1.0})
        assert run.problem is None
    with mlflow_session(tracking_uri) as client:
        assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == [1, 2, 3]


def lost(uri: str, run: TrackedRun) -> None:
    Path(uri.removeprefix("sqlite:///")).unlink()
    with pytest.warns(UserWarning, match="its record waits"):
        run.log_epoch(1, {"loss": 3.0})


def test_a_lost_record_is_reported_at_the_end_and_the_bundle_stays(tracking_uri: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    message = r"the bundle is complete in .*bundle, but recording it failed: there is no .*`recsys promote "
    with (
        pytest.raises(InputError, match=message),
        track_run(configured(tracking_uri), prepared().manifest) as run,
    ):
        lost(tracking_uri, run)
        run.log_bundle(folder)
    assert Bundle.load(folder).config.name == NAME


def test_lost_metrics_are_reported_at_the_end(tracking_uri: str) -> None:
    with (
        pytest.raises(InputError, match="the training is done, but part of its record was not sent"),
        track_run(configured(tracking_uri), prepared().manifest) as run,
    ):
        lost(tracking_uri, run)


# Other processes.


def test_a_telemetry_setting_of_the_user_stays(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    with mlflow_session(tracking_uri):
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_mlflow_is_imported_late_and_does_not_call_home(tracking_uri: str) -> None:
    code = f"""
import sys, recsys.tracking, recsys.registry
assert not {{"mlflow", "matplotlib", "pandas", "polars", "pytorch_lightning"}} & sys.modules.keys()
from recsys.mlflow_session import mlflow_session
with mlflow_session("{tracking_uri}") as client:
    import mlflow
    from mlflow.telemetry.utils import is_telemetry_disabled
    assert mlflow.get_tracking_uri() == "{tracking_uri}"
assert mlflow.get_tracking_uri() != "{tracking_uri}"
import os
print(is_telemetry_disabled(), os.environ["MLFLOW_DISABLE_TELEMETRY"])
"""
    assert run_python(code) == "True true\n"
