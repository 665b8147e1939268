"""What transformers calls some things differently between its versions that kard takes (the range stands in pyproject.toml)."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, __version__

from kard.errors import UserError


def cache_argument(model: Any) -> str:
    """The argument of a model's (or a class of models') forward pass that takes what was read before; "" where there is none."""
    takes = signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values", "cache_params") if name in takes), "")


def checkpointing_argument() -> str:
    """The argument of Trainer's that computes activations twice in place of keeping them."""
    names = signature(TrainingArguments).parameters
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def dense(key: str, file: Path) -> dict[str, Any]:
    """Arguments with which a GGUF file's weights become ordinary ones; `key` is the recipe's.

    Raises:
        UserError: This version would take its tokenizer for another one (Gemma's without the token that texts begin with, Llama's
            with the wrong end).
    """
    try:
        from transformers import GgufConfig
    except ImportError as error:
        raise UserError(
            f"{key}: transformers {__version__} reads the tokenizer of {file.name} wrongly. Install 5.24 or later to convert it; "
            "then this version takes it too."
        ) from error
    return {"quantization_config": GgufConfig(dequantize=True)}
