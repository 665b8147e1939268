"""Greedy decoding of a batch by a decoder, in which texts that have ended leave the batch.

A batch's rationales differ in length by a factor of three and more; with all rows kept to the end, most of the computation
would go into padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kard.student.guide import AnswerGuide

# Rows leave when this share of the batch has ended: copying the cache costs about as much as one step.
_ENDED_SHARE = 0.2


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
    cache = DynamicCache(config=model.config)
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
        scores = guide.masked(here, [written[row] for row in here], logits[:, -1])
        chosen = scores.argmax(dim=-1)
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
