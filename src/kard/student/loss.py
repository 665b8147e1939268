"""Cross-entropy of written tokens, few rows at a time: a vocabulary is wide, and each pass over all its logits takes long."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits that are in float32 at once: few enough to stay in a processor's cache.
_AT_ONCE = 1 << 21
# exp of it is as good as nothing, and still a normal number: processors are slow with the others.
_LOWEST = -70.0


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over tokens of −log softmax(logits)[target], computed in float32 whatever the logits' format.

    The gradient is computed along with it, in the logits' format; no float32 copy of all logits is made.

    Args:
        logits: (tokens, vocabulary).
        targets: Ids of the right tokens, (tokens,).
    """
    total: Tensor = _TokenLoss.apply(logits, targets)
    return total


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=logits.device)
        rows = max(1, _AT_ONCE // logits.shape[-1])
        for begin in range(0, len(logits), rows):
            some = slice(begin, begin + rows)
            values, right = logits[some].float(), targets[some, None]
            highest = values.amax(dim=-1, keepdim=True)
            shares = (values - highest).clamp_(min=_LOWEST).exp_()
            sums = shares.sum(dim=-1, keepdim=True)
            total += (sums.log() + highest - values.gather(-1, right)).sum()
            if gradient is not None:
                shares /= sums
                gradient[some] = shares.scatter_add_(-1, right, shares.new_full(right.shape, -1.0))
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient * weight, None
