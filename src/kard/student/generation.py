"""Writing: prompts in, texts out, in fixed batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerFast

from kard.errors import UserError
from kard.methods import Writes
from kard.prompt import render, shorten_passages
from kard.student.decoding import greedy
from kard.student.guide import AnswerGuide
from kard.student.loading import StudentSettings, trained_model


@dataclass(frozen=True)
class Written:
    """A prompt's continuation.

    Attributes:
        prompt: What was read.
        text: What was written.
        cut: The rationale ended without ``Answer:`` (most often at ``max_output_tokens``), which was written for it.
        seconds: Its share of the batch's time.
        confidence: How probable the answer was among the choices; None where any answer may follow.
    """

    prompt: str
    text: str
    cut: bool
    seconds: float
    confidence: float | None = None


Hear = Callable[[str], None]
"""Takes all of the text that has been written so far."""


class Student:
    """A trained student.

    Args:
        model: Encoder-decoder or decoder.
        tokenizer: Its tokenizer.
        settings: How it was trained to read and write.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, settings: StudentSettings) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        # The last position's hidden states are a strided view; without a copy of them, PyTorch copies the output layer's
        # weights once for each row of the batch.
        model.get_output_embeddings().register_forward_pre_hook(lambda head, inputs: (inputs[0].contiguous(),))

    @classmethod
    def load(cls, folder: Path) -> Student:
        """Read a student that `train_student` wrote."""
        return cls(*trained_model(folder))

    def prompt(self, question: str, choices: Sequence[str], passages: Sequence[str], writes: Writes) -> str:
        """The prompt, its passages shortened where it would be longer than the student was trained to read."""
        return fitting_prompt(
            self.tokenizer, self.settings.max_input_tokens, question, choices, passages, writes, self.settings.answer_as
        )

    def write(
        self,
        prompts: Mapping[str, Sequence[str]],
        writes: Writes,
        batch_size: int,
        done: Callable[[list[Written]], None] = lambda written: None,
        known: Mapping[str, Written] = MappingProxyType({}),
        hear: Mapping[str, Hear] = MappingProxyType({}),
    ) -> dict[str, Written]:
        """Continue each prompt greedily until the end token.

        Args:
            prompts: Texts from `prompt`, each with the answers that may be written (none where any may).
            writes: What they ask for.
            batch_size: How many are written at once.
            done: Called with each finished batch.
            known: What an interrupted call has written already; a batch that is known as a whole is not written again, so
                that batches, and with them rounding, do not depend on the interruption.
            hear: By prompt, who is told after each token what has been written so far.

        Returns:
            What was written, by prompt.
        """
        found: dict[str, Written] = {}
        for batch in batches(list(prompts), batch_size):
            if all(prompt in known for prompt in batch):
                written = [known[prompt] for prompt in batch]
            else:
                written = self._continue(batch, [prompts[prompt] for prompt in batch], writes, hear)
            found |= {item.prompt: item for item in written}
            done(written)
        return found

    def _continue(
        self, prompts: list[str], answers: list[Sequence[str]], writes: Writes, hear: Mapping[str, Hear]
    ) -> list[Written]:
        decoder = not self.model.config.is_encoder_decoder
        self.tokenizer.padding_side = "left" if decoder else "right"
        inputs = self.tokenizer(prompts, padding=True, return_tensors="pt").to(self.model.device)
        end, limit = int(self.tokenizer.eos_token_id), self.settings.max_output_tokens
        guide = AnswerGuide(self.tokenizer, answers, writes, limit, skip=0 if decoder else 1)
        heard = [(row, hear[prompt]) for row, prompt in enumerate(prompts) if prompt in hear]
        start = monotonic()

        def step(written: list[list[int]]) -> None:
            for row, tell in heard:
                tell(self._text(written[row]).rstrip("\ufffd").strip())

        if decoder:
            tokens: Any = greedy(self.model, inputs.input_ids, inputs.attention_mask, limit, end, guide, step)
        else:
            tokens = self.model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                max_new_tokens=limit,
                do_sample=False,
                num_beams=1,
                eos_token_id=end,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([guide, *([_Steps(step)] if heard else [])]),
            )
        seconds = (monotonic() - start) / len(prompts)
        rows = enumerate(zip(prompts, tokens, guide.confidences(), strict=True))
        return [Written(p, self._text(ids).strip(), row in guide.cut, seconds, sure) for row, (p, ids, sure) in rows]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


class _Steps(LogitsProcessor):
    """Tells after each token of ``generate`` what has been written; the first token of a row is the model's start token."""

    def __init__(self, step: Callable[[list[list[int]]], None]) -> None:
        self.step = step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.step([row[1:] for row in input_ids.tolist()])
        return scores


def batches(prompts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Prompts in batches of similar length, longest first; the same prompts always give the same batches."""
    order = sorted(prompts, key=lambda prompt: (-len(prompt), prompt))
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def fitting_prompt(
    tokenizer: PreTrainedTokenizerFast,
    limit: int,
    question: str,
    choices: Sequence[str],
    passages: Sequence[str],
    writes: Writes,
    answer_as: Any,
) -> str:
    """`prompt.render` with as many words of the passages as fit into `limit` tokens.

    Raises:
        UserError: The question alone is too long.
    """

    def rendered(words: int) -> str:
        return render(question, choices, shorten_passages(passages, words), writes, answer_as)

    def fits(text: str) -> bool:
        # No tokenizer makes more tokens than bytes (and a few special ones): most prompts need no counting.
        return len(text.encode("utf-8")) + 2 <= limit or len(tokenizer(text).input_ids) <= limit

    whole = render(question, choices, passages, writes, answer_as)
    if fits(whole):
        return whole
    if not fits(rendered(0)):
        raise UserError(
            f"question '{question[:60]}…': longer than student.max_input_tokens ({limit}) even without passages. "
            "Raise student.max_input_tokens, or shorten the question."
        )
    low, high = 0, sum(len(passage.split()) for passage in passages)
    while high - low > 1:  # fits(low) always holds
        middle = (low + high) // 2
        low, high = (middle, high) if fits(rendered(middle)) else (low, middle)
    return rendered(low)
