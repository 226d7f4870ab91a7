"""AdamW whose cost follows the rows that a step used, not the rows that there are.

Shapes: `V` rows of a weight, `U` rows of a step, `D` width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class RowAdamW(torch.optim.AdamW):
    """AdamW that changes, of a weight with a sparse gradient, the rows of that gradient alone.

    Decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101) and bias correction by the number of all
    steps, as in PyTorch's. What differs: a row that a step did not use is neither decayed nor moved by the
    momentum of former steps, and its two moments wait unchanged until it is used again. Where every step uses
    every row it is AdamW. Weights with dense gradients go to PyTorch's own, `fused` and all.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update once; `closure` computes the gradients, which are consumed where they are sparse."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and weight.grad.is_sparse:
                    self._update_rows(weight, group)
                    weight.grad = None
        super().step()
        return loss

    def _update_rows(self, weight_VD: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = weight_VD.grad.coalesce()  # type: ignore[union-attr]
        rows_U, gradient_UD = gradient.indices()[0], gradient.values()
        state = self.state[weight_VD]
        if not state:  # the pages of zeros become memory when a row on them is used
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight_VD), torch.zeros_like(weight_VD)
        state["step"] += 1
        (beta1, beta2), rate, steps = group["betas"], group["lr"], state["step"].item()
        first_UD = state["exp_avg"].index_select(0, rows_U).lerp_(gradient_UD, 1 - beta1)
        second_UD = state["exp_avg_sq"].index_select(0, rows_U).mul_(beta2)
        second_UD.addcmul_(gradient_UD, gradient_UD, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows_U, first_UD)
        state["exp_avg_sq"].index_copy_(0, rows_U, second_UD)
        root_UD = second_UD.sqrt_().div_(math.sqrt(1 - beta2**steps)).add_(group["eps"])
        moved_UD = weight_VD.index_select(0, rows_U).mul_(1 - rate * group["weight_decay"])
        moved_UD.addcdiv_(first_UD, root_UD, value=-rate / (1 - beta1**steps))
        weight_VD.index_copy_(0, rows_U, moved_UD)


def clip_gradients(weights: Iterable[torch.Tensor], largest: float) -> None:
    """Scale all gradients together so that their common norm is at most `largest`.

    PyTorch's own function does not take sparse gradients. Here no row may occur twice in one.
    """
    gradients = [stored_values(weight.grad) for weight in weights if weight.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for each in gradients:
        each.mul_(factor)


def stored_values(gradient: torch.Tensor) -> torch.Tensor:
    """The values that a gradient, dense or sparse, holds; to be changed in place."""
    return gradient._values() if gradient.is_sparse else gradient
