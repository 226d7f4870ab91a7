"""One experiment from prepared data to a finished bundle, recorded in MLflow."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundle import Bundle, save_bundle
from recsys.config import EncoderConfig, ExperimentConfig, RecformerConfig, setting_differences, shown_uri
from recsys.dataset import PreparedData, Split
from recsys.environment import TrainingRecord, environment
from recsys.errors import InputError
from recsys.evaluation import evaluate
from recsys.history import HISTORY_FILE, append_epoch, read_history
from recsys.index import build_index
from recsys.models import ANSWERS_SEEN, COUNTING, SCORES_COLD, fit_counting
from recsys.models.protocol import Model
from recsys.models.recformer import stage_epochs
from recsys.processes import Processes
from recsys.recformer_fit import fit_recformer
from recsys.report import write_report
from recsys.sequences import Ragged
from recsys.text.backbone import resolved
from recsys.tracking import TrackedRun, track_run
from recsys.training import Fitted, OnEpoch, fit_encoder

STATE_FILE = "run.json"
CHECKPOINTS = "checkpoints"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """A finished experiment.

    Attributes:
        bundle: its folder.
        run_id: MLflow's id of the run.
        model_version: of the bundle.
        best_epoch: the epoch that validation chose, from 1; None for a counting model.
        metrics: `valid_ndcg@10`, `test_hr@10` and so on. A final bundle, which has seen every event, carries
            those of the run that chose its epochs.
        seconds: wall time of the training and its validations, without evaluation, index and record.
    """

    bundle: Path
    run_id: str
    model_version: str
    best_epoch: int | None
    metrics: dict[str, float]
    seconds: float


def train(
    config: ExperimentConfig, *, resume: bool = False, final: bool = False, say: Say = lambda line: None
) -> Trained:
    """Train what the configuration says, and leave a bundle in `config.output_path`.

    Args:
        config: the experiment; its data must be prepared.
        resume: continue an interrupted training from its last finished epoch.
        final: fit all events, validation and test included, for as many epochs as validation chose in an
            earlier run of the same configuration: what one deploys. Its folder is `final` below the run's.
        say: called with a line for each stage.

    Raises:
        InputError: the data is not prepared, there is nothing to take the epochs from, or what is there to
            resume was made by another configuration or from other data; or torchrun started several
            processes and this is not the first.
    """
    if Processes.launched().rank > 0:
        raise InputError("only the first process of a training keeps its result; the others call `assist`")
    config = _with_sizes(config)
    data, folder, chosen = _opened(config, final=final)
    state = _State.open(folder, config, data, resume=resume)
    name = f"{config.model.name} (final)" if final else config.model.name
    with track_run(config, data.manifest, run_name=name, run_id=state.run_id) as run:
        state.keep(run.run_id)
        say(f"training {name} on {data.path}; run {run.run_id} at {shown_uri(config.tracking.uri)}")
        started_at, started = datetime.now(UTC), time.perf_counter()
        model, best_epoch = _fit(config, data, folder, run, resume=resume, chosen=chosen, say=say)
        seconds = time.perf_counter() - started
        metrics = chosen.manifest["metrics"] if chosen else _measure(model, data, config.model.name)
        bundle = save_bundle(
            folder / "bundle",
            config=config,
            model=model,
            data=data,
            metrics=metrics,
            trained_on="all" if final else "training",
            best_epoch=best_epoch,
            training=TrainingRecord(environment=environment(), started_at=started_at, seconds=seconds),
        )
        _index(bundle, data, config, say)
        run.log_metrics({**metrics, "train_seconds": seconds})
        if history := read_history(folder):
            run.log_curves(history)
        version = run.log_bundle(bundle)
        say(f"bundle {bundle}, version {version} of the registered model {run.model_name}")
        if config.tracking.report and config.model.name not in COUNTING and len(data.targets("test").rows):
            _report(run, bundle, folder / "report.html", data, say)
    model_version = Bundle.load(bundle).model_version
    return Trained(bundle, run.run_id, model_version, best_epoch, metrics, seconds)


def assist(config: ExperimentConfig, *, resume: bool = False, final: bool = False) -> None:
    """Train beside the first process of a training by torchrun, which calls `train` and keeps the result.

    Raises:
        InputError: as `train`, or the model counts, which one process does alone.
    """
    if config.model.name in COUNTING:
        raise InputError(f"model `{config.model.name}` counts and is not trained; start one process for it")
    config = _with_sizes(config)
    data, folder, chosen = _opened(config, final=final)
    _fit_encoder(config, data, folder, resume=resume, chosen=chosen)


def _with_sizes(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with the sizes of the backbone that it names, if it names one."""
    if not isinstance(config.model, RecformerConfig):
        return config
    return config.model_copy(update={"model": resolved(config.model)})


