"""Losses over the catalogue: pure functions of hidden states at the places that count.

For the full softmax item vectors and biases are those of the whole embedding, so that a row number is an item
index; PAD and MASK have the bias -inf and are never an answer. The losses over negatives take any rows of it.

Shapes: `T` places, `D` width, `V` rows of the item embedding, `U` some of them, `R` places of a block, `n`
negatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

CPU_BLOCK_BYTES = 5 * 2**20
"""Logits of a block: small enough for a CPU's caches, large enough for its matrix units (two thirds or twice
as many cost 5% more)."""
GPU_BLOCK_BYTES = 2**29
LEAST_ROWS = 32
"""A block never has fewer places, also where a catalogue is so large that it takes more bytes then (beyond
40,960 items in float32): with fewer, every place would read all item vectors from memory."""
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""States (T, D), item vectors and their biases, or the gradients there."""
SMALLEST_CHANCE = 1e-30
"""Below it the log of a probability is taken from the logits."""


def full_cross_entropy(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    weights_T: torch.Tensor | None = None,
    *,
    bf16: bool = False,
) -> torch.Tensor:
    """Mean negative log-likelihood, in nats, of the target items under softmax over the catalogue.

    Computed in blocks of places, each with its gradients at once, so that no more logits than one block's
    ever exist and none is computed twice. Memory: one block, and the three gradients.

    Args:
        states_TD: what the encoder says at each place.
        items_VD: item embedding.
        bias_V: its biases.
        targets_T: int64 item indices.
        weights_T: of the mean; None weighs all places alike.
        bf16: multiply in bfloat16; gradients are summed in float32.
    """
    inputs = states_TD, items_VD, bias_V
    dtype = torch.bfloat16 if bf16 else torch.float32
    with torch.no_grad(), torch.autocast(states_TD.device.type, enabled=False):
        return _with_gradients(inputs, *_full(*inputs, targets_T, _relative(weights_T), dtype))


def _relative(weights_T: torch.Tensor | None) -> torch.Tensor | None:
    """The weights, brought to the mean 1; all 0 where they are."""
    return None if weights_T is None else weights_T / weights_T.mean().clamp_min(SMALLEST_CHANCE)


