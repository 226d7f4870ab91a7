"""The largest scores of each row, through the maxima of groups of columns.

Shapes: `B` rows, `V` columns, `G` groups of columns, `K` largest.
"""

from __future__ import annotations

import torch

from recsys.errors import InputError

GROUPS = ((8, 256), (32, 2048))
"""Size of a group, while V is less than so many times K: V / size maxima and K size scores are looked at."""
GROUP = 64


def top_k(scores_BV: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, k) float32 best scores and (B, k) int64 their columns, best first, equal scores by column.

    Args:
        scores_BV: float32 scores, unchanged.
        k: at most V.

    Raises:
        InputError: a score is NaN.
    """
    (rows, width), device = scores_BV.shape, scores_BV.device
    size = next((size for size, times in GROUPS if width < times * k), GROUP)
    whole = width // size * size
    maxima = [scores_BV[:, :whole].view(rows, -1, size).amax(dim=2)] if whole else []
    if whole < width:
        maxima.append(scores_BV[:, whole:].amax(dim=1, keepdim=True))
    maxima_BG = torch.cat(maxima, dim=1)
    if bool(maxima_BG.isnan().any()):  # a maximum hands a NaN on
        raise InputError(
            "the model gave NaN scores; nothing can be ranked: train it again, or mend the scorer"
        )
    groups_BK = _best(maxima_BG, torch.arange(maxima_BG.shape[1], device=device).expand_as(maxima_BG), k)
    columns = (groups_BK[:, :, None] * size + torch.arange(size, device=device)).view(rows, -1)
    outside = columns >= width
    candidates = scores_BV.gather(1, columns.clamp(max=width - 1))
    candidates.masked_fill_(outside, -torch.inf)
    best = _best(candidates, columns, k)
    return candidates.gather(1, best), columns.gather(1, best)


def _best(scores: torch.Tensor, columns: torch.Tensor, k: int) -> torch.Tensor:
    """(B, <= k) places of the best scores in each row; of equal ones, those with the lower column first."""
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: -0.0 equals 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # float32 bits as integers of the same order
    return ((ordered << 32) - columns).topk(min(k, scores.shape[1]), dim=1).indices
