"""Training of an encoder, with validation on the full catalogue.

Nothing is compiled: `torch.compile` of the encoder took 11 to 25 s of processor time before the first epoch
and made no step faster (BERT4Rec on Amazon Beauty 78 ms against 65 to 74, on MovieLens 100K 237 against 227).

Shapes: `B` sequences, `R` rows of a step, `L` columns, `T` places that are asked, `D` width, `V` items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from recsys.config import EncoderConfig, TrainingConfig
from recsys.dataset import Targets
from recsys.evaluation import chunks, score_function
from recsys.losses import Parts, full_cross_entropy, gbce, sampled_softmax
from recsys.metrics import hit_rate, ndcg, rank_counts
from recsys.models import build_encoder
from recsys.models.recformer import Recformer
from recsys.models.transformer import Transformer
from recsys.optimizer import RowAdamW, clip_gradients, stored_values
from recsys.processes import Processes
from recsys.sequences import Ragged
from recsys.steps import Step, Steps
from recsys.torch_settings import cpu_threads, quiet_lightning, seeded, uses_bf16
from recsys.trainer import MONITOR, OnEpoch, check_device, diverged, run_trainer


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
        if config.loss != "full":  # their gradients are sparse, which not every backend of DDP can add
            weights = [f"encoder.{name}" for name in encoder.row_weights]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, weights)  # type: ignore[no-untyped-call]

    def train_dataloader(self) -> Steps:
        """Steps that follow the current epoch."""
        return self.steps

    def val_dataloader(self) -> ValidationChunks:
        """Places of the validation targets; none without validation."""
        places = chunks(self.validation, self.encoder.n_items) if self.validation is not None else ()
        return ValidationChunks(list(places))

    @cached_property
    def bf16(self) -> bool:
        """Whether matrix products are done in bfloat16, on the device that trains."""
        return uses_bf16(self.config.precision, self.device)

    def on_train_epoch_start(self) -> None:
        """Tie dropout to the epoch's number, for the same reason as the steps; processes drop differently."""
        sequence = np.random.SeedSequence([self.config.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def training_step(self, step: Step, batch_idx: int) -> torch.Tensor:
        """The mean loss of a step at the places asked, by their weights.

        Processes hold unequal shares of the places, and their gradients are averaged: each loss is weighted
        so that the average is that of the whole step.
        """
        loss = self.loss(step) * (step.own * self.trainer.world_size / step.asked)
        places = max(round(step.asked), 1)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=places)
        return loss

    def loss(self, step: Step) -> torch.Tensor:
        """Mean loss at the places asked; logits exist only there."""
        table_UD, bias_U = self.encoder.outputs(step.rows_U)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            states_TD = self.encoder.states(*step[:6], table_UD)
        asked_TD = states_TD[: len(step.targets_T)].float()
        inputs = asked_TD, self.encoder.compared(table_UD), bias_U
        return LOSSES[self.config.loss](self, inputs, step)

    def on_after_backward(self) -> None:
        """Average the gradients that DDP leaves alone: those of the step's rows, which all processes know."""
        for weight in self.encoder.parameters():
            if weight.grad is not None and weight.grad.is_sparse:
                self.trainer.strategy.reduce(stored_values(weight.grad), reduce_op="mean")

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: object, **__: object) -> None:
        """Clip to the norm that the configuration names; Lightning's own does not take sparse gradients."""
        clip_gradients(self.encoder.parameters(), self.config.clip_norm)

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of NDCG, HR and users; weights that are no numbers have nothing to rank."""
        if not all(weight.isfinite().all() for weight in self.encoder.parameters()):
            raise diverged(self.current_epoch + 1)
        self._sums = torch.zeros(3, dtype=torch.float64)
        self.fill_table()

    def fill_table(self) -> None:
        """Bring what validation reads of the items up to the weights."""
        self.encoder.refresh()

    def validation_step(self, places_B: NDArray[np.int64], batch_idx: int) -> None:
        """NDCG@10 and HR@10 of this process's share of a chunk, by the targets' rule for seen items."""
        assert self.validation is not None
        places_B = places_B[self.global_rank :: self.trainer.world_size]
        if not len(places_B):
            return
        histories = self.validation.histories.take(places_B)
        scores_BV = score_function(self.encoder, self.device)(histories)
        if self.validation.removes_seen:
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
        optimizer = RowAdamW(groups, lr=self.config.learning_rate, fused=True)
        steps = len(self.steps) * self.config.epochs
        warmup = max(int(self.config.warmup * steps), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, max(steps - step, 0) / max(steps - warmup, 1))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _full(module: EncoderTraining, inputs: Parts, step: Step) -> torch.Tensor:
    return full_cross_entropy(*inputs, step.targets_T, step.weights_T, bf16=module.bf16)


def _sampled(module: EncoderTraining, inputs: Parts, step: Step) -> torch.Tensor:
    log_chance_U = module.log_chance[step.rows_U]
    return sampled_softmax(*inputs, step.targets_T, step.negatives_n, log_chance_U, step.weights_T)


def _gbce(module: EncoderTraining, inputs: Parts, step: Step) -> torch.Tensor:
    return gbce(
        *inputs,
        step.targets_T,
        step.negatives_n,
        step.weights_T,
        n_items=module.encoder.n_items,
        calibration=module.config.calibration,
    )


LOSSES: dict[str, Callable[[EncoderTraining, Parts, Step], torch.Tensor]] = {
    "full": _full,
    "sampled": _sampled,
    "gbce": _gbce,
}
"""`training.loss` -> (module, what it compares, step) -> mean loss."""


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
    start: Callable[[EncoderConfig, int], Transformer] = build_encoder,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
) -> Fitted:
    """Train an encoder, or go on from the last checkpoint.

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
        start: the encoder with the weights that training starts from; default: fresh ones.
        on_epoch: called after every epoch (from 1) with its metrics.

    Raises:
        InputError: no training sequence has two events, or the device or the batch size does not fit the
            processes.
        KeyboardInterrupt: see `run_trainer`.
    """
    steps = checked_steps(model_config, config, training, n_items)
    processes = Processes.launched()
    started = time.perf_counter()
    with seeded(config.seed), cpu_threads(config.threads), quiet_lightning():
        encoder = start(model_config, n_items)
        module = EncoderTraining(encoder, steps, validation, config)
        chosen = run_trainer(
            module,
            config,
            checkpoints,
            processes,
            validates=validation is not None,
            resume=resume,
            stop_epoch=stop_epoch,
            on_epoch=on_epoch,
        )
    state = torch.load(chosen, map_location="cpu", weights_only=True, mmap=True)
    module.load_state_dict(state["state_dict"])
    encoder.refresh()
    seconds = time.perf_counter() - started
    return Fitted(encoder.cpu().eval(), int(state["epoch"]) + 1, seconds, processes.total)


def checked_steps(
    model_config: EncoderConfig, config: TrainingConfig, training: Ragged, n_items: int
) -> Steps:
    """The steps of a training that can begin on this machine.

    Raises:
        InputError: as `fit_encoder`.
    """
    steps, processes = Steps(training, n_items, model_config, config), Processes.launched()
    check_device(config, processes)
    steps.check_shares(processes.total)
    return steps
