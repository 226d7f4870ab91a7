"""A training's record in MLflow: parameters, metrics per epoch, data, environment, curves and the bundle.

    with track_run(config, data.manifest) as run:
        run.log_epoch(1, {"loss": 6.1, "ndcg@10": 0.03})
        run.log_curves(history)
        run.log_metrics({"test_ndcg@10": 0.08})
        version = run.log_bundle(folder)

A server that goes away in the middle does not stop the training: what could not be sent waits, is tried again
with the next epochs, and is reported when the run ends.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recsys.config import ExperimentConfig, shown_uri
from recsys.environment import environment
from recsys.errors import InputError
from recsys.logged_model import bundle_manifest, check_model_name, register_bundle
from recsys.mlflow_session import artifact_folder, experiment_named, find_run, metric_key, mlflow_session
from recsys.plots import plot_curves

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

RETRY_SECONDS = 60.0
"""After a failure the server is left alone for so long, so that its silence cannot slow the training down."""
DIGEST_LENGTH = 36
"""Characters of a data set's digest that MLflow keeps."""


class TrackedRun:
    """One run, open for recording. Made by `track_run`.

    Attributes:
        run_id: MLflow's id; keep it to continue the same run (`track_run(..., run_id=...)`).
        uri: the tracking URI, as the configuration gives it.
        model_name: the registered model that `log_bundle` adds a version to.
        problem: the error that recording met last and has not got over yet, or None.
    """

    def __init__(self, run_id: str, config: ExperimentConfig, recorded: set[tuple[str, int]]) -> None:
        """Take an existing run; `recorded` are (MLflow metric, epoch) pairs that it holds already."""
        self.run_id = run_id
        self.uri = config.tracking.uri
        self.model_name = config.registered_name
        self.problem: InputError | None = None
        self._title = f"{config.name} · {config.model.name}"
        self._recorded = recorded
        self._waiting: deque[Callable[[MlflowClient], None]] = deque()
        self._failed_at = float("-inf")

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of an epoch, as MLflow's step. What a resumed run holds already is not repeated."""
        fresh = {key: x for key, x in metrics.items() if (metric_key(key), epoch) not in self._recorded}
        self._recorded |= {(metric_key(key), epoch) for key in fresh}
        if fresh:
            self._send(_metrics_sender(self.run_id, fresh, epoch))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record final metrics, those of no epoch."""
        self._send(_metrics_sender(self.run_id, metrics, 0))

    def tag(self, **tags: str) -> None:
        """Record tags; one that is there already is replaced."""

        def send(client: MlflowClient) -> None:
            for key, value in tags.items():
                client.set_tag(self.run_id, key, value)

        self._send(send)

    def log_curves(self, history: Sequence[Mapping[str, float]]) -> None:
        """Record `curves.png`; the rows are as `recsys.plots.plot_curves` takes them."""
        rows = [dict(row) for row in history]

        def send(client: MlflowClient) -> None:
            with tempfile.TemporaryDirectory() as folder:
                file = plot_curves(rows, Path(folder) / "curves.png", title=self._title)
                client.log_artifact(self.run_id, str(file))

        self._send(send)

    def log_file(self, file: Path) -> None:
        """Record a file as an artifact."""
        self._send(lambda client: client.log_artifact(self.run_id, str(file)))

    def log_bundle(self, folder: Path) -> str:
        """Record a finished bundle and register it as a new version.

        Returns:
            The version of `model_name`.

        Raises:
            InputError: it could not be recorded; the folder is untouched, and the message says how to go on.
        """
        try:
            self._flush()
            with mlflow_session(self.uri) as client:
                known = self._version_of(client, folder)
                return known or register_bundle(
                    client, folder, model_name=self.model_name, run_id=self.run_id
                )
        except InputError as error:
            self.problem = None  # it is told here, with what is left to do
            self._waiting.clear()
            raise InputError(
                f"the bundle is complete in {folder}, but recording it failed: {error}; "
                f"then `recsys promote {folder}` registers it"
            ) from error

    def _version_of(self, client: MlflowClient, folder: Path) -> str | None:
        """The version that this very run registered for this very content, when it is resumed."""
        content = bundle_manifest(folder)["model_version"]
        for each in client.search_model_versions(f"run_id = '{self.run_id}'"):
            if each.name == self.model_name and each.tags.get("model_version") == content:
                return str(each.version)
        return None

    def _send(self, action: Callable[[MlflowClient], None]) -> None:
        """Do it now if the server answers; else keep it and warn once."""
        self._waiting.append(action)
        if time.monotonic() - self._failed_at < RETRY_SECONDS:
            return
        known = self.problem
        try:
            self._flush()
        except InputError as error:
            if known is None:
                warnings.warn(f"the training goes on, its record waits: {error}", stacklevel=3)

    def _flush(self) -> None:
        if not self._waiting:
            return
        try:
            with mlflow_session(self.uri) as client:
                while self._waiting:
                    self._waiting[0](client)
                    self._waiting.popleft()
        except InputError as error:
            self.problem, self._failed_at = error, time.monotonic()
            raise
        self.problem = None

    def _close(self, status: str) -> None:
        """Send what waits and set the run's final status."""
        self._waiting.append(lambda client: client.set_terminated(self.run_id, status))
        self._flush()


