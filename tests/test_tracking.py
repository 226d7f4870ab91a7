"""Tracking and registry against real MLflow: SQLite files, and one real `mlflow server`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys import mlflow_session as session_module
from recsys import tracking
from recsys.bundle import Bundle, save_bundle
from recsys.config import ExperimentConfig, build_config
from recsys.dataset import PreparedData
from recsys.errors import InputError
from recsys.mlflow_session import metric_key, metric_name, mlflow_session, shown_uri
from recsys.models import fit_counting
from recsys.plots import plot_curves
from recsys.registry import promote, resolve_bundle, rollback
from recsys.sequences import Ragged
from recsys.tracking import TrackedRun, flat_parameters, track_run
from recsys.vocabulary import vocabulary_of

DIGEST = "0123456789abcdef" * 4
NAME = "tiny world"


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database: MLflow takes seconds to make one, so tests copy this one."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with mlflow_session(f"sqlite:///{file}", create=True) as client:
        client.search_experiments()
    return file


@pytest.fixture
def uri(fresh_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a folder" / "mlflow.db"
    file.parent.mkdir()
    shutil.copy(fresh_database, file)
    return f"sqlite:///{file}"


def prepared(digest: str = DIGEST) -> PreparedData:
    ids = [f"item-{i}" for i in range(1, 7)]
    items = pa.table({"index": pa.array(range(1, 7), pa.int32()), "id": ids, "count": pa.array([1] * 6)})
    marks = [np.full(3, mark, np.int32) for mark in (2, 2, 3)]
    rows = Ragged.of([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]])
    manifest = {"name": NAME, "content_digest": digest, "counts": {"items": 6, "events": 12}}
    path = Path("prepared/tiny")
    return PreparedData(path, manifest, vocabulary_of(ids), items, pa.array(list("abc")), rows, None, *marks)


def configured(uri: str, model: str = "markov", **more: object) -> ExperimentConfig:
    tree = {"name": NAME, "data": {"path": "log.csv"}, "model": model, "tracking": {"uri": uri}} | more
    return build_config(tree, where="the test")


def bundle(
    folder: Path, model: str = "markov", metrics: dict[str, float] | None = None, digest: str = DIGEST
) -> Path:
    data, config = prepared(digest), configured("sqlite:///mlflow.db", model)
    fitted = fit_counting(config.model, data.training(), None, 6)
    return save_bundle(
        folder,
        config=config,
        model=fitted,
        data=data,
        metrics=metrics or {},
        trained_on="training",
        best_epoch=None,
    )


def logged(uri: str, folder: Path) -> tuple[str, str]:
    """Run id and version of a run that recorded this bundle."""
    with track_run(configured(uri), prepared().manifest) as run:
        version = run.log_bundle(folder)
    return run.run_id, version


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


def test_a_run_records_all_that_explains_it(uri: str) -> None:
    config = configured(uri, "bert4rec", tracking={"uri": uri, "experiment": "trials"})
    with track_run(config, prepared().manifest, run_name="first try") as run:
        for epoch in (1, 2):
            run.log_epoch(epoch, {"loss": 3.0 / epoch, "ndcg@10": 0.1 * epoch})
        run.log_curves([{"epoch": 1, "loss": 3.0}])
        run.log_metrics({"test_ndcg@10": 0.15})
    with mlflow_session(uri) as client:
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


def test_a_resumed_run_is_the_same_run_without_doubled_points(uri: str) -> None:
    config = configured(uri)
    with pytest.raises(RuntimeError, match="power cut"), track_run(config, prepared().manifest) as run:
        run.log_epoch(1, {"loss": 3.0})
        run.log_epoch(2, {"loss": 2.0})
        raise RuntimeError("power cut")
    with mlflow_session(uri) as client:
        assert client.get_run(run.run_id).info.status == "FAILED"
    with track_run(config, prepared().manifest, run_id=run.run_id) as resumed:
        with mlflow_session(uri) as client:
            assert client.get_run(run.run_id).info.status == "RUNNING"
        resumed.log_epoch(2, {"loss": 2.0})
        resumed.log_epoch(3, {"loss": 1.0})
    with mlflow_session(uri) as client:
        assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == [1, 2, 3]
        assert client.get_run(run.run_id).info.status == "FINISHED"


def test_an_interrupted_run_is_marked_so(uri: str) -> None:
    with pytest.raises(KeyboardInterrupt), track_run(configured(uri), prepared().manifest) as run:
        raise KeyboardInterrupt
    with mlflow_session(uri) as client:
        assert client.get_run(run.run_id).info.status == "KILLED"


def test_resuming_an_unknown_run_is_an_error(uri: str) -> None:
    with (
        pytest.raises(
            InputError, match=r"there is no run 00ff at sqlite.* to resume; give the tracking\.uri"
        ),
        track_run(configured(uri), prepared().manifest, run_id="00ff"),
    ):
        pass


def test_what_could_not_be_sent_is_sent_later(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    database = Path(uri.removeprefix("sqlite:///"))
    with track_run(configured(uri), prepared().manifest) as run:
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
    with mlflow_session(uri) as client:
        assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == [1, 2, 3]


def lost(uri: str, run: TrackedRun) -> None:
    Path(uri.removeprefix("sqlite:///")).unlink()
    with pytest.warns(UserWarning, match="its record waits"):
        run.log_epoch(1, {"loss": 3.0})


def test_a_lost_record_is_reported_at_the_end_and_the_bundle_stays(uri: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    message = r"the bundle is complete in .*bundle, but recording it failed: there is no .*`recsys promote "
    with pytest.raises(InputError, match=message), track_run(configured(uri), prepared().manifest) as run:
        lost(uri, run)
        run.log_bundle(folder)
    assert Bundle.load(folder).config.name == NAME


def test_lost_metrics_are_reported_at_the_end(uri: str) -> None:
    with (
        pytest.raises(InputError, match="the training is done, but part of its record was not sent"),
        track_run(configured(uri), prepared().manifest) as run,
    ):
        lost(uri, run)


# Finding bundles.


def test_a_folder_is_itself_or_no_bundle(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    assert resolve_bundle(str(folder), "sqlite:///nowhere.db") == folder
    with pytest.raises(InputError, match=r"has no manifest\.json; expected the folder of a bundle"):
        resolve_bundle(str(tmp_path), "sqlite:///nowhere.db")
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "kind": "prepared"}')
    with pytest.raises(InputError, match="manifest of kind 'prepared'; expected the folder of a bundle"):
        resolve_bundle(str(tmp_path), "sqlite:///nowhere.db")


def test_a_recorded_bundle_comes_back_whole_and_the_second_time_from_the_cache(
    uri: str, tmp_path: Path
) -> None:
    folder = bundle(tmp_path / "bundle")
    run_id, version = logged(uri, folder)
    fetched = resolve_bundle(f"runs:/{run_id}/bundle", uri)
    assert Bundle.load(fetched).manifest == Bundle.load(folder).manifest
    assert fetched.is_relative_to(tmp_path / "cache")
    shutil.rmtree(tmp_path / "a folder" / "mlruns")
    assert resolve_bundle(f"models:/{NAME}/{version}", uri) == fetched


def test_unknown_names_say_what_there_is(uri: str, tmp_path: Path) -> None:
    run_id, _ = logged(uri, bundle(tmp_path / "bundle"))
    unknown = {
        "models:/other@champion": f"there is no models:/other@champion at .*; registered: {NAME};",
        f"models:/{NAME}@champion": f"there is no models:/{NAME}@champion at .*`recsys promote BUNDLE`",
        f"models:/{NAME}/9": f"there is no models:/{NAME}/9",
        f"models:/{NAME}": "names no model; expected models:/NAME@ALIAS or models:/NAME/VERSION",
        "runs:/00ff/bundle": "there is no run `00ff` at .*expected runs:/RUN_ID/bundle",
        f"runs:/{run_id}/else": f"run {run_id} at .* has no `else`",
    }
    for address, message in unknown.items():
        with pytest.raises(InputError, match=message):
            resolve_bundle(address, uri)


def test_an_absent_server_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session_module, "CONNECT_SECONDS", 0.5)
    started = time.monotonic()
    with socket.socket() as silent:  # accepts connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(
            InputError, match=f"no tracking server answers at http://127.0.0.1:{port} .*timed out"
        ):
            resolve_bundle("models:/m@champion", f"http://127.0.0.1:{port}")
    for scheme in ("http", "postgresql"):
        with pytest.raises(
            InputError, match=r"no tracking server answers .*refused.*start it \(`mlflow server`\)"
        ):
            resolve_bundle("models:/m@champion", f"{scheme}://127.0.0.1:{port}")
    assert time.monotonic() - started < 5


def test_tracking_uris_that_cannot_work_say_why(tmp_path: Path) -> None:
    for folder in ("./mlruns", "file:./mlruns"):
        with pytest.raises(
            InputError, match="is a folder, and MLflow 3 records nothing in plain files; expected"
        ):
            resolve_bundle("models:/m@champion", folder)
    with pytest.raises(
        InputError, match=r"there is no tracking database .*none\.db; `recsys train` makes one"
    ):
        resolve_bundle("models:/m@champion", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(InputError, match=r"cannot be made: .* is missing or not writable"):
        promote(
            str(bundle(tmp_path / "b")), model_name="m", tracking_uri=f"sqlite:///{tmp_path}/no/mlflow.db"
        )
    (tmp_path / "text.db").write_text("not a database at all")
    with pytest.raises(
        InputError, match=r"text\.db is not an SQLite database; give tracking\.uri another file"
    ):
        resolve_bundle("models:/m@champion", f"sqlite:///{tmp_path}/text.db")


# The champion.


def champion(uri: str) -> str:
    return str(Bundle.load(resolve_bundle(f"models:/{NAME}@champion", uri)).manifest["model"])


def test_promote_registers_compares_and_rolls_back(uri: str, tmp_path: Path) -> None:
    to = {"model_name": NAME, "tracking_uri": uri, "if_better": "ndcg@10"}
    poor = bundle(tmp_path / "poor", "popularity", {"test_ndcg@10": 0.05, "ndcg@10": 0.9})
    good = bundle(tmp_path / "good", "markov", {"test_ndcg@10": 0.08, "ndcg@10": 0.1})
    run_id, _ = logged(uri, good)

    first = promote(str(poor), **to)  # a folder that no run recorded: version 2, the run's is version 1
    assert (first.version, first.moved, first.message) == (
        "2",
        True,
        f"version 2 is the first champion of {NAME}",
    )
    with pytest.raises(InputError, match=f"{NAME} at .* has no previous champion to go back to"):
        rollback(NAME, uri)

    better = promote(f"runs:/{run_id}/bundle", **to)
    assert (better.version, better.previous, better.moved) == ("1", "2", True)
    assert "replaces champion 2: ndcg@10 0.08 is better than 0.05" in better.message
    assert champion(uri) == "markov"

    kept = promote(f"models:/{NAME}/2", **to)
    assert (kept.version, kept.moved) == ("1", False)
    assert (
        kept.message
        == f"kept champion version 1 of {NAME}: ndcg@10 0.05 of version 2 is not better than its 0.08"
    )
    again = promote(str(good), **to)
    assert (again.moved, "the champion already" in again.message) == (False, True)

    back = rollback(NAME, uri)
    assert (back.version, back.previous, champion(uri)) == ("2", "1", "popularity")
    assert (rollback(NAME, uri).version, champion(uri)) == ("1", "markov")
    assert promote(str(poor), model_name=NAME, tracking_uri=uri).moved  # asked without a comparison
    assert champion(uri) == "popularity"


def test_equal_is_not_better(uri: str, tmp_path: Path) -> None:
    for model in ("popularity", "markov"):
        folder = bundle(tmp_path / model, model, {"test_hr@10": 0.2})
        result = promote(str(folder), model_name=NAME, tracking_uri=uri, if_better="hr@10")
    assert (result.version, result.moved) == ("1", False)


def test_what_cannot_be_compared_is_refused(uri: str, tmp_path: Path) -> None:
    to = {"model_name": NAME, "tracking_uri": uri, "if_better": "ndcg@10"}
    promote(str(bundle(tmp_path / "one", "popularity", {"test_ndcg@10": 0.05})), **to)
    with pytest.raises(
        InputError, match=r"version 2 was measured on data ffff.* on 0123456789ab: ndcg@10 compares"
    ):
        promote(str(bundle(tmp_path / "two", "markov", {"test_ndcg@10": 0.08}, digest="f" * 64)), **to)
    with pytest.raises(
        InputError, match=r"version 3 of .* has no metric ndcg@10 \(it has test_hr@10\); name one"
    ):
        promote(str(bundle(tmp_path / "three", "item_knn", {"test_hr@10": 0.2})), **to)
    assert champion(uri) == "popularity"


# Other processes.


def run_python(code: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_telemetry_setting_of_the_user_stays(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    with mlflow_session(uri):
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_mlflow_is_imported_late_and_does_not_call_home(fresh_database: Path) -> None:
    code = f"""
