"""The number format that models compute in."""

from __future__ import annotations

from typing import Literal

import torch

from kard.errors import UserError

Dtype = Literal["auto", "bf16", "fp16", "fp32"]
# Models whose activations are too large for float16 (above 65,504), by what is in their type: training turns to NaN in it.
_OVERFLOWING = ("t5", "gemma")


def compute_dtype(wanted: Dtype, kind: str = "") -> torch.dtype:
    """The number format that is asked for; of ``auto`` the fastest that the hardware computes in and the model can stand:
    bfloat16, on GPUs without it float16, otherwise float32.

    Args:
        wanted: ``student.dtype``.
        kind: The model's type (``model_type`` of its configuration); "": any that can stand all.

    Raises:
        UserError: The GPU would only emulate bfloat16, there is no GPU for float16, or the model cannot stand it.
    """
    overflows = any(name in kind for name in _OVERFLOWING)
    if wanted == "auto":
        if _computes_in_bf16():
            return torch.bfloat16
        return torch.float16 if torch.cuda.is_available() and not overflows else torch.float32
    if wanted == "bf16" and torch.cuda.is_available() and not _computes_in_bf16():
        raise UserError("student.dtype: this GPU only emulates bf16, more slowly than fp32. Set it to auto.")
    if wanted == "fp16" and overflows:
        raise UserError(
            f"student.dtype: in fp16 the activations of a model of type '{kind}' overflow and training turns to NaN. Set it to "
            "auto, bf16 or fp32."
        )
    if wanted == "fp16" and not torch.cuda.is_available():
        raise UserError("student.dtype: fp16 is for GPUs, and there is none. Set it to auto.")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[wanted]


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Forward passes in a number format, of weights in float32."""
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def _computes_in_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):  # ATEN_CPU_CAPABILITY can hold PyTorch back
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
