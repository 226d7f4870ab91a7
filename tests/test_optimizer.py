"""The optimizer of row-sparse gradients, against PyTorch's AdamW and by what it leaves alone."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsys.config import BERT4RecConfig, SASRecConfig, TrainingConfig
from recsys.models import build_encoder
from recsys.optimizer import RowAdamW, clip_gradients
from recsys.steps import Steps
from recsys.training import EncoderTraining
from tests.worlds import ring

V, D = 12, 4
SETTINGS: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}


def run(optimizer: torch.optim.Optimizer, weight: torch.Tensor, steps: int, rows: torch.Tensor) -> None:
    goal = torch.arange(V * D, dtype=torch.float32).view(V, D) / 10
    sparse = isinstance(optimizer, RowAdamW)
    for step in range(steps):
        optimizer.zero_grad()
        loss = ((F.embedding(rows, weight, sparse=sparse) - goal[rows]) ** 2 * (step + 1)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        assert weight.grad.is_sparse == sparse
        optimizer.step()


def start() -> torch.Tensor:
    return torch.randn((V, D), generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("fused", [True, None])
def test_it_is_adamw_where_every_step_uses_every_row(fused: bool | None) -> None:
    rows = torch.cat([torch.arange(V), torch.tensor([3, 3, 7])])  # a row may be used more than once
    ours, theirs = start(), start()
    run(RowAdamW([ours], fused=fused, **SETTINGS), ours, 20, rows)
    run(torch.optim.AdamW([theirs], fused=fused, **SETTINGS), theirs, 20, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rows_that_a_step_does_not_use_stay_as_they_are() -> None:
    weight, before = start(), start()
    optimizer = RowAdamW([weight], fused=True, **SETTINGS)
    run(optimizer, weight, 3, torch.tensor([1, 4]))
    moments = {name: value.clone() for name, value in optimizer.state[weight].items()}
    run(optimizer, weight, 3, torch.tensor([4, 9]))
    changed = (weight != before).any(1).nonzero().flatten().tolist()
    assert changed == [1, 4, 9]
    assert moments["exp_avg"][1].abs().min() > 0
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[weight][name][1], moments[name][1])
    assert optimizer.state[weight]["step"] == 6


def test_clipping_takes_dense_and_sparse_gradients_together() -> None:
    table, vector = start(), torch.ones(3, requires_grad=True)
    (F.embedding(torch.tensor([2, 5]), table, sparse=True).sum() * 3 + (vector * 4).sum()).backward()  # type: ignore[no-untyped-call]
    norm = np.sqrt(8 * 3**2 + 3 * 4**2)
    clip_gradients([table, vector, start()], 100.0)
    assert vector.grad is not None and table.grad is not None
    assert vector.grad.tolist() == [4.0] * 3
    clip_gradients([table, vector], 1.0)
    assert vector.grad.tolist() == pytest.approx([4 / norm] * 3, rel=1e-5)
    assert table.grad.to_dense()[[2, 5]].flatten().tolist() == pytest.approx([3 / norm] * 8, rel=1e-5)


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
@pytest.mark.parametrize("model", [BERT4RecConfig, SASRecConfig])
def test_a_steps_rows_give_the_gradient_of_the_whole_table(
    model: type[BERT4RecConfig | SASRecConfig], loss: Literal["sampled", "gbce"]
) -> None:
    config = model(dim=8, layers=1, max_length=12, dropout=0.0)
    training = TrainingConfig(batch_size=4, loss=loss, negatives=5, precision="fp32")
    steps = Steps(ring(90, 12), 90, config, training)
    step = next(iter(steps))
    assert step.rows_U is not None
    assert 2 < len(step.rows_U) < 92
    rows = step.rows_U
    whole = step._replace(
        items_RL=rows[step.items_RL],
        targets_T=rows[step.targets_T],
        negatives_n=rows[step.negatives_n],
        rows_U=torch.arange(92),
    )
    gradients = []
    for each in (step, whole):
        torch.manual_seed(0)
        encoder = build_encoder(config, 90).train()
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.1)
        module = EncoderTraining(encoder, steps, None, training)
        value = module.loss(each)
        value.backward()  # type: ignore[no-untyped-call]
        found = {name: weight.grad for name, weight in encoder.named_parameters()}
        gradients.append({name: grad.to_dense() for name, grad in found.items() if grad is not None})
        gradients[-1]["loss"] = value.detach()
        table, used = found["item_embedding.weight"], each.rows_U
        assert table is not None and used is not None
        assert table._indices()[0].tolist() == used.tolist()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-6)