import sys, recsys.tracking, recsys.registry
assert not {{"mlflow", "matplotlib", "pandas", "polars", "pytorch_lightning"}} & sys.modules.keys()
from recsys.mlflow_session import mlflow_session
with mlflow_session("sqlite:///{fresh_database}") as client:
    import mlflow
    from mlflow.telemetry.utils import is_telemetry_disabled
    assert mlflow.get_tracking_uri() == "sqlite:///{fresh_database}"
assert mlflow.get_tracking_uri() != "sqlite:///{fresh_database}"
import os
print(is_telemetry_disabled(), os.environ["MLFLOW_DISABLE_TELEMETRY"])
"""
    assert run_python(code) == "True true\n"


@pytest.fixture
def server(fresh_database: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    shutil.copy(fresh_database, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"-m mlflow server --host 127.0.0.1 --port {port} --workers 1 --backend-store-uri".split()
    stores = [f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "artifacts")]
    # The job runner is three more processes that nothing here needs.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = os.environ | settings | {"OMP_NUM_THREADS": "1"}
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, *stores], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (
                tmp_path / "server.log"
            ).read_text()
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address, process
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_against_a_real_server(
    server: tuple[str, subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, process = server
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / "cache"))
    first = bundle(tmp_path / "first", "popularity", {"test_ndcg@10": 0.05})
    with track_run(configured(address), prepared().manifest) as run:
        run.log_epoch(1, {"loss": 3.0, "ndcg@10": 0.1})
        run.log_curves([{"epoch": 1, "loss": 3.0}])
        version = run.log_bundle(first)
    fetched = resolve_bundle(f"runs:/{run.run_id}/bundle", address)
    assert Bundle.load(fetched).manifest == Bundle.load(first).manifest
    assert resolve_bundle(f"models:/{NAME}/{version}", address) == fetched
    with pytest.raises(InputError, match=f"there is no models:/{NAME}@champion at {address}"):
        resolve_bundle(f"models:/{NAME}@champion", address)
    with pytest.raises(InputError, match="there is no run `00ff`"):
        resolve_bundle("runs:/00ff/bundle", address)

    assert promote(f"runs:/{run.run_id}/bundle", model_name=NAME, tracking_uri=address).version == "1"
    second = bundle(tmp_path / "second", "markov", {"test_ndcg@10": 0.08})
    better = promote(str(second), model_name=NAME, tracking_uri=address, if_better="ndcg@10")
    assert (better.version, better.previous, better.moved) == ("2", "1", True)
    assert champion(address) == "markov"

    answer = run_python(
        f"""
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{NAME}@champion")
frame = pandas.DataFrame({{"history": [["item-1"], ["item-2", "item-3"]]}}, index=[5, 6])
found = model.predict(frame, params={{"k": 2}})
print(found["items"].to_json(), found["scores"].map(len).tolist())
""",
        MLFLOW_TRACKING_URI=address,
        PYTHONPATH="",
    )
    items, _, lengths = answer.strip().rpartition(" [")
    assert json.loads(items)["5"][0] == "item-2"  # item-1 was followed by item-2
    assert (set(json.loads(items)), lengths) == ({"5", "6"}, "2, 2]")

    assert (rollback(NAME, address).version, champion(address)) == ("1", "popularity")

    process.terminate()
    process.wait(timeout=20)
    started = time.monotonic()
    with pytest.raises(InputError, match=f"no tracking server answers at {address}"):
        resolve_bundle(f"models:/{NAME}@champion", address)
    assert time.monotonic() - started < 10