def block_rows(n_items: int, dtype: torch.dtype, device: torch.device) -> int:
    """Most places of a block R, a multiple of 32."""
    budget = CPU_BLOCK_BYTES if device.type == "cpu" else GPU_BLOCK_BYTES
    return max(budget // (n_items * dtype.itemsize) // LEAST_ROWS, 1) * LEAST_ROWS


class _WithGradients(torch.autograd.Function):
    """A mean whose gradients are known with it: they depend on what comes after it but for a factor."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 -- torch's own
        states_TD: torch.Tensor,
        items_VD: torch.Tensor,
        bias_V: torch.Tensor,
        total: torch.Tensor,
        gradients: Parts,
    ) -> torch.Tensor:
        ctx.save_for_backward(*gradients)
        return total / len(states_TD)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        grad_states, grad_items, grad_bias = ctx.saved_tensors
        factor = grad / len(grad_states)
        return grad_states.mul_(factor), grad_items.mul_(factor), grad_bias.mul_(factor), None, None


def _with_gradients(inputs: Parts, total: torch.Tensor, gradients: Parts) -> torch.Tensor:
    """The mean over T places of a sum, with the sum's gradients at states, items and biases."""
    with torch.enable_grad():
        loss: torch.Tensor = _WithGradients.apply(*inputs, total, gradients)  # type: ignore[no-untyped-call]
    return loss


def _full(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    weights_T: torch.Tensor | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, Parts]:
    """Weighted sum of the cross-entropies, and its gradients."""
    T, V = len(states_TD), len(items_VD)
    padding = -T % LEAST_ROWS
    blocks = -(-T // block_rows(V, dtype, states_TD.device))
    rows = -(-T // (blocks * LEAST_ROWS)) * LEAST_ROWS
    # Rows of zeros, so that few shapes occur: kernels are compiled and kept for each.
    x_TD = F.pad(states_TD.to(dtype), (0, 0, 0, padding))
    counted_T = x_TD.new_ones(T) if weights_T is None else weights_T.to(dtype)
    counted_1T = F.pad(counted_T[None], (0, padding))
    # What a place adds to the gradients of items has its weight.
    weighted_TD = x_TD if weights_T is None else x_TD * counted_1T.T
    w_VD, b_V = items_VD.to(dtype), bias_V.to(dtype)
    grad_states = torch.empty_like(x_TD)
    grad_items = torch.zeros_like(items_VD)
    grad_bias = torch.zeros_like(bias_V)
    buffer_RV = x_TD.new_empty((rows, V))
    total = states_TD.new_zeros(())
    for start in range(0, T, rows):
        block = slice(start, start + rows)
        x_RD = x_TD[block]
        softmax_RV = buffer_RV[: len(x_RD)]
        torch.addmm(b_V, x_RD, w_VD.T, out=softmax_RV)
        torch.softmax(softmax_RV, dim=1, out=softmax_RV)  # a row is read to its end before it is written
        loss_R = _negative_log(softmax_RV, states_TD[block], items_VD, bias_V, targets_T[block])
        total += loss_R.sum() if weights_T is None else loss_R @ weights_T[block]
        torch.mm(softmax_RV, w_VD, out=grad_states[block])
        if dtype == grad_items.dtype:
            grad_items.addmm_(softmax_RV.T, weighted_TD[block])
        else:
            grad_items += torch.mm(softmax_RV.T, weighted_TD[block])
        grad_bias += torch.mm(counted_1T[:, block], softmax_RV)[0]
    # The gradient of a logit is its probability, less one at the target: what follows is the one.
    grad_states = grad_states[:T].float() - items_VD.index_select(0, targets_T)
    each_T, answering_TD = torch.ones_like(targets_T, dtype=bias_V.dtype), states_TD
    if weights_T is not None:
        grad_states *= weights_T[:, None]
        each_T, answering_TD = weights_T, states_TD * weights_T[:, None]
    grad_items.index_add_(0, targets_T, answering_TD, alpha=-1)
    grad_bias.index_add_(0, targets_T, each_T, alpha=-1)
    return total, (grad_states, grad_items, grad_bias)


def _negative_log(
    softmax_RV: torch.Tensor,
    states_RD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_R: torch.Tensor,
) -> torch.Tensor:
    """(R,) -log of the probabilities asked for; from the logits where one is too small for a float.

    Rows of probabilities beyond the targets are padding.
    """
    softmax_RV = softmax_RV[: len(targets_R)]
    chance_R = softmax_RV.gather(1, targets_R[:, None])[:, 0].float()
    small_R = chance_R < SMALLEST_CHANCE
    if not small_R.any():
        return -chance_R.log()
    best_R, likeliest_R = softmax_RV.max(1)
    best_logit_R, logit_R = (
        (states_RD * items_VD[rows_R]).sum(1) + bias_V[rows_R] for rows_R in (likeliest_R, targets_R)
    )
    return torch.where(small_R, best_logit_R - logit_R - best_R.float().log(), -chance_R.log())


def sampled_softmax(
    states_TD: torch.Tensor,
    items_UD: torch.Tensor,
    bias_U: torch.Tensor,
    targets_T: torch.Tensor,
    negatives_n: torch.Tensor,
    log_chance_U: torch.Tensor,
    weights_T: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean negative log-likelihood under softmax over the target and n negatives that all places share.

    A negative stands for 1 / (n q) items, q the chance that one draw gives it, so its logit is lowered by
    log(n q) ("log-Q"; Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model", 2008); the target stands for itself. The sum over the negatives estimates
    that over all items but the target, so that the loss approaches the full softmax as n grows. A negative
    that is a place's own target is left out there. Computed in blocks, as the full softmax is.

    Args:
        states_TD: what the encoder says at each place.
        items_UD: item vectors that may be targets or negatives.
        bias_U: their biases.
        targets_T: int64 rows of them.
        negatives_n: int64 rows of them, drawn with replacement.
        log_chance_U: log of the chance that one draw gives each.
        weights_T: of the mean; None weighs all places alike.
    """
    lowered_n = log_chance_U[negatives_n] + math.log(len(negatives_n))
    return _sampled((states_TD, items_UD, bias_U), targets_T, weights_T, negatives_n, lowered_n, _softmax)


def _softmax(target_R: torch.Tensor, negative_Rn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    whole_R = torch.logaddexp(negative_Rn.logsumexp(1), target_R)
    negative_Rn.sub_(whole_R[:, None]).exp_()
    return whole_R - target_R, torch.expm1(target_R - whole_R)


def gbce(
    states_TD: torch.Tensor,
    items_UD: torch.Tensor,
    bias_U: torch.Tensor,
    targets_T: torch.Tensor,
    negatives_n: torch.Tensor,
    weights_T: torch.Tensor | None = None,
    *,
    n_items: int,
    calibration: float,
) -> torch.Tensor:
    """Mean generalised binary cross-entropy of gSASRec (Petrov and Macdonald, RecSys 2023, arXiv 2308.07192).

    -(beta log sigmoid(s+) + sum over negatives of log(1 - sigmoid(s-))) / (n + 1), with alpha = n / (V - 1)
    and beta = alpha (t (1 - 1/alpha) + 1/alpha). What differs: all places of a step share the negatives. One
    that is a place's own target is left out there. Computed in blocks, as the full softmax is.

    Args:
        states_TD: what the encoder says at each place.
        items_UD: item vectors that may be targets or negatives.
        bias_U: their biases.
        targets_T: int64 rows of them.
        negatives_n: int64 rows of them, drawn uniformly.
        weights_T: of the mean; None weighs all places alike.
        n_items: V, at least 2.
        calibration: t, from 0 (plain binary cross-entropy) to 1 (probabilities that are calibrated).
    """
    number = len(negatives_n)
    alpha = number / (n_items - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)

    def binary(target_R: torch.Tensor, negative_Rn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss_R = beta * F.softplus(-target_R) + F.softplus(negative_Rn).sum(1)
        negative_Rn.sigmoid_().div_(number + 1)
        return loss_R / (number + 1), torch.sigmoid(-target_R) * (-beta / (number + 1))

    inputs = states_TD, items_UD, bias_U
    return _sampled(inputs, targets_T, weights_T, negatives_n, torch.zeros(()), binary)


def _sampled(
    inputs: Parts,
    targets_T: torch.Tensor,
    weights_T: torch.Tensor | None,
    negatives_n: torch.Tensor,
    lowered: torch.Tensor,
    part: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """Mean loss of logits of the targets (R,) and of the negatives (R, n), block by block.

    Args:
        inputs: states, item vectors and their biases.
        targets_T: rows of the item vectors.
        weights_T: of the mean; None weighs all places alike.
        negatives_n: rows of the item vectors.
        lowered: () or (n,) what is taken from the negatives' logits, which are -inf where one is the target.
        part: (R,) losses of a block, and their gradients at the targets' logits; it leaves their gradients at
            the negatives' logits in their place.
    """
    relative_T = _relative(weights_T)
    with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        states_TD, items_UD, bias_U = inputs
        negative_nD, offset_n = items_UD[negatives_n], bias_U[negatives_n] - lowered
        rows = block_rows(len(negatives_n), states_TD.dtype, states_TD.device)
        logits = states_TD.new_empty((min(rows, len(states_TD)), len(negatives_n)))
        gradients = torch.empty_like(states_TD), torch.zeros_like(items_UD), torch.zeros_like(bias_U)
        grad_nD, grad_n = torch.zeros_like(negative_nD), torch.zeros_like(offset_n)
        total = states_TD.new_zeros(())
        for start in range(0, len(states_TD), rows):
            x_RD, target_R = states_TD[start : start + rows], targets_T[start : start + rows]
            target_RD, logits_Rn = items_UD[target_R], logits[: len(x_RD)]
            torch.addmm(offset_n, x_RD, negative_nD.T, out=logits_Rn)
            logits_Rn.masked_fill_(target_R[:, None] == negatives_n, -torch.inf)
            loss_R, grad_R = part((x_RD * target_RD).sum(1) + bias_U[target_R], logits_Rn)
            if relative_T is not None:
                weight_R = relative_T[start : start + rows]
                loss_R, grad_R = loss_R * weight_R, grad_R * weight_R
                logits_Rn.mul_(weight_R[:, None])
            total += loss_R.sum()
            torch.addmm(
                grad_R[:, None] * target_RD, logits_Rn, negative_nD, out=gradients[0][start : start + rows]
            )
            gradients[1].index_add_(0, target_R, grad_R[:, None] * x_RD)
            gradients[2].index_add_(0, target_R, grad_R)
            grad_nD.addmm_(logits_Rn.T, x_RD)
            grad_n += logits_Rn.sum(0)
        gradients[1].index_add_(0, negatives_n, grad_nD)
        gradients[2].index_add_(0, negatives_n, grad_n)
        return _with_gradients(inputs, total, gradients)
