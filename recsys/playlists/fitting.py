"""The training loop that the encoders of playlists share.

Shapes: `W` windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.batching import number_of_batches, shuffled_batches
from recsys.playlists.settings import TrainedConfig
from recsys.progress import epoch_reporter

WARMUP = 0.05
CLIP_NORM = 5.0

Loss = Callable[[NDArray[np.int64], np.random.Generator], torch.Tensor]
"""(rows of a step, draws) -> the loss to go down."""


def descend(
    model: nn.Module,
    loss: Loss,
    count: int,
    config: TrainedConfig,
    seed: int,
    slow: tuple[torch.Tensor, float] | None = None,
) -> None:
    """Train with AdamW, a linear warm-up and a linear decay to 0; the model ends in evaluation mode.

    Args:
        model: fresh weights.
        loss: of the windows with these numbers.
        count: windows W of an epoch.
        config: epochs, batch size, learning rate and decay.
        seed: of batches and of what the loss draws.
        slow: a matrix that learns at this share of the learning rate, without decay.
    """
    table, share = slow or (None, 1.0)
    matrices = [
        parameter for parameter in model.parameters() if parameter.ndim > 1 and parameter is not table
    ]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if table is not None:
        groups.append({"params": [table], "weight_decay": 0.0, "lr": share * config.learning_rate})
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    steps = number_of_batches(count, config.batch_size) * config.epochs
    warmup = math.ceil(WARMUP * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(steps - warmup, 1))
    )
    model.train()
    with epoch_reporter(config.epochs) as report:
        for epoch in range(config.epochs):
            rng = np.random.default_rng([seed, epoch])
            total = 0.0
            for rows in shuffled_batches(count, config.batch_size, rng):
                optimizer.zero_grad()
                value = loss(rows, rng)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
                optimizer.step()
                schedule.step()
                total += float(value.detach()) * len(rows)
            report(epoch + 1, {"loss": total / count})
    model.eval().requires_grad_(False)
