"""Dropout for CPUs: PyTorch draws one random number for each value there, on one core; here a number serves four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LEVELS = 1 << 16


class QuickDropout(TorchFunctionMode):
    """While it is entered, `torch.nn.functional.dropout` (and with it every dropout layer) is `dropout`."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (dropout if func is functional.dropout else func)(*args, **(kwargs or {}))


def dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.dropout`, with four values to a 64-bit random number of PyTorch's generator.

    Args:
        values: Of any shape, on the CPU.
        p: Share of values that become 0, met to 1/65,536; the others grow, so that the expected value stays exactly.
        training: Otherwise nothing is dropped.
        inplace: Not looked at: the result is a new tensor.
    """
    dropped = round(p * _LEVELS)
    if not training or dropped == 0:
        return values
    if dropped == _LEVELS:
        return values * 0
    count = values.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[:count].view(values.shape) >= dropped - _LEVELS // 2
    return values * kept.to(values.dtype).mul_(_LEVELS / (_LEVELS - dropped))
