"""One experiment from prepared data to a finished bundle, recorded in MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundle import Bundle, save_bundle
from recsys.config import EncoderConfig, ExperimentConfig, RecformerConfig, shown_uri
from recsys.dataset import Part, PreparedData, Split, Targets
from recsys.environment import TrainingRecord, environment
from recsys.errors import InputError
from recsys.evaluation import evaluate, removes_seen
from recsys.fresh import fresh_encoder
from recsys.history import append_epoch, read_history
from recsys.index import build_index
from recsys.models import COUNTING, fit_counting, scores_cold
from recsys.models.protocol import Model
from recsys.models.recformer import stage_epochs
from recsys.models.transformer import Transformer
from recsys.origins import check_outside, check_settings, checked_backbone, chosen_by_validation, fingerprint
from recsys.processes import Processes
from recsys.recformer_fit import fit_recformer
from recsys.recipe import decided, settled
from recsys.registry import resolve_bundle
from recsys.report import write_report
from recsys.run_state import CHECKPOINTS, RunState
from recsys.sequences import Ragged
from recsys.text.backbone import resolved
from recsys.tracking import TrackedRun, track_run
from recsys.trainer import OnEpoch
from recsys.training import Fitted, checked_steps, fit_encoder
from recsys.warm_start import WarmStart

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
    config: ExperimentConfig,
    *,
    resume: bool = False,
    final: bool = False,
    from_bundle: Path | str | None = None,
    say: Say = lambda line: None,
) -> Trained:
    """Train what the configuration says, and leave a bundle in `config.output_path`.

    Args:
        config: the experiment; its data must be prepared.
        resume: continue an interrupted training from its last finished epoch.
        final: fit all events, validation and test included, for as many epochs as validation chose in an
            earlier run of the same configuration: what one deploys. Its folder is `final` below the run's.
        from_bundle: start from the weights of this bundle (a folder, `runs:/` or `models:/`), by item id.
        say: called with a line for each stage.

    Raises:
        InputError: the data is not prepared, there is nothing to take the epochs from, or what is there to
            resume was made by another configuration or from other data; the bundle to start from does not
            fit (see `WarmStart.checked`); or torchrun started several processes and this is not the first.
    """
    if Processes.launched().rank > 0:
        raise InputError("only the first process of a training keeps its result; the others call `assist`")
    given = config
    opened = _Opened.by(given, final=final, from_bundle=from_bundle)
    config, data, folder, chosen = opened.config, opened.data, opened.folder, opened.chosen
    if isinstance(config.model, EncoderConfig):  # before the folder's earlier training is cleared away
        checked_steps(config.model, config.training, opened.training(), len(data.vocabulary))
        opened.validation()
    state = RunState.open(folder, fingerprint(config, data, opened.start, opened.backbone), resume=resume)
    name = f"{config.model.name} (final)" if final else config.model.name
    with track_run(config, data.manifest, run_name=name, run_id=state.run_id) as run:
        state.keep(run.run_id)
        say(f"training {name} on {data.path}; run {run.run_id} at {shown_uri(config.tracking.uri)}")
        if choices := decided(given, config):
            say(f"chosen by the data: {choices}")
        if opened.start:
            say(opened.start.summary(data))
        started_at, started = datetime.now(UTC), time.perf_counter()
        model, best_epoch = _fit(config, opened, run, resume=resume, say=say)
        seconds = time.perf_counter() - started
        part = opened.part
        metrics = chosen.manifest["metrics"] if chosen else _measure(model, data, config, part)
        bundle = save_bundle(
            folder / "bundle",
            config=config,
            model=model,
            data=data,
            metrics=metrics,
            trained_on=part,
            best_epoch=best_epoch,
            training=TrainingRecord(environment=environment(), started_at=started_at, seconds=seconds),
            started_from=opened.started_from,
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


def assist(
    config: ExperimentConfig,
    *,
    resume: bool = False,
    final: bool = False,
    from_bundle: Path | str | None = None,
) -> None:
    """Train beside the first process of a training by torchrun, which calls `train` and keeps the result.

    Raises:
        InputError: as `train`, or the model counts, which one process does alone.
    """
    if config.model.name in COUNTING:
        raise InputError(f"model `{config.model.name}` counts and is not trained; start one process for it")
    opened = _Opened.by(config, final=final, from_bundle=from_bundle)
    _fit_encoder(opened.config, opened, resume=resume)


@dataclass(frozen=True)
class _Opened:
    """What a training opens.

    Attributes:
        config: the experiment, with what it left open decided.
        data: what it is trained on.
        folder: of the run.
        chosen: the bundle whose validation chose the epochs of a final run; None for all others.
        start: what its weights start from; None for fresh ones.
        backbone: digest of its backbone; None without one.
    """

    config: ExperimentConfig
    data: PreparedData
    folder: Path
    chosen: Bundle | None
    start: WarmStart | None
    backbone: str | None

    @classmethod
    def by(cls, config: ExperimentConfig, *, final: bool, from_bundle: Path | str | None) -> _Opened:
        data = PreparedData.load(config.prepared_path)
        check_settings(config, data)
        found, start = None, None
        if from_bundle is not None:
            found = Bundle.load(resolve_bundle(str(from_bundle), config.tracking.uri))
            check_outside(found.folder, str(from_bundle), config)
        backbone = checked_backbone(config)
        if isinstance(config.model, RecformerConfig):
            config = config.model_copy(update={"model": resolved(config.model)})
        config = settled(config, data, like=found.config.model if found else None)
        if found:
            start = WarmStart.checked(found, str(from_bundle), config, data)
        if not final:
            return cls(config, data, config.output_path, None, start, backbone)
        chosen = chosen_by_validation(config, data, start, backbone)
        return cls(config, data, config.output_path / "final", chosen, start, backbone)

    @property
    def part(self) -> Part:
        """The events that the model is fitted to: all of them where an earlier run chose the epochs."""
        return "all" if self.chosen else self.config.training.fit

    @property
    def started_from(self) -> dict[str, str] | None:
        """What is written down of the weights that it starts from; None for fresh ones."""
        record = self.start.record if self.start else {}
        return record | ({"backbone": self.backbone} if self.backbone else {}) or None

    def training(self) -> Ragged:
        """These events, with their weights."""
        return self.data.training(self.part, weights=self.config.training.event_weights)

    def validation(self) -> Targets | None:
        """What chooses the epoch; None where the model is fitted to it.

        Raises:
            InputError: there is none.
        """
        if self.part != "training":
            return None
        targets = self.data.targets("valid")
        if not len(targets.rows):
            raise InputError(
                f"{self.data.path} has no validation target, which early stopping needs; prepare it with a "
                "split that holds some out, or set training.fit to training+validation"
            )
        return targets


def _fit_encoder(
    config: ExperimentConfig,
    opened: _Opened,
    *,
    resume: bool,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    say: Say = lambda line: None,
) -> Fitted:
    """The encoder, fitted to the training part, or to everything when an earlier run chose the epochs."""
    data, chosen, start = opened.data, opened.chosen, opened.start
    assert isinstance(config.model, EncoderConfig)
    training = opened.training()
    if isinstance(config.model, RecformerConfig):
        return fit_recformer(
            config.model,
            config.training,
            items=data.items,
            training=training,
            validation=opened.validation(),
            checkpoints=opened.folder / CHECKPOINTS,
            resume=resume,
            stop_epochs=stage_epochs(chosen.model) if chosen else None,
            on_epoch=on_epoch,
            say=say,
        )

    def first_weights(model: EncoderConfig, n_items: int) -> Transformer:
        if start:
            return start.encoder(model, data, training)
        return fresh_encoder(model, data.items, training, say=say)

    return fit_encoder(
        config.model,
        config.training,
        training=training,
        n_items=len(data.vocabulary),
        validation=opened.validation(),
        checkpoints=opened.folder / CHECKPOINTS,
        resume=resume,
        stop_epoch=chosen.manifest["best_epoch"] if chosen else None,
        start=first_weights,
        on_epoch=on_epoch,
    )


def _report(run: TrackedRun, bundle: Path, file: Path, data: PreparedData, say: Say) -> None:
    """Write the report and record it; a training that is done does not fail for want of a page about it."""
    say("measuring the baselines for the report")
    try:
        kept = Bundle.load(bundle).config
        run.log_file(write_report(bundle, file, data=data.path, exclude_seen=removes_seen(kept)))
    except Exception as error:
        say(f"note: no report was written: {type(error).__name__}: {error}; try `recsys report {bundle}`")
        return
    say(f"report {file}")


def _fit(
    config: ExperimentConfig, opened: _Opened, run: TrackedRun, *, resume: bool, say: Say
) -> tuple[Model, int | None]:
    """The model and, of an encoder, its best epoch."""
    if config.model.name in COUNTING:
        data, part = opened.data, opened.part
        training, times = data.training(part), data.training_times(part)
        return fit_counting(config.model, training, times, len(data.vocabulary), data.items), None

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        append_epoch(opened.folder, epoch, metrics)
        run.log_epoch(epoch, metrics)

    fitted = _fit_encoder(config, opened, resume=resume, on_epoch=on_epoch, say=say)
    if fitted.processes > 1:
        say(f"trained by {fitted.processes} processes")
    return fitted.encoder, fitted.best_epoch


def _measure(model: Model, data: PreparedData, config: ExperimentConfig, part: Part) -> dict[str, float]:
    """Full-ranking metrics of the splits that the model has not seen; a split without targets has none."""
    splits: tuple[Split, ...] = ("valid", "test") if part == "training" else ("test",)
    rules: dict[str, Any] = {"exclude_seen": removes_seen(config), "scores_cold": scores_cold(config.model)}
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
