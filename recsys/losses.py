"""Losses: pure functions of hidden states at the positions that count.

Shapes: `T` target positions, `D` width, `V` items.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def full_cross_entropy(
    states_TD: torch.Tensor, items_VD: torch.Tensor, bias_V: torch.Tensor, targets_T: torch.Tensor
) -> torch.Tensor:
    """Mean negative log-likelihood, in nats, of the target items under softmax over the catalogue.

    Args:
        states_TD: transformed hidden states at the masked positions.
        items_VD: item vectors; row j is item j+1.
        bias_V: item biases.
        targets_T: int64 item indices in 1..V.
    """
    return F.cross_entropy(torch.addmm(bias_V, states_TD, items_VD.T), targets_T - 1)
