"""The trainer of one training: its callbacks and checkpoints, and how an interrupted one goes on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from recsys.checkpoints import BEST, LAST, StreamedCheckpoints, ran_out_of_patience
from recsys.config import TrainingConfig
from recsys.errors import InputError
from recsys.processes import Processes
from recsys.progress import epoch_reporter

MONITOR = "ndcg@10"

OnEpoch = Callable[[int, dict[str, float]], None]


def run_trainer(
    module: pl.LightningModule,
    config: TrainingConfig,
    checkpoints: Path,
    processes: Processes,
    *,
    validates: bool,
    resume: bool,
    stop_epoch: int | None,
    on_epoch: OnEpoch,
) -> Path:
    """Train a module, or go on from its last checkpoint.

    Args:
        module: what is trained.
        config: epochs, patience, device and precision.
        checkpoints: folder of `last.ckpt` and `best.ckpt`.
        processes: that train together, this one among them.
        validates: whether the module has something to validate with.
        resume: continue from `last.ckpt` where there is one.
        stop_epoch: end after this epoch; None after the last.
        on_epoch: called in the first process after every epoch (from 1) with its metrics.

    Returns:
        The checkpoint of the best validation, or without any of the last epoch.

    Raises:
        KeyboardInterrupt: Ctrl-C; the last checkpoint is of the last finished epoch.
    """
    last, best = (checkpoints / f"{name}.ckpt" for name in (LAST, BEST))
    first = processes.rank == 0
    if first and not resume:
        last.unlink(missing_ok=True)
        best.unlink(missing_ok=True)
    with epoch_reporter(stop_epoch or config.epochs) if first else contextlib.nullcontext() as report:
        progress = Progress(report, on_epoch) if report else Callback()
        trainer = _make_trainer(config, checkpoints, processes, validates, stop_epoch, progress)
        goes_on = resume and last.exists()
        if not (goes_on and ran_out_of_patience(last)):
            try:
                trainer.fit(module, ckpt_path=str(last) if goes_on else None)
            except SystemExit as stopped:  # what Lightning makes of Ctrl-C, without a word
                raise KeyboardInterrupt from stopped
    return best if validates else last


class Progress(Callback):
    """Hands each finished epoch to the progress display and to whoever tracks the run."""

    def __init__(self, report: OnEpoch, on_epoch: OnEpoch) -> None:
        self.report = report
        self.on_epoch = on_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand on loss and metrics of the epoch."""
        names = ("loss", MONITOR, "hr@10") if _validated(trainer) else ("loss",)
        logged = trainer.callback_metrics
        metrics = {name: float(logged[name]) for name in names if name in logged}
        if not math.isfinite(metrics["loss"]):
            raise diverged(trainer.current_epoch + 1)
        self.report(trainer.current_epoch + 1, metrics)
        self.on_epoch(trainer.current_epoch + 1, metrics)


def diverged(epoch: int) -> InputError:
    """What is said of a training whose loss or weights are no numbers any more."""
    return InputError(
        f"the training diverged in epoch {epoch}: its loss is no number any more; set training.learning_rate "
        "lower"
    )


def _validated(trainer: pl.Trainer) -> bool:
    every = trainer.check_val_every_n_epoch or 1
    return (trainer.current_epoch + 1) % every == 0


def check_device(config: TrainingConfig, processes: Processes) -> None:
    """Refuse a device that is not there; Lightning's own message does not say what to set."""
    found = torch.cuda.device_count()
    if config.device == "cuda" and found < processes.per_node:
        raise InputError(
            f"training.device is cuda for {processes.per_node} processes on this machine, which has {found} "
            "CUDA devices that PyTorch can use; set training.device=cpu, or start fewer processes"
        )


def _make_trainer(
    config: TrainingConfig,
    checkpoints: Path,
    processes: Processes,
    validates: bool,
    stop_epoch: int | None,
    progress: Callback,
) -> pl.Trainer:
    """The trainer of a run whose checkpoints stand in a folder of their own."""
    callbacks: list[Callback] = [progress]
    if validates:
        callbacks += [
            ModelCheckpoint(
                checkpoints,
                filename=BEST,
                monitor=MONITOR,
                mode="max",
                save_weights_only=True,
                enable_version_counter=False,
            ),
            EarlyStopping(MONITOR, patience=config.patience, mode="max"),
        ]
    # Last in the list: its checkpoint holds what the other callbacks decided in the same epoch.
    callbacks.append(
        ModelCheckpoint(
            checkpoints, filename=LAST, save_on_train_epoch_end=True, enable_version_counter=False
        )
    )
    return pl.Trainer(
        max_epochs=stop_epoch or config.epochs,
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[config.device],
        devices=processes.per_node,
        num_nodes=processes.nodes,
        strategy="ddp" if processes.total > 1 else "auto",
        callbacks=callbacks,
        plugins=[StreamedCheckpoints()],
        check_val_every_n_epoch=min(config.validate_every, config.epochs),
        limit_val_batches=1.0 if validates else 0,
        deterministic=True,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
