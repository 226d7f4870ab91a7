"""Training of an encoder by the cloze task, with validation on the full catalogue.

Shapes: `B` sequences, `L` positions, `T` masked positions, `V` items.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from recsys.batching import BatchPlan, windows
from recsys.config import BERT4RecConfig, TrainingConfig
from recsys.dataset import Targets
from recsys.errors import InputError
from recsys.evaluation import chunks, encoder_input
from recsys.losses import full_cross_entropy
from recsys.masking import cloze_mask
from recsys.metrics import hit_rate, ndcg, rank_counts
from recsys.models import build_encoder
from recsys.models.bert4rec import BERT4Rec
from recsys.progress import epoch_reporter
from recsys.sequences import Ragged

MONITOR = "ndcg@10"
LAST_CHECKPOINT = "last.ckpt"

OnEpoch = Callable[[int, dict[str, float]], None]


class ClozeBatch(NamedTuple):
    """One step: what the encoder reads, where it is asked, and what it should say there.

    Attributes:
        items_BL: int64 item indices, MASK at the hidden places, PAD on the left.
        hidden_BL: bool, the T hidden places.
        targets_T: int64 item indices, in the order of `hidden_BL`.
    """

    items_BL: torch.Tensor
    hidden_BL: torch.Tensor
    targets_T: torch.Tensor


class ClozeBatches:
    """The batches of an epoch, a function of the seed and the epoch's number alone.

    A resumed run therefore sees exactly what the interrupted one would have seen.
    """

    def __init__(
        self, plan: BatchPlan, config: BERT4RecConfig, *, mask: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self.plan = plan
        self.config = config
        self.mask = mask
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[ClozeBatch]:
        rng = np.random.default_rng([self.seed, self.epoch()])
        for items_BL in self.plan.epoch(rng):
            hidden_BL = cloze_mask(
                items_BL,
                mask_prob=self.config.mask_prob,
                last_item_prob=self.config.last_item_prob,
                rng=rng,
            )
            read_BL = np.where(hidden_BL, self.mask, items_BL).astype(np.int64)
            yield ClozeBatch(
                torch.from_numpy(read_BL),
                torch.from_numpy(hidden_BL),
                torch.from_numpy(items_BL[hidden_BL].astype(np.int64)),
            )


@dataclass(frozen=True)
class ValidationChunks:
    """Places of the validation targets, in chunks of bounded memory (Lightning takes a bare list apart)."""

    places: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.places)


class ClozeTraining(pl.LightningModule):
    """The step, the validation and the optimizer of cloze training."""

    def __init__(
        self,
        encoder: BERT4Rec,
        batches: Callable[[Callable[[], int]], ClozeBatches],
        validation: Targets | None,
        config: TrainingConfig,
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: the model to train.
            batches: makes the training batches, given how to ask for the current epoch.
            validation: targets ranked in the full catalogue; None trains without validation.
            config: optimizer, schedule and seed.
        """
        super().__init__()
        self.encoder = encoder
        self.batches = batches(lambda: self.current_epoch)
        self.validation = validation
        self.config = config

    def train_dataloader(self) -> ClozeBatches:
        """Batches that follow the current epoch."""
        return self.batches

    def val_dataloader(self) -> ValidationChunks:
        """Places of the validation targets; none without validation."""
        if self.validation is None:
            return ValidationChunks([])
        return ValidationChunks(list(chunks(self.validation, self.encoder.n_items)))

    def on_train_epoch_start(self) -> None:
        """Tie dropout to the epoch's number, for the same reason as the batches."""
        sequence = np.random.SeedSequence([self.config.seed, self.current_epoch])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, batch: ClozeBatch, batch_idx: int) -> torch.Tensor:
        """Mean loss at the hidden places; logits exist only there."""
        states_TD = self.encoder.transform(self.encoder.hidden(batch.items_BL)[batch.hidden_BL])
        loss = full_cross_entropy(
            states_TD, self.encoder.item_vectors(), self.encoder.item_bias, batch.targets_T
        )
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.targets_T))
        return loss

    def validation_step(self, places_B: NDArray[np.int64], batch_idx: int) -> None:
        """NDCG@10 and HR@10 of a chunk, items of the history taken out of the ranking."""
        assert self.validation is not None
        histories = self.validation.histories.take(places_B)
        vectors_BD = self.encoder.encode(encoder_input(self.encoder, histories, str(self.device)))
        scores_BV = (vectors_BD @ self.encoder.item_table().T).float().cpu().numpy()
        scores_BV[histories.rows, histories.values - 1] = -np.inf
        above_B, level_B = rank_counts(scores_BV, self.validation.items[places_B])
        means = {
            MONITOR: float(ndcg(above_B, level_B, 10).mean()),
            "hr@10": float(hit_rate(above_B, level_B, 10).mean()),
        }
        self.log_dict(means, on_epoch=True, prog_bar=True, batch_size=len(places_B))

    def configure_optimizers(self) -> pl.utilities.types.OptimizerLRScheduler:
        """AdamW with linear warm-up and linear decay; no weight decay on biases and LayerNorms."""
        matrices = [weight for weight in self.encoder.parameters() if weight.ndim > 1]
        vectors = [weight for weight in self.encoder.parameters() if weight.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        steps = len(self.batches) * self.config.epochs
        warmup = max(int(self.config.warmup * steps), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, max(steps - step, 0) / max(steps - warmup, 1))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Progress(Callback):
    """Hands each finished epoch to the progress display and to whoever tracks the run."""

    def __init__(self, report: OnEpoch, on_epoch: OnEpoch) -> None:
        self.report = report
        self.on_epoch = on_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = ("loss", MONITOR, "hr@10") if _validated(trainer) else ("loss",)
        logged = trainer.callback_metrics
        metrics = {name: float(logged[name]) for name in names if name in logged}
        self.report(trainer.current_epoch + 1, metrics)
        self.on_epoch(trainer.current_epoch + 1, metrics)


def _validated(trainer: pl.Trainer) -> bool:
    every = trainer.check_val_every_n_epoch or 1
    return (trainer.current_epoch + 1) % every == 0


@dataclass(frozen=True)
class Fitted:
    """A trained encoder.

    Attributes:
        encoder: with the weights of the best validation (of the last epoch without validation), in eval mode.
        best_epoch: the epoch, from 1, that those weights are of.
        seconds: wall time of training and validation in this process.
    """

    encoder: BERT4Rec
    best_epoch: int
    seconds: float


def fit_encoder(
    model_config: BERT4RecConfig,
    config: TrainingConfig,
    *,
    training: Ragged,
    n_items: int,
    validation: Targets | None,
    checkpoints: Path,
    resume: bool = False,
    stop_epoch: int | None = None,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
) -> Fitted:
    """Train an encoder from fresh weights, or go on from the last checkpoint.

    The result is a function of the arguments and the number of CPU threads; the caller's random state is
    left as it was.

    Args:
        model_config: sizes, dropout and masking.
        config: optimizer, schedule, patience and seed.
        training: S ragged rows of training events.
        n_items: number of items V.
        validation: targets for early stopping and for choosing the best epoch; None trains to the end.
        checkpoints: folder of `last.ckpt` and `best.ckpt`.
        resume: continue from `last.ckpt` where there is one.
        stop_epoch: end after this epoch, on the learning rate that `config.epochs` gives.
        on_epoch: called after every epoch (from 1) with its metrics.

    Raises:
        InputError: no training sequence has two events.
    """
    plan = BatchPlan.by_length(
        windows(training, model_config.max_length), config.batch_size * model_config.max_length
    )
    if not len(plan):
        raise InputError(
            "no training sequence has two events, so there is nothing to fill in; prepare longer sequences, "
            "or train a model that counts (model=popularity)"
        )
    last, best = checkpoints / LAST_CHECKPOINT, checkpoints / "best.ckpt"
    if not resume:
        last.unlink(missing_ok=True)
        best.unlink(missing_ok=True)
    started = time.perf_counter()
    with seeded(config.seed), cpu_threads(config.threads), _quiet_lightning():
        encoder = build_encoder(model_config, n_items)
        assert isinstance(encoder, BERT4Rec)
        module = ClozeTraining(
            encoder,
            lambda epoch: ClozeBatches(plan, model_config, mask=n_items + 1, seed=config.seed, epoch=epoch),
            validation,
            config,
        )
        with epoch_reporter(stop_epoch or config.epochs) as report:
            progress = _Progress(report, on_epoch)
            trainer = _trainer(config, checkpoints, validation is not None, stop_epoch, progress)
            if not _ran_out_of_patience(last):
                trainer.fit(module, ckpt_path=str(last) if last.exists() else None)
    chosen = best if validation is not None else last
    state = torch.load(chosen, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    seconds = time.perf_counter() - started
    return Fitted(encoder.cpu().eval(), int(state["epoch"]) + 1, seconds)


def _ran_out_of_patience(last: Path) -> bool:
    """Whether early stopping had ended the training; Lightning alone would go on until it stops again."""
    if not last.exists():
        return False
    states = torch.load(last, map_location="cpu", weights_only=True)["callbacks"].values()
    return any(state.get("stopped_epoch") for state in states)


def _trainer(
    config: TrainingConfig, checkpoints: Path, validates: bool, stop_epoch: int | None, progress: Callback
) -> pl.Trainer:
    callbacks: list[Callback] = [progress]
    if validates:
        callbacks += [
            ModelCheckpoint(
                checkpoints, filename="best", monitor=MONITOR, mode="max", enable_version_counter=False
            ),
            EarlyStopping(MONITOR, patience=config.patience, mode="max"),
        ]
    # Last in the list: its checkpoint holds what the other callbacks decided in the same epoch.
    callbacks.append(
        ModelCheckpoint(
            checkpoints, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
    )
    return pl.Trainer(
        max_epochs=stop_epoch or config.epochs,
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[config.device],
        devices=1,
        callbacks=callbacks,
        check_val_every_n_epoch=min(config.validate_every, config.epochs),
        limit_val_batches=1.0 if validates else 0,
        gradient_clip_val=config.clip_norm,
        deterministic=True,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hush Lightning about hardware, a folder we mean to reuse and itself; undo its global settings."""
    logger = logging.getLogger("pytorch_lightning")
    level, deterministic = logger.level, torch.are_deterministic_algorithms_enabled()
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic)  # the trainer leaves its own choice behind


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and give the caller's random state back after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
