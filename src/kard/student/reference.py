"""Writing with transformers' own `generate`: for every architecture, and the default on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from kard.student.batching import reads_alone
from kard.student.writer import Task


class Reference:
    """Writes with `generate`; see `kard.student.writer.Writer`.

    Args:
        model: Encoder-decoder or decoder.
    """

    takes_all = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @torch.inference_mode()
    def write(self, task: Task) -> list[list[int]]:
        """Continue each row."""
        model, end = self.model, task.constraint.end
        inputs, mask = (values.repeat_interleave(task.samples, dim=0) for values in (task.inputs, task.mask))
        every = list(range(len(inputs)))
        written: list[list[int]] = [[] for _ in every]
        # A base model's own settings (penalties, tokens that it forces) are not what the student has learned.
        own, model.generation_config = (
            model.generation_config,
            GenerationConfig(
                max_new_tokens=max(task.constraint.limits) + 1,
                eos_token_id=end,
                pad_token_id=end,
                decoder_start_token_id=model.config.to_dict().get("decoder_start_token_id"),
            ),
        )
        try:
            for rows in [[row] for row in every] if reads_alone(model.config) else [every]:
                real = mask[rows[0]].bool() if len(rows) == 1 else slice(None)
                constrained: list[LogitsProcessor] = [_Constrained(task, rows, written)]
                model.generate(
                    inputs[rows][:, real],
                    attention_mask=mask[rows][:, real],
                    logits_processor=LogitsProcessorList(constrained),
                )
        finally:
            model.generation_config = own
        return written


class _Constrained(LogitsProcessor):
    """Leaves one token to be written in each row, the constraint's; it is put behind what the row has `written`."""

    def __init__(self, task: Task, rows: list[int], written: list[list[int]]) -> None:
        self.task, self.rows, self.written = task, rows, written
        self.going = list(range(len(rows)))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        constraint = self.task.constraint
        tokens = torch.full((len(self.rows),), constraint.end, device=scores.device)
        if self.going:
            here = [self.rows[place] for place in self.going]
            tokens[self.going] = constraint.choose(here, [self.written[row] for row in here], scores[self.going])
        still, chosen = [], tokens.tolist()  # once: each look at a GPU's number waits for it
        for place in self.going:
            token, text = chosen[place], self.written[self.rows[place]]
            if token != constraint.end:
                text.append(token)
                if len(text) < constraint.limits[self.rows[place]]:
                    still.append(place)
        self.going = still
        self.task.on_tokens(self.written)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)
