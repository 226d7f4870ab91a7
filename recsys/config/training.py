"""The section about training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys.config.base import Config


class TrainingConfig(Config):
    """How an encoder is trained; counting models need none of it."""

    epochs: int = Field(80, ge=1, description="at most so many passes; the learning rate reaches 0 there")
    fit: Literal["training", "training+validation"] = Field(
        "training",
        description="events to fit to; with the validation targets there is nothing to stop early by: all "
        "`epochs` are trained, and only test figures are given",
    )
    batch_size: int = Field(
        128,
        ge=1,
        description="sequences (windows of at most `max_length`) of a step; left open, the data decides",
    )
    loss: Literal["full", "sampled", "gbce"] = Field(
        "full",
        description="softmax over the whole catalogue, or over negatives, or gSASRec's gBCE; left open, the "
        "catalogue decides",
    )
    negatives: int = Field(1024, ge=1, description="sampled, gbce: negatives that a step draws")
    negative_power: float = Field(
        0.5,
        ge=0,
        le=1,
        description="sampled: an item is drawn as its training count to this power; 0 uniformly",
    )
    calibration: float = Field(0.75, ge=0, le=1, description="gbce: t, from plain to calibrated")
    event_weights: dict[str, Annotated[float, Field(ge=0, le=1e6)]] | None = Field(
        None,
        description="event type -> weight of such an event as a target of the loss, 0 for context alone; a "
        "type that is not named weighs 1",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of matrix products; auto: bf16 where the processor has it"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak rate, after the warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps that warm up linearly from 0")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay; not on biases and LayerNorm")
    clip_norm: float = Field(5.0, gt=0, description="largest gradient norm")
    validate_every: int = Field(
        1, ge=1, description="epochs between validations; left open, up to 5, a divisor of `epochs`"
    )
    patience: int = Field(10, ge=1, description="validations without a better NDCG@10 before stopping")
    seed: int = Field(0, ge=0, description="seed of weights, masks, batches and dropout")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: PyTorch's own choice")

    @model_validator(mode="after")
    def _last_epoch_is_validated(self) -> TrainingConfig:
        if self.epochs > self.validate_every and self.epochs % self.validate_every:
            raise ValueError(
                f"epochs {self.epochs} is not a multiple of validate_every {self.validate_every}: the last "
                "epochs would never be validated"
            )
        return self
