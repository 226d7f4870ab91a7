"""Fitting of Recformer, from a catalogue's texts to the best weights of its stages.

The modules that are trained stand in `recsys.recformer_training`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from recsys.checkpoints import LAST
from recsys.config import RecformerConfig, TrainingConfig
from recsys.dataset import Targets
from recsys.fresh import catalogue_tokenizer
from recsys.models.reading import sentences_of
from recsys.models.recformer import Recformer, build_recformer
from recsys.processes import Processes
from recsys.recformer_training import FineTuning, PreTraining
from recsys.schema import ITEM_ID
from recsys.sequences import Ragged
from recsys.text.attributes import check_present
from recsys.text.backbone import Backbone
from recsys.torch_settings import cpu_threads, quiet_lightning, seeded
from recsys.trainer import OnEpoch, run_trainer
from recsys.training import Fitted, checked_steps


def fit_recformer(
    model_config: RecformerConfig,
    config: TrainingConfig,
    *,
    items: pa.Table,
    training: Ragged,
    validation: Targets | None,
    checkpoints: Path,
    resume: bool = False,
    stop_epochs: tuple[int, int] | None = None,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
    say: Callable[[str], None] = lambda line: None,
) -> Fitted:
    """Pre-train a Recformer, or fine-tune it in two stages; see `recsys.training.fit_encoder`.

    Args:
        model_config: sizes (its backbone's among them), text and objective.
        config: optimizer, schedule, patience and seed; `epochs` and `patience` are those of each stage.
        items: the item table, whose text is read.
        training: S ragged rows of training events.
        validation: targets for early stopping and for choosing the best epoch; None trains to the end.
        checkpoints: folder of the stages' checkpoints.
        resume: continue from the last one.
        stop_epochs: end the stages after these epochs; one of 0 is left out.
        on_epoch: called after every epoch (from 1, through both stages) with its metrics.
        say: called with what a person should know of the texts.

    Raises:
        InputError: there is no text, nothing to train on, or device or batch size do not fit the processes.
    """
    started = time.perf_counter()
    processes = Processes.launched()
    steps = checked_steps(model_config, config, training, len(items))
    with seeded(config.seed), cpu_threads(config.threads), quiet_lightning():
        model, notes = make_recformer(model_config, items)
        for note in notes:
            say(f"note: {note}")
        if model_config.objective == "pretrain":
            kinds: list[Callable[[int], FineTuning]] = [
                lambda before: PreTraining(
                    model,
                    steps,
                    validation,
                    config,
                    mask_prob=model_config.mask_prob,
                    mask_weight=model_config.mask_weight,
                )
            ]
        else:
            kinds = [
                lambda before: FineTuning(model, steps, validation, config),
                lambda before: FineTuning(
                    model, steps, validation, config, frozen_table=True, epochs_before=before
                ),
            ]
        best_epoch = _run_stages(model, kinds, checkpoints, processes, resume, stop_epochs, on_epoch)
        if model_config.objective == "pretrain":  # which encodes the items for validation alone
            model.refresh()
    return Fitted(model.cpu().eval(), best_epoch, time.perf_counter() - started, processes.total)


def make_recformer(config: RecformerConfig, items: pa.Table) -> tuple[Recformer, list[str]]:
    """A model to train, from its backbone or from weights drawn by the global generator, and what to tell.

    Raises:
        InputError: the items have no text or lack an attribute, or the backbone cannot be read.
    """
    check_present(items, config.attributes)
    backbone = Backbone.read(config.backbone) if config.backbone else None
    tokenizer = backbone.tokenizer if backbone else catalogue_tokenizer(config, items)
    sentences = sentences_of(config, tokenizer, items)
    model = build_recformer(config, tokenizer, sentences)
    if backbone:
        backbone.put_into(model.encoder)
    return model, sentences.notes(items[ITEM_ID])


def _run_stages(
    model: Recformer,
    kinds: list[Callable[[int], FineTuning]],
    checkpoints: Path,
    processes: Processes,
    resume: bool,
    stop_epochs: tuple[int, int] | None,
    on_epoch: OnEpoch,
) -> int:
    """Run each stage from the best epoch so far; gives that epoch, counted from 1 through all stages."""
    before, best_epoch, best_score = 0, 0, -1.0
    best_weights: dict[str, Any] = {}
    done = [0, 0]
    for number, kind in enumerate(kinds):
        stop_epoch = stop_epochs[number] if stop_epochs else None
        if stop_epoch == 0:
            continue
        module = kind(before)
        folder = checkpoints / f"stage-{number + 1}"

        def numbered(epoch: int, metrics: dict[str, float], before: int = before) -> None:
            on_epoch(before + epoch, metrics)

        stage = _run(module, folder, processes, resume=resume, stop_epoch=stop_epoch, on_epoch=numbered)
        if stage.score is None or stage.score > best_score:
            best_epoch, best_score, best_weights = (
                before + stage.best_epoch,
                stage.score or 0.0,
                stage.weights,
            )
            done[number] = stage.best_epoch
        module.load_state_dict(best_weights)
        before += stage.epochs
    model.stage_epochs.copy_(torch.tensor(done))
    return best_epoch


@dataclass(frozen=True)
class _Stage:
    """A finished stage: epochs that were run, the best of them, its NDCG@10 if validated, and its weights."""

    epochs: int
    best_epoch: int
    score: float | None
    weights: dict[str, Any]


def _run(
    module: FineTuning,
    folder: Path,
    processes: Processes,
    *,
    resume: bool,
    stop_epoch: int | None,
    on_epoch: OnEpoch,
) -> _Stage:
    """Run the trainer, or go on from the stage's last checkpoint."""
    validates = module.validation is not None
    kept = run_trainer(
        module,
        module.config,
        folder,
        processes,
        validates=validates,
        resume=resume,
        stop_epoch=stop_epoch,
        on_epoch=on_epoch,
    )
    ended = torch.load(folder / f"{LAST}.ckpt", map_location="cpu", weights_only=True)
    chosen = torch.load(kept, map_location="cpu", weights_only=True) if validates else ended
    scores = (each.get("best_model_score") for each in ended["callbacks"].values())
    score = next((float(each) for each in scores if each is not None), None) if validates else None
    return _Stage(int(ended["epoch"]) + 1, int(chosen["epoch"]) + 1, score, chosen["state_dict"])
