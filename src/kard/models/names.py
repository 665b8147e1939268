"""What transformers calls some things differently between its versions that kard takes (the range stands in pyproject.toml)."""

from __future__ import annotations

from inspect import signature
from typing import Any

from transformers import TrainingArguments


def cache_argument(model: Any) -> str:
    """The argument of a model's (or a class of models') forward pass that takes what was read before; "" where there is none."""
    takes = signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values", "cache_params") if name in takes), "")


def checkpointing_argument() -> str:
    """The argument of Trainer's that computes activations twice in place of keeping them."""
    names = signature(TrainingArguments).parameters
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def dense() -> dict[str, Any]:
    """Arguments with which a GGUF file's weights become ordinary ones; where transformers knows no others, none."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}
