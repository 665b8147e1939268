"""Greedy decoding of a batch by a decoder, in which texts that have ended leave the batch.

A batch's rationales differ in length by a factor of three and more; with all rows kept to the end, most of the computation
would go into padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from kard.student.guide import AnswerGuide

# Rows leave when this share of the batch has ended: copying the cache costs about as much as one step.
_ENDED_SHARE = 0.2
_ROOM = 64  # tokens that are made room for at once


@torch.inference_mode()
def greedy(
    model: PreTrainedModel,
    inputs: Tensor,
    mask: Tensor,
    limit: int,
    end: int,
    guide: AnswerGuide,
    step: Callable[[list[list[int]]], None] = lambda written: None,
) -> list[list[int]]:
    """Continue each row with its most likely token, until the end token or the limit.

    Args:
        model: A decoder.
        inputs: Token ids, padded on the left, (rows, tokens).
        mask: Which of them are real, same shape.
        limit: Most new tokens.
        end: The end token's id.
        guide: Keeps the answers to the choices.
        step: Called after each token with what every row has written so far.

    Returns:
        The new tokens of each row, without the end token.
    """
    written: list[list[int]] = [[] for _ in range(len(inputs))]
    rows = torch.arange(len(inputs), device=inputs.device)
    running = torch.ones_like(rows, dtype=torch.bool)
    cache = roomy_cache(model)
    tokens, positions = inputs, (mask.cumsum(dim=1) - 1).clamp(min=0)
    for _ in range(limit):
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        here = rows.tolist()
        chosen = guide.choose(here, [written[row] for row in here], logits[:, -1])
        running &= chosen != end
        for row, token in zip(rows[running].tolist(), chosen[running].tolist(), strict=True):
            written[row].append(token)
        step(written)
        if not running.any():
            break
        if running.sum() <= (1 - _ENDED_SHARE) * len(rows):
            kept = running.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, chosen, mask, positions, running = (t[kept] for t in (rows, chosen, mask, positions, running))
        tokens = chosen[:, None]
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return written


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """A cache whose attention layers do not copy all of their keys and values at every token.

    A sliding window is left to the mask, which is right for any length; the window would only save memory.
    """
    cache = DynamicCache(config=model.config)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [_RoomyLayer() if type(layer) in plain else layer for layer in cache.layers]
    return cache


class _RoomyLayer(DynamicLayer):
    """Keys and values as views into buffers (rows, heads, tokens and room for more, dimension)."""

    keys: Any
    values: Any
    key_buffer: Tensor
    value_buffer: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        length = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        longer = length + key_states.shape[-2]
        if length == 0 or longer > self.key_buffer.shape[-2]:
            self.key_buffer = _with_room(self.keys, key_states, longer)
            self.value_buffer = _with_room(self.values, value_states, longer)
        self.key_buffer[:, :, length:longer] = key_states
        self.value_buffer[:, :, length:longer] = value_states
        self.keys, self.values = self.key_buffer[:, :, :longer], self.value_buffer[:, :, :longer]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self.key_buffer, self.value_buffer = self.key_buffer[indices], self.value_buffer[indices]
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]


def _with_room(old: Tensor, new: Tensor, length: int) -> Tensor:
    rows, heads, _, dimension = new.shape
    buffer = new.new_empty(rows, heads, length + _ROOM, dimension)
    if old.numel():
        buffer[:, :, : old.shape[-2]] = old
    return buffer
