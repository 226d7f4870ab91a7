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

LOGITS_IN_CACHE = 2**20
"""Logits of a block on a CPU: small enough for its caches, large enough for its matrix units."""
LOGITS_ON_GPU = 2**27
LEAST_ROWS = 16
"""A block never has fewer places (of a catalogue beyond 65,536 items it holds 16 V logits): with fewer, every
place would read all item vectors from memory."""


def full_cross_entropy(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
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
        bf16: multiply in bfloat16; gradients are summed in float32.
    """
    loss: torch.Tensor = _BlockwiseCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_TD, items_VD, bias_V, targets_T, torch.bfloat16 if bf16 else torch.float32
    )
    return loss


def block_rows(n_items: int, device: torch.device) -> int:
    """Places of a block R, a multiple of 16."""
    logits = LOGITS_IN_CACHE if device.type == "cpu" else LOGITS_ON_GPU
    return max(logits // n_items // LEAST_ROWS, 1) * LEAST_ROWS


class _BlockwiseCrossEntropy(torch.autograd.Function):
    """The loss's gradient does not depend on what comes after it but for a factor: forward computes it."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 -- torch's own
        states_TD: torch.Tensor,
        items_VD: torch.Tensor,
        bias_V: torch.Tensor,
        targets_T: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        T, V = len(states_TD), len(items_VD)
        with torch.autocast(states_TD.device.type, enabled=False):
            x_TD, w_VD, b_V = states_TD.to(dtype), items_VD.to(dtype), bias_V.to(dtype)
            grad_states = torch.empty_like(x_TD)
            grad_items = torch.zeros(items_VD.shape, dtype=torch.float32, device=items_VD.device)
            grad_bias = torch.zeros(V, dtype=torch.float32, device=items_VD.device)
            loss = torch.zeros((), dtype=torch.float32, device=states_TD.device)
            rows = min(block_rows(V, states_TD.device), T)
            logits_buffer, softmax_buffer = x_TD.new_empty((2, rows, V))
            for start in range(0, T, rows):
                x_RD, asked_R1 = x_TD[start : start + rows], targets_T[start : start + rows, None]
                logits_RV = torch.addmm(b_V, x_RD, w_VD.T, out=logits_buffer[: len(x_RD)])
                softmax_RV = torch.softmax(logits_RV, dim=1, out=softmax_buffer[: len(x_RD)])
                # log sum exp from the largest logit and its probability, which is never too small for a log.
                normaliser_R = logits_RV.amax(1).float() - softmax_RV.amax(1).float().log()
                loss += (normaliser_R - logits_RV.gather(1, asked_R1)[:, 0].float()).sum()
                softmax_RV.scatter_add_(
                    1, asked_R1, asked_R1.new_full((), -1, dtype=dtype).expand_as(asked_R1)
                )
                torch.mm(softmax_RV, w_VD, out=grad_states[start : start + rows])
                if dtype is torch.float32:
                    grad_items.addmm_(softmax_RV.T, x_RD)
                else:
                    grad_items += torch.mm(softmax_RV.T, x_RD)
                grad_bias += softmax_RV.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_states, grad_items, grad_bias)
        return loss / T

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        grad_states, grad_items, grad_bias = ctx.saved_tensors
        factor = grad / len(grad_states)
        return grad_states.float().mul_(factor), grad_items.mul_(factor), grad_bias.mul_(factor), None, None


def sampled_softmax(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    negatives_n: torch.Tensor,
    log_chance_V: torch.Tensor,
) -> torch.Tensor:
    """Mean negative log-likelihood under softmax over the target and n negatives that all places share.

    Every logit is lowered by the log of how often its item is expected among the negatives (Bengio and
    Senecal 2008; "log-Q"), so that the gradient approaches the full softmax's as n grows. A negative that is
    a place's own target is left out there.

    Args:
        states_TD: what the encoder says at each place.
        items_VD: item embedding.
        bias_V: its biases.
        targets_T: int64 item indices.
        negatives_n: int64 item indices, drawn with replacement.
        log_chance_V: log of the chance that one draw gives the item.
    """
    expected_V = log_chance_V + math.log(len(negatives_n))
    target_T, negative_Tn = _logits(states_TD, items_VD, bias_V - expected_V, targets_T, negatives_n)
    return F.cross_entropy(torch.cat([target_T[:, None], negative_Tn], dim=1), torch.zeros_like(targets_T))


def gbce(
    states_TD: torch.Tensor,
    items_VD: torch.Tensor,
    bias_V: torch.Tensor,
    targets_T: torch.Tensor,
    negatives_n: torch.Tensor,
    *,
    calibration: float,
) -> torch.Tensor:
    """Mean generalised binary cross-entropy of gSASRec (Petrov and Macdonald, RecSys 2023, equations 9, 13).

    -(beta log sigmoid(s+) + sum over negatives of log(1 - sigmoid(s-))), with alpha = n / (V - 1) and
    beta = alpha (t (1 - 1/alpha) + 1/alpha). A negative that is a place's own target is left out there.

    Args:
        states_TD: what the encoder says at each place.
        items_VD: item embedding, PAD and MASK among its V+2 rows.
        bias_V: its biases.
        targets_T: int64 item indices.
        negatives_n: int64 item indices, drawn uniformly.
        calibration: t, from 0 (plain binary cross-entropy) to 1 (probabilities that are calibrated).
    """
    alpha = len(negatives_n) / (len(items_VD) - 3)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    target_T, negative_Tn = _logits(states_TD, items_VD, bias_V, targets_T, negatives_n)
    return (beta * F.softplus(-target_T) + F.softplus(negative_Tn).sum(1)).mean()


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
