"""Attention for writing on CPUs, for decoders in which several query heads share the keys and values of one.

PyTorch's own copies keys and values once for each head, and is slow on CPUs for texts as short as prompts are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

_NAME = "kard_grouped"
_FEW = 8  # tokens that are read together while writing: PyTorch's kernel is quicker for so few, if the heads are its tokens
MANY = 16  # rows from which on it is slower, if nothing has to be copied for products
_SCORES = 2**25  # above so many, they would take too much memory at once (a quarter of a GiB)


def attend_by_group(model: PreTrainedModel) -> None:
    """Let a model on a CPU attend without copies, if its heads share keys and values; others stay as they are."""
    config = model.config.to_dict()
    heads, shared = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if model.device.type == "cpu" and not model.config.is_encoder_decoder and heads and shared and shared < heads:
        AttentionInterface.register(_NAME, grouped_attention)
        AttentionMaskInterface.register(_NAME, eager_mask)
        model.set_attn_implementation(_NAME)


def attends_by_group(model: PreTrainedModel) -> bool:
    """Whether `attend_by_group` had something to do."""
    return bool(model.config._attn_implementation == _NAME)


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Softmax(q kᵀ · scaling + mask) v, with the query heads of a group as if they were tokens of one head.

    Args:
        module: Unused; transformers passes it.
        query: (rows, heads, tokens, dimension).
        key: (rows, key-value heads, all tokens, dimension).
        value: Same shape.
        attention_mask: Added to the scores, (rows, 1, tokens, all tokens).
        scaling: Of the scores.
        dropout: Must be 0: nothing is trained here.
        softcap: Scores are bent to stay below it, softcap · tanh(score / softcap) (Gemma 2).

    Returns:
        (rows, tokens, heads, dimension), and no weights.
    """
    rows, heads, tokens, dimension = query.shape
    shared, read = key.shape[1], key.shape[2]
    together = query.reshape(rows, shared, heads // shared * tokens, dimension)
    mask = None if attention_mask is None else attention_mask[..., :read].repeat(1, 1, heads // shared, 1)
    few = tokens <= _FEW and rows < MANY
    if softcap is None and (few or together[..., 0].numel() * read > _SCORES):
        found = functional.scaled_dot_product_attention(together, key, value, mask, scale=scaling)
    else:
        scores = (together * scaling) @ key.transpose(2, 3)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            scores += mask
        found = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return found.view(rows, heads, tokens, dimension).transpose(1, 2).contiguous(), None
