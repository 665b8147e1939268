"""Dropout for CPUs: PyTorch draws one random number for each value there, on one core; here a number serves four."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

_LEVELS = 1 << 16


@contextmanager
def quick_dropout() -> Iterator[None]:
    """In here `torch.nn.functional.dropout`, and with it every dropout layer, is `dropout`.

    Put in its place by name: a mode of PyTorch's is off while gradient checkpointing computes layers again, which would then
    draw other masks.
    """
    with patch.object(functional, "dropout", dropout):
        yield


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
