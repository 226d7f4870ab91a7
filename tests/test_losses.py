"""Losses against PyTorch's own in float64, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsys import losses
from recsys.losses import block_rows, full_cross_entropy, gbce, sampled_softmax

V, D, T = 300, 8, 100
Loss = Callable[..., torch.Tensor]


def world(
    dtype: torch.dtype, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states, items, bias = (
        (scale * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
        for shape in ((T, D), (V + 2, D), (V,))
    )
    return states, items, bias, torch.randint(1, V + 1, (T,), generator=generator)


def with_gradients(loss: Loss, dtype: torch.dtype, scale: float = 1.0) -> list[torch.Tensor]:
    states, items, bias, targets = world(dtype, scale)
    value = loss(states, items, F.pad(bias, (1, 1), value=-torch.inf), targets)
    torch.autograd.backward(3 * value)  # a factor after the loss must reach every gradient
    assert states.grad is not None and items.grad is not None and bias.grad is not None
    return [value.detach(), states.grad, items.grad, bias.grad]


def plain(
    states: torch.Tensor, items: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    return F.cross_entropy(states @ items.T + bias, targets)


@pytest.mark.parametrize("block", [2**22, 2**16, 1])
# At scale 20 logits reach thousands, and many probabilities are too small for a float.
@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 1e-5), (20.0, 1e-3)])
def test_full_cross_entropy_is_pytorchs(
    monkeypatch: pytest.MonkeyPatch, block: int, scale: float, tolerance: float
) -> None:
    monkeypatch.setattr(losses, "CPU_BLOCK_BYTES", block)
    found = with_gradients(full_cross_entropy, torch.float32, scale)
    expected = with_gradients(plain, torch.float64, scale)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


def test_bfloat16_is_the_same_loss_to_its_own_precision() -> None:
    found = with_gradients(lambda *args: full_cross_entropy(*args, bf16=True), torch.float32)
    for ours, theirs in zip(found, with_gradients(plain, torch.float32), strict=True):
        error = (ours - theirs).norm() / theirs.norm()
        assert 0 < error < 0.02


def test_no_more_logits_than_a_block_are_held() -> None:
    cpu = torch.device("cpu")
    for n_items in (100, 12_101, 60_000, 1_000_000):
        for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
            rows = block_rows(n_items, dtype, cpu)
            assert rows % 32 == 0
            assert size * rows * n_items <= max(losses.CPU_BLOCK_BYTES, size * 32 * n_items)


def test_sampled_softmax_approaches_the_full_one_also_where_the_target_dominates() -> None:
    states, items, bias, targets = world(torch.float64)
    bias = F.pad(bias, (1, 1), value=-torch.inf).detach()
    states = (states + 0.4 * items[targets]).detach().requires_grad_()  # targets from 0.001 to 0.99
    chance = np.arange(1, V + 1) / np.arange(1, V + 1).sum()
    log_chance = torch.from_numpy(np.pad(np.log(chance), 1))
    rng = np.random.default_rng(0)
    full = plain(states, items, bias, targets)
    (full_gradient,) = torch.autograd.grad(full, states)
    errors = []
    for number in (30, 3000, 300_000):
        negatives = torch.from_numpy(rng.choice(V, number, p=chance) + 1)
        loss = sampled_softmax(states, items, bias, targets, negatives, log_chance)
        (gradient,) = torch.autograd.grad(loss, states)
        errors.append(((gradient - full_gradient).norm() / full_gradient.norm()).item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.03
    assert loss.item() == pytest.approx(full.item(), rel=0.01)


def test_a_negative_that_is_the_target_counts_once_and_others_by_their_chance() -> None:
    states, items, bias, targets = world(torch.float64)
    bias = F.pad(bias, (1, 1), value=-torch.inf)
    one = targets[:1]
    negatives = torch.cat([one, one % V + 1])
    uniform = torch.full((V + 2,), -math.log(V), dtype=torch.float64)
    loss = sampled_softmax(states[:1], items, bias, one, negatives, uniform)
    both = torch.stack([(states[0] * items[i]).sum() + bias[i] for i in (one[0], negatives[1])])
    stands_for = torch.tensor([0.0, math.log(V / 2)])  # two draws among V items
    torch.testing.assert_close(loss, F.cross_entropy((both + stands_for)[None], torch.tensor([0])))


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_is_the_papers_formula(calibration: float) -> None:
    states, items, bias, targets = world(torch.float64)
    bias = F.pad(bias, (1, 1), value=-torch.inf)
    negatives = torch.tensor([5, 9, 17, 17])
    targets = torch.where(torch.isin(targets, negatives), 1, targets)
    alpha = 4 / (V - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    scores = states @ items.T + bias
    positive = torch.sigmoid(scores.gather(1, targets[:, None])[:, 0])
    rest = 1 - torch.sigmoid(scores[:, negatives])
    expected = -(beta * positive.log() + rest.log().sum(1)).mean() / 5
    found = gbce(states, items, bias, targets, negatives, n_items=V, calibration=calibration)
    torch.testing.assert_close(found, expected)
    if calibration == 0:
        assert beta == 1
    if calibration == 1:
        assert beta == pytest.approx(alpha)
