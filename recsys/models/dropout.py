"""Dropout whose random numbers cost one byte each.

PyTorch's own draws a float for every value, which on a CPU took longer than the matrix product before it
(1.3 ms against 0.5 ms for 1,800 x 64 values; this one 0.2 ms).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def dropout(values: torch.Tensor, probability: float) -> torch.Tensor:
    """Zero each value with this probability and scale the others up; the caller knows that it is training.

    On a CPU the probability is rounded to a multiple of 1/256, and the scale goes with the rounded one.

    Args:
        values: any shape.
        probability: of a zero, in [0, 1).
    """
    dropped = min(round(256 * probability), 255)
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    if not dropped:
        return values
    words = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    bytes_ = words.view(torch.uint8)[: values.numel()].view(values.shape)
    scale = 256 / (256 - dropped)
    return values * (bytes_ >= dropped).to(values.dtype).mul_(scale)
