"""The number format that models compute in."""

from __future__ import annotations

from typing import Literal

import torch

Dtype = Literal["auto", "bf16", "fp32"]


def compute_dtype(wanted: Dtype) -> torch.dtype:
    """bfloat16 where the recipe asks for it, or leaves it open and the hardware computes in it; otherwise float32.

    float16 is not offered: T5's activations overflow in it and training turns to NaN.
    """
    if wanted == "auto":
        return torch.bfloat16 if _computes_in_bf16() else torch.float32
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def _computes_in_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
