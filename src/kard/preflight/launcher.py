"""What the launcher of several processes (accelerate) is set to, looked at before hours of other work."""

from __future__ import annotations

import os
from typing import Any

from kard.errors import UserError
from kard.machine.processes import shards_models


def check_launcher() -> None:
    """Raise UserError where a trained model would be left in pieces that no program but the launcher's puts together."""
    if not shards_models():
        return
    if _fsdp() and os.environ.get("FSDP_STATE_DICT_TYPE") != "FULL_STATE_DICT":
        raise UserError(
            "accelerate: FSDP would save each process's piece of the weights alone. Set fsdp_state_dict_type: FULL_STATE_DICT in "
            "the file of 'accelerate config'."
        )
    if _fsdp() and os.environ.get("FSDP_VERSION") != "2":
        raise UserError(
            "accelerate: with FSDP of version 1, saving the trained weights failed in kard's tests. Set fsdp_version: 2 in the "
            "file of 'accelerate config'."
        )
    stage, whole = (os.environ.get(f"ACCELERATE_DEEPSPEED_{name}") for name in ("ZERO_STAGE", "ZERO3_SAVE_16BIT_MODEL"))
    if stage == "3" and whole != "true":
        raise UserError(
            "accelerate: ZeRO-3 would save each process's piece of the weights alone. Set zero3_save_16bit_model: true in the "
            "file of 'accelerate config'."
        )


def check_sharded(config: Any, key: str) -> None:
    """Raise UserError where FSDP cannot shard a model of this configuration."""
    if _fsdp() and config.is_encoder_decoder:
        raise UserError(
            f"{key}: FSDP cannot shard a model of type '{config.model_type}', whose encoder and decoder share weights. Take "
            "DeepSpeed ZeRO, or a decoder."
        )


def _fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"