def _opened(config: ExperimentConfig, *, final: bool) -> tuple[PreparedData, Path, Bundle | None]:
    """The data, the folder of the run, and for a final run the bundle whose validation chose its epochs."""
    data = PreparedData.load(config.prepared_path)
    check_settings(config, data)
    if not final:
        return data, config.output_path, None
    return data, config.output_path / "final", _chosen_by_validation(config, data)


def _fit_encoder(
    config: ExperimentConfig,
    data: PreparedData,
    folder: Path,
    *,
    resume: bool,
    chosen: Bundle | None,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    say: Say = lambda line: None,
) -> Fitted:
    """The encoder, fitted to the training part, or to everything when an earlier run chose the epochs."""
    assert isinstance(config.model, EncoderConfig)
    validation = None if chosen else data.targets("valid")
    if validation is not None and not len(validation.rows):
        raise InputError(
            f"{data.path} has no validation target, which early stopping needs; prepare it with a split "
            "that holds some out"
        )
    training = data.sequences if chosen else data.training()
    if isinstance(config.model, RecformerConfig):
        return fit_recformer(
            config.model,
            config.training,
            items=data.items,
            training=training,
            validation=validation,
            checkpoints=folder / CHECKPOINTS,
            resume=resume,
            stop_epochs=stage_epochs(chosen.model) if chosen else None,
            on_epoch=on_epoch,
            say=say,
        )
    return fit_encoder(
        config.model,
        config.training,
        training=training,
        n_items=len(data.vocabulary),
        validation=validation,
        checkpoints=folder / CHECKPOINTS,
        resume=resume,
        stop_epoch=chosen.manifest["best_epoch"] if chosen else None,
        on_epoch=on_epoch,
    )


def _report(run: TrackedRun, bundle: Path, file: Path, data: PreparedData, say: Say) -> None:
    """Write the report and record it; a training that is done does not fail for want of a page about it."""
    say("measuring the baselines for the report")
    try:
        run.log_file(write_report(bundle, file, data=data.path))
    except Exception as error:
        say(f"note: no report was written: {type(error).__name__}: {error}; try `recsys report {bundle}`")
        return
    say(f"report {file}")


def _fit(
    config: ExperimentConfig,
    data: PreparedData,
    folder: Path,
    run: TrackedRun,
    *,
    resume: bool,
    chosen: Bundle | None,
    say: Say,
) -> tuple[Model, int | None]:
    """The model and, of an encoder, its best epoch."""
    if config.model.name in COUNTING:
        training, times = data.training(), data.training_times()
        if chosen:
            training, times = data.sequences, data.times
        return fit_counting(config.model, training, times, len(data.vocabulary), data.items), None

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        append_epoch(folder, epoch, metrics)
        run.log_epoch(epoch, metrics)

    fitted = _fit_encoder(config, data, folder, resume=resume, chosen=chosen, on_epoch=on_epoch, say=say)
    if fitted.processes > 1:
        say(f"trained by {fitted.processes} processes")
    return fitted.encoder, fitted.best_epoch


