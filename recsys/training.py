"""Training of an encoder, with validation on the full catalogue.

Shapes: `B` sequences, `R` rows of a step, `L` columns, `T` places that are asked, `D` width, `V` items.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from recsys.config import EncoderConfig, TrainingConfig
from recsys.dataset import Targets
from recsys.errors import InputError
from recsys.evaluation import chunks, encoder_input
from recsys.losses import full_cross_entropy, gbce, sampled_softmax
from recsys.metrics import hit_rate, ndcg, rank_counts
from recsys.models import build_encoder
from recsys.models.recformer import Recformer
from recsys.models.transformer import Transformer
from recsys.processes import Processes
from recsys.progress import epoch_reporter
from recsys.sequences import Ragged
from recsys.steps import Step, Steps
from recsys.torch_settings import cpu_threads, quiet_lightning, seeded

MONITOR = "ndcg@10"
LAST_CHECKPOINT = "last.ckpt"

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class ValidationChunks:
    """Places of the validation targets, in chunks of bounded memory (Lightning takes a bare list apart)."""

    places: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.places)


class EncoderTraining(pl.LightningModule):
    """The step, the validation and the optimizer of an encoder's training."""

    def __init__(
        self, encoder: Transformer, steps: Steps, validation: Targets | None, config: TrainingConfig
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: the model to train.
            steps: what it reads.
            validation: targets ranked in the full catalogue; None trains without validation.
            config: loss, optimizer, schedule and seed.
        """
        super().__init__()
        self.encoder = encoder
        self.steps = steps
        self.steps.epoch = lambda: self.current_epoch
        self.steps.share = lambda: (self.global_rank, self.trainer.world_size)
        self.validation = validation
        self.config = config
        self.log_chance: torch.Tensor
        self.register_buffer("log_chance", steps.negatives.log_chance, persistent=False)

    def train_dataloader(self) -> Steps:
        """Steps that follow the current epoch."""
        return self.steps

    def val_dataloader(self) -> ValidationChunks:
        """Places of the validation targets; none without validation."""
        if self.validation is None:
            return ValidationChunks([])
        return ValidationChunks(list(chunks(self.validation, self.encoder.n_items)))

    def on_fit_start(self) -> None:
        """Settle the precision, now that the device is known."""
        self.bf16 = uses_bf16(self.config.precision, self.device)

    def on_train_epoch_start(self) -> None:
        """Tie dropout to the epoch's number, for the same reason as the steps; processes drop differently."""
        sequence = np.random.SeedSequence([self.config.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, step: Step, batch_idx: int) -> torch.Tensor:
        """Mean loss at the places asked; logits exist only there.

        Processes hold unequal numbers of places, and their gradients are averaged: each loss is weighted so
        that the average is that of the whole step.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            states_TD = self.encoder.states(*step[:5])
        loss = LOSSES[self.config.loss](self, states_TD[: len(step.targets_T)].float(), step)
        loss = loss * (len(step.targets_T) * self.trainer.world_size / step.asked)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=step.asked)
        return loss

    def outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(V+2, D) item embedding and (V+2,) its biases, which losses score with."""
        return self.encoder.item_embedding.weight, self.encoder.output_bias()

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of NDCG, HR and users."""
        self._sums = torch.zeros(3, dtype=torch.float64)

    def validation_step(self, places_B: NDArray[np.int64], batch_idx: int) -> None:
        """NDCG@10 and HR@10 of this process's share of a chunk, items of the history taken out."""
        assert self.validation is not None
        places_B = places_B[self.global_rank :: self.trainer.world_size]
        if not len(places_B):
            return
        histories = self.validation.histories.take(places_B)
        vectors_BD = self.encoder.encode(encoder_input(self.encoder, histories, str(self.device)))
        scores_BV = (vectors_BD @ self.encoder.item_table().T).float().cpu().numpy()
        scores_BV[histories.rows, histories.values - 1] = -np.inf
        above_B, level_B = rank_counts(scores_BV, self.validation.items[places_B])
        sums = ndcg(above_B, level_B, 10).sum(), hit_rate(above_B, level_B, 10).sum(), len(places_B)
        self._sums += torch.tensor(sums, dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all users, of all processes."""
        total = self.trainer.strategy.reduce(self._sums.float().to(self.device), reduce_op="sum").tolist()
        self.log_dict({MONITOR: total[0] / total[2], "hr@10": total[1] / total[2]})

    def configure_optimizers(self) -> pl.utilities.types.OptimizerLRScheduler:
        """AdamW with linear warm-up and linear decay; no weight decay on biases and LayerNorms."""
        matrices = [weight for weight in self.parameters() if weight.ndim > 1]
        vectors = [weight for weight in self.parameters() if weight.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        steps = len(self.steps) * self.config.epochs
        warmup = max(int(self.config.warmup * steps), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, max(steps - step, 0) / max(steps - warmup, 1))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _full(module: EncoderTraining, states_TD: torch.Tensor, step: Step) -> torch.Tensor:
    return full_cross_entropy(states_TD, *module.outputs(), step.targets_T, bf16=module.bf16)


def _sampled(module: EncoderTraining, states_TD: torch.Tensor, step: Step) -> torch.Tensor:
    return sampled_softmax(states_TD, *module.outputs(), step.targets_T, step.negatives_n, module.log_chance)


def _gbce(module: EncoderTraining, states_TD: torch.Tensor, step: Step) -> torch.Tensor:
    calibration = module.config.calibration
    return gbce(states_TD, *module.outputs(), step.targets_T, step.negatives_n, calibration=calibration)


LOSSES: dict[str, Callable[[EncoderTraining, torch.Tensor, Step], torch.Tensor]] = {
    "full": _full,
    "sampled": _sampled,
    "gbce": _gbce,
}
"""`training.loss` -> (module, states at the places asked (T, D), step) -> mean loss."""


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are done in bfloat16: as asked, and for `auto` where the processor can."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


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
        processes: that Lightning trained with.
    """

    encoder: Transformer | Recformer
    best_epoch: int
    seconds: float
    processes: int


def fit_encoder(
    model_config: EncoderConfig,
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
    left as it was. Under torchrun every process calls this with the same arguments, and the first one's
    result counts.

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
        InputError: no training sequence has two events, or the device or the batch size does not fit the
            processes.
    """
    steps = Steps(training, n_items, model_config, config)
    last, best = checkpoints / LAST_CHECKPOINT, checkpoints / "best.ckpt"
    processes = Processes.launched()
    _check_device(config, processes)
    steps.check_shares(processes.total)
    first = processes.rank == 0
    if first and not resume:
        last.unlink(missing_ok=True)
        best.unlink(missing_ok=True)
    started = time.perf_counter()
    with seeded(config.seed), cpu_threads(config.threads), quiet_lightning():
        encoder = build_encoder(model_config, n_items)
        module = EncoderTraining(encoder, steps, validation, config)
        with epoch_reporter(stop_epoch or config.epochs) if first else contextlib.nullcontext() as report:
            progress = _Progress(report, on_epoch) if report else Callback()
            trainer = _trainer(config, checkpoints, processes, validation is not None, stop_epoch, progress)
            goes_on = resume and last.exists()
            if not (goes_on and _ran_out_of_patience(last)):
                trainer.fit(module, ckpt_path=str(last) if goes_on else None)
    chosen = best if validation is not None else last
    state = torch.load(chosen, map_location="cpu", weights_only=True, mmap=True)
    module.load_state_dict(state["state_dict"])
    seconds = time.perf_counter() - started
    return Fitted(encoder.cpu().eval(), int(state["epoch"]) + 1, seconds, trainer.world_size)


def _check_device(config: TrainingConfig, processes: Processes) -> None:
    """Refuse a device that is not there; Lightning's own message does not say what to set."""
    found = torch.cuda.device_count()
    if config.device == "cuda" and found < processes.per_node:
        raise InputError(
            f"training.device is cuda for {processes.per_node} processes on this machine, which has {found} "
            "CUDA devices that PyTorch can use; set training.device=cpu, or start fewer processes"
        )


def _ran_out_of_patience(last: Path) -> bool:
    """Whether early stopping had ended the training; Lightning alone would go on until it stops again."""
    states = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["callbacks"].values()
    return any(state.get("stopped_epoch") for state in states)


def _trainer(
    config: TrainingConfig,
    checkpoints: Path,
    processes: Processes,
    validates: bool,
    stop_epoch: int | None,
    progress: Callback,
) -> pl.Trainer:
    callbacks: list[Callback] = [progress]
    if validates:
        callbacks += [
            ModelCheckpoint(
                checkpoints,
                filename="best",
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
            checkpoints, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
    )
    return pl.Trainer(
        max_epochs=stop_epoch or config.epochs,
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[config.device],
        devices=processes.per_node,
        num_nodes=processes.nodes,
        strategy="ddp" if processes.total > 1 else "auto",
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