@contextmanager
def track_run(
    config: ExperimentConfig,
    data_manifest: Mapping[str, Any],
    *,
    run_name: str | None = None,
    run_id: str | None = None,
    parent: str | None = None,
) -> Iterator[TrackedRun]:
    """Record a training in MLflow, at `config.tracking`.

    Parameters, the data set, the configuration and the environment are recorded at once; the run ends as
    FINISHED, FAILED or KILLED (interrupted) with the block.

    Args:
        config: the experiment.
        data_manifest: manifest of the prepared data set.
        run_name: shown in MLflow; default: the model's name.
        run_id: continue this run (`--resume`) instead of starting one.
        parent: id of the run that a new one is shown under.

    Raises:
        InputError: at the start, when nothing answers at the tracking URI or there is no such run; at the
            end, when part of the record could not be sent.
    """
    name = run_name or config.model.name
    run = _resume(config, run_id) if run_id else _start(config, data_manifest, name, parent)
    try:
        yield run
    except BaseException as error:
        try:
            run._close("FAILED" if isinstance(error, Exception) else "KILLED")
        except InputError as problem:
            error.add_note(f"the end of the run was not recorded either: {problem}")
        raise
    try:
        run._close("FINISHED")
    except InputError as error:
        raise InputError(
            f"the training is done, but part of its record was not sent (run {run.run_id}): {error}"
        ) from error


def flat_parameters(config: ExperimentConfig) -> dict[str, str]:
    """All settings as `section.key` -> text, without passwords."""

    def flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value if isinstance(value, str) else json.dumps(value)

    return dict(flatten(config.to_record(), ""))


def _start(
    config: ExperimentConfig, data_manifest: Mapping[str, Any], run_name: str, parent: str | None
) -> TrackedRun:
    with mlflow_session(config.tracking.uri, create=True) as client:
        from mlflow.entities import Param

        found = environment()
        tags = {
            "model": config.model.name,
            "data_digest": str(data_manifest["content_digest"]),
            "python": found.python,
            "torch": found.packages.get("torch", ""),
        }
        if found.git_commit:
            tags["mlflow.source.git.commit"] = found.git_commit
        if parent:
            tags["mlflow.parentRunId"] = parent
        files = artifact_folder(config.tracking.uri)
        experiment = experiment_named(client, config.tracking.experiment or config.name, files)
        check_model_name(config.registered_name)
        run = client.create_run(experiment.experiment_id, run_name=run_name, tags=tags)
        run_id = run.info.run_id
        client.log_batch(run_id, params=[Param(key, value) for key, value in flat_parameters(config).items()])
        client.log_inputs(run_id, datasets=[_dataset_input(config, data_manifest)])
        settings = yaml.safe_dump(config.to_record(), sort_keys=False, allow_unicode=True)
        client.log_text(run_id, settings, "config.yaml")
        client.log_text(run_id, found.model_dump_json(indent=2, exclude_none=True), "environment.json")
        return TrackedRun(run_id, config, set())


def _resume(config: ExperimentConfig, run_id: str) -> TrackedRun:
    with mlflow_session(config.tracking.uri) as client:
        run = find_run(client, run_id)
        if run is None:
            raise InputError(
                f"there is no run {run_id} at {shown_uri(config.tracking.uri)} to resume; give the "
                "tracking.uri that the training started with, or start anew without --resume"
            )
        client.update_run(run_id, status="RUNNING")
        points = (point for key in run.data.metrics for point in client.get_metric_history(run_id, key))
        return TrackedRun(run_id, config, {(point.key, point.step) for point in points})


def _dataset_input(config: ExperimentConfig, data_manifest: Mapping[str, Any]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=str(data_manifest.get("name", config.name)),
        digest=str(data_manifest["content_digest"])[:DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": str(config.prepared_path.absolute())}),
        profile=json.dumps(data_manifest.get("counts", {})),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _metrics_sender(run_id: str, metrics: Mapping[str, float], step: int) -> Callable[[MlflowClient], None]:
    now = int(time.time() * 1000)

    def send(client: MlflowClient) -> None:
        from mlflow.entities import Metric

        points = [Metric(metric_key(key), float(value), now, step) for key, value in metrics.items()]
        client.log_batch(run_id, metrics=points)

    return send