def _measure(model: Model, data: PreparedData, name: str) -> dict[str, float]:
    """Full-ranking metrics of both splits; a split without targets has none."""
    splits: tuple[Split, ...] = ("valid", "test")
    rules: dict[str, Any] = {"exclude_seen": name not in ANSWERS_SEEN, "scores_cold": name in SCORES_COLD}
    return {
        f"{split}_{metric}": value
        for split in splits
        if len(data.targets(split).rows)
        for metric, value in evaluate(model, data, split=split, **rules).metrics.items()
    }


def _index(bundle: Path, data: PreparedData, config: ExperimentConfig, say: Say) -> None:
    loaded = Bundle.load(bundle)
    if loaded.config.model.name in COUNTING:
        return
    info = build_index(loaded, index_queries(data), recall=config.index.recall, backend=config.index.backend)
    say(
        f"index: {info.trees} trees, recall@{info.k} {info.recall:.4f}, median query "
        f"{info.annoy_ms:.2f} ms (exact search {info.exact_ms:.2f} ms)"
    )


def index_queries(data: PreparedData) -> Ragged:
    """Histories to tune and measure an index with: the test targets', or else whole sequences."""
    histories = data.targets("test").histories
    return histories if len(histories) else data.sequences.take(np.flatnonzero(data.sequences.lengths))


def _chosen_by_validation(config: ExperimentConfig, data: PreparedData) -> Bundle:
    """The bundle of the same experiment whose validation chose the number of epochs."""
    folder = config.output_path / "bundle"
    remedy = "run `recsys train` on it without --final first"
    if not folder.exists():
        raise InputError(f"--final takes the number of epochs from {folder}, which is not there; {remedy}")
    bundle = Bundle.load(folder)
    if _fingerprint(bundle.config, data) != _fingerprint(config, data):
        raise InputError(f"{folder} was trained with other model or training settings; {remedy}")
    if bundle.manifest["data"]["content_digest"] != data.digest:
        raise InputError(f"{folder} was trained on other data than {data.path} now holds; {remedy}")
    return bundle


def check_settings(config: ExperimentConfig, data: PreparedData) -> None:
    """Refuse data that was prepared in another way than the configuration says."""
    stated = data.manifest.get("settings", {})
    asked = config.model_dump(mode="json")
    differences = [
        difference
        for section in ("clean", "split")
        if section in stated
        for difference in setting_differences(stated[section], asked[section], section)
    ]
    if differences:
        raise InputError(
            f"{data.path} was prepared with other settings ({'; '.join(differences)}); run `recsys prepare` "
            "with these, or train with those"
        )


def _fingerprint(config: ExperimentConfig, data: PreparedData) -> str:
    """Hash of everything that the trained weights depend on."""
    parts = [config.model.model_dump_json(), config.training.model_dump_json(), data.digest]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass
class _State:
    """What a run folder remembers for `--resume`: the MLflow run and what it was made from."""

    file: Path
    fingerprint: str
    run_id: str | None = None

    @classmethod
    def open(cls, folder: Path, config: ExperimentConfig, data: PreparedData, *, resume: bool) -> _State:
        """The folder's state; a new one unless there is a training to resume."""
        state = cls(folder / STATE_FILE, _fingerprint(config, data))
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            # In this order: a checkpoint must never outlive the record of what it was made from.
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            (folder / HISTORY_FILE).unlink(missing_ok=True)
            state.file.unlink(missing_ok=True)
            return state
        if not state.file.exists():
            raise InputError(f"{folder} holds no training to resume; train without --resume")
        stored: dict[str, Any] = json.loads(state.file.read_text(encoding="utf-8"))
        if stored["fingerprint"] != state.fingerprint:
            raise InputError(
                f"the training in {folder} was started with other model or training settings, or on other "
                "data; resume with the same, or train without --resume"
            )
        state.run_id = stored["run_id"]
        return state

    def keep(self, run_id: str) -> None:
        """Remember the run, before its first epoch."""
        content = json.dumps({"run_id": run_id, "fingerprint": self.fingerprint})
        draft = self.file.with_suffix(".tmp")
        draft.write_text(content, encoding="utf-8")
        draft.replace(self.file)
