"""The number format by hardware and model, on a GPU that is made believe."""

from __future__ import annotations

import pytest
import torch

from kard.errors import UserError
from kard.models.precision import compute_dtype
from kard.models.training import training_arguments


@pytest.fixture
def gpu(monkeypatch):
    """A card without bfloat16 (T4, V100), or with it."""

    def card(native: bool):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation
        )

    return card


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("llama", "float16"), ("qwen3", "float16"), ("bert", "float16"), ("t5", "float32"), ("gemma3_text", "float32")],
)
def test_a_card_without_bfloat16_computes_in_float16_what_can_stand_it(gpu, kind, expected):
    gpu(native=False)
    assert str(compute_dtype("auto", kind)) == f"torch.{expected}"
    gpu(native=True)
    assert compute_dtype("auto", kind) == torch.bfloat16


@pytest.mark.parametrize(("held_to", "expected"), [("AVX512", torch.bfloat16), ("AVX2", torch.float32)])
def test_a_processor_with_bfloat16_computes_in_it_unless_pytorch_is_held_back(monkeypatch, held_to, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: held_to)
    assert compute_dtype("auto") == expected


def test_what_cannot_be_computed_is_refused_with_the_reason(gpu):
    with pytest.raises(UserError, match="fp16 is for GPUs"):
        compute_dtype("fp16", "llama")
    gpu(native=False)
    assert compute_dtype("fp16", "llama") == torch.float16
    assert compute_dtype("fp32", "t5") == torch.float32
    with pytest.raises(UserError, match=r"activations of a model of type 't5' overflow"):
        compute_dtype("fp16", "t5")
    with pytest.raises(UserError, match="only emulates bf16"):
        compute_dtype("bf16", "llama")
    gpu(native=True)
    assert compute_dtype("bf16", "llama") == torch.bfloat16


def test_the_recipe_alone_decides_the_number_format_of_training(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    for dtype, name in ((torch.float32, "no"), (torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        arguments = training_arguments(tmp_path, dtype, 0)
        assert arguments.mixed_precision == name
        assert (arguments.fp16, arguments.bf16) == (name == "fp16", name == "bf16")
