"""Writing with transformers' own `generate`: slower than `decoding`, for any architecture, and the same texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from kard.student.batching import reads_alone
from kard.student.guide import AnswerGuide


@torch.inference_mode()
def generated(
    model: PreTrainedModel,
    inputs: Tensor,
    mask: Tensor,
    end: int,
    guide: AnswerGuide,
    samples: int = 1,
    step: Callable[[list[list[int]]], None] = lambda written: None,
) -> list[list[int]]:
    """Continue each row token by token, as `decoding.continuations` does; its arguments and what it returns are the same."""
    inputs, mask = (values.repeat_interleave(samples, dim=0) for values in (inputs, mask))
    every = list(range(len(inputs)))
    written: list[list[int]] = [[] for _ in every]
    # A base model's own settings (penalties, tokens that it forces) are not what the student has learned.
    model.generation_config = GenerationConfig(
        max_new_tokens=max(guide.limits) + 1,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=model.config.to_dict().get("decoder_start_token_id"),
    )
    for rows in [[row] for row in every] if reads_alone(model.config) else [every]:
        real = mask[rows[0]].bool() if len(rows) == 1 else slice(None)
        guided: list[LogitsProcessor] = [_Guided(guide, rows, written, end, step)]
        model.generate(
            inputs[rows][:, real],
            attention_mask=mask[rows][:, real],
            logits_processor=LogitsProcessorList(guided),
        )
    return written


class _Guided(LogitsProcessor):
    """Leaves one token to be written in each row, the guide's; it is put behind what the row has `written`."""

    def __init__(
        self,
        guide: AnswerGuide,
        rows: list[int],
        written: list[list[int]],
        end: int,
        step: Callable[[list[list[int]]], None],
    ) -> None:
        self.guide, self.rows, self.written, self.end, self.step = guide, rows, written, end, step
        self.going = list(range(len(rows)))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens = torch.full((len(self.rows),), self.end, device=scores.device)
        if self.going:
            here = [self.rows[place] for place in self.going]
            tokens[self.going] = self.guide.choose(here, [self.written[row] for row in here], scores[self.going])
        for place in self.going:
            if tokens[place] != self.end:
                self.written[self.rows[place]].append(int(tokens[place]))
        self.going = [
            place for place in self.going if tokens[place] != self.end and not self._is_full(self.rows[place])
        ]
        self.step(self.written)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)

    def _is_full(self, row: int) -> bool:
        return len(self.written[row]) >= self.guide.limits[row]
