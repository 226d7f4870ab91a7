"""Losses over the catalogue: pure functions of hidden states at the places that count.

Item vectors and biases are those of the whole embedding, so that a row number is an item index; PAD and MASK
have the bias -inf and are never an answer.

Shapes: `T` places, `D` width, `V` rows of the item embedding, `R` places of a block, `n` negatives.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

CPU_BLOCK_BYTES = 2**22
"""Logits of a block: small enough for a CPU's caches, large enough for its matrix units (a fourth or four
times as many cost 5% to 20% more)."""
GPU_BLOCK_BYTES = 2**29
LEAST_ROWS = 32
"""A block never has fewer places, also where a catalogue is so large that it takes more bytes then (beyond
32,768 items in float32): with fewer, every place would read all item vectors from memory."""
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
    loss: torch.Tensor = _BlockwiseCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_TD, items_VD, bias_V, targets_T, weights_T, torch.bfloat16 if bf16 else torch.float32
    )
    return loss


def block_rows(n_items: int, dtype: torch.dtype, device: torch.device) -> int:
    """Most places of a block R, a multiple of 32."""
    budget = CPU_BLOCK_BYTES if device.type == "cpu" else GPU_BLOCK_BYTES
    return max(budget // (n_items * dtype.itemsize) // LEAST_ROWS, 1) * LEAST_ROWS


class _BlockwiseCrossEntropy(torch.autograd.Function):
    """The loss's gradient does not depend on what comes after it but for a factor: forward computes it."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 -- torch's own
        states_TD: torch.Tensor,
        items_VD: torch.Tensor,
        bias_V: torch.Tensor,
        targets_T: torch.Tensor,
        weights_T: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        T, V = len(states_TD), len(items_VD)
        padding = -T % LEAST_ROWS
        blocks = -(-T // block_rows(V, dtype, states_TD.device))
        rows = -(-T // (blocks * LEAST_ROWS)) * LEAST_ROWS
        with torch.autocast(states_TD.device.type, enabled=False):
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
            buffers = x_TD.new_empty((2, rows, V))
            loss = states_TD.new_zeros(())
            for start in range(0, T, rows):
                block = slice(start, start + rows)
                x_RD, asked_R1 = x_TD[block], targets_T[block, None]
                logits_RV, softmax_RV = buffers[:, : len(x_RD)]
                torch.addmm(b_V, x_RD, w_VD.T, out=logits_RV)
                torch.softmax(logits_RV, dim=1, out=softmax_RV)
                loss += _negative_log(
                    softmax_RV, logits_RV, asked_R1, None if weights_T is None else weights_T[block]
                )
                torch.mm(softmax_RV, w_VD, out=grad_states[block])
                if dtype == grad_items.dtype:
                    grad_items.addmm_(softmax_RV.T, weighted_TD[block])
                else:
                    grad_items += torch.mm(softmax_RV.T, weighted_TD[block])
                grad_bias += torch.mm(counted_1T[:, block], softmax_RV)[0]
        # The gradient of a logit is its probability, less one at the target: what follows is the one.
        grad_states = grad_states[:T].float() - items_VD.index_select(0, targets_T)
        answers_TD, total = states_TD, float(T)
        each_T = torch.ones_like(targets_T, dtype=bias_V.dtype)
        if weights_T is not None:
            answers_TD, each_T = states_TD * weights_T[:, None], weights_T
            total = max(float(weights_T.sum()), SMALLEST_CHANCE)
            grad_states *= weights_T[:, None]
        grad_items.index_add_(0, targets_T, answers_TD, alpha=-1)
        grad_bias.index_add_(0, targets_T, each_T, alpha=-1)
        ctx.save_for_backward(grad_states, grad_items, grad_bias)
        ctx.total = total
        return loss / total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        grad_states, grad_items, grad_bias = ctx.saved_tensors
        factor = grad / ctx.total
        return grad_states.mul_(factor), grad_items.mul_(factor), grad_bias.mul_(factor), None, None, None


def _negative_log(
    softmax_RV: torch.Tensor, logits_RV: torch.Tensor, asked_R1: torch.Tensor, weights_R: torch.Tensor | None
) -> torch.Tensor:
    """Weighted sum of -log of the probabilities asked; from the logits where one is too small for a float.

    Rows beyond those that are asked for are padding.
    """
    softmax_RV, logits_RV = softmax_RV[: len(asked_R1)], logits_RV[: len(asked_R1)]
    chance_R = softmax_RV.gather(1, asked_R1)[:, 0].float()
    small_R = chance_R < SMALLEST_CHANCE
    loss_R = -chance_R.log()
    if small_R.any():
        exact_R = logits_RV.float().logsumexp(1) - logits_RV.gather(1, asked_R1)[:, 0].float()
        loss_R = torch.where(small_R, exact_R, loss_R)
    return loss_R.sum() if weights_R is None else loss_R @ weights_R


def _mean(loss_T: torch.Tensor, weights_T: torch.Tensor | None) -> torch.Tensor:
    """The mean, weighted where there are weights."""
    if weights_T is None:
        return loss_T.mean()
    return (loss_T * weights_T).sum() / weights_T.sum().clamp_min(SMALLEST_CHANCE)


def sampled_softmax(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    negatives_n: torch.Tensor,
    log_chance_V: torch.Tensor,
    weights_T: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean negative log-likelihood under softmax over the target and n negatives that all places share.

    A negative stands for 1 / (n q) items, q the chance that one draw gives it, so its logit is lowered by
    log(n q) ("log-Q"; Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model", 2008); the target stands for itself. The sum over the negatives estimates
    that over all items but the target, so that the loss approaches the full softmax as n grows. A negative
    that is a place's own target is left out there. All T x n logits are held at once.

    Args:
        states_TD: what the encoder says at each place.
        items_VD: item embedding.
        bias_V: its biases.
        targets_T: int64 item indices.
        negatives_n: int64 item indices, drawn with replacement.
        log_chance_V: log of the chance that one draw gives the item.
        weights_T: of the mean; None weighs all places alike.
    """
    target_T, negative_Tn = _logits(states_TD, items_VD, bias_V, targets_T, negatives_n)
    negative_Tn = negative_Tn - (log_chance_V[negatives_n] + math.log(len(negatives_n)))
    logits_Tn = torch.cat([target_T[:, None], negative_Tn], dim=1)
    return _mean(F.cross_entropy(logits_Tn, torch.zeros_like(targets_T), reduction="none"), weights_T)


def gbce(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    negatives_n: torch.Tensor,
    weights_T: torch.Tensor | None = None,
    *,
    calibration: float,
) -> torch.Tensor:
    """Mean generalised binary cross-entropy of gSASRec (Petrov and Macdonald, RecSys 2023, arXiv 2308.07192).

    -(beta log sigmoid(s+) + sum over negatives of log(1 - sigmoid(s-))) / (n + 1), with alpha = n / (V - 1)
    and beta = alpha (t (1 - 1/alpha) + 1/alpha). What differs: all places of a step share the negatives. One
    that is a place's own target is left out there. All T x n logits are held at once.

    Args:
        states_TD: what the encoder says at each place.
        items_VD: item embedding, PAD and MASK among its V+2 rows; V at least 2.
        bias_V: its biases.
        targets_T: int64 item indices.
        negatives_n: int64 item indices, drawn uniformly.
        weights_T: of the mean; None weighs all places alike.
        calibration: t, from 0 (plain binary cross-entropy) to 1 (probabilities that are calibrated).
    """
    alpha = len(negatives_n) / (len(items_VD) - 3)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    target_T, negative_Tn = _logits(states_TD, items_VD, bias_V, targets_T, negatives_n)
    summed_T = beta * F.softplus(-target_T) + F.softplus(negative_Tn).sum(1)
    return _mean(summed_T, weights_T) / (len(negatives_n) + 1)


def _logits(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    negatives_n: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(T,) logits of the targets and (T, n) of the negatives, -inf where one is the target itself."""
    target_T = (states_TD * F.embedding(targets_T, items_VD)).sum(1) + bias_V[targets_T]
    negative_Tn = torch.addmm(bias_V[negatives_n], states_TD, F.embedding(negatives_n, items_VD).T)
    return target_T, negative_Tn.masked_fill(targets_T[:, None] == negatives_n, -torch.inf)
