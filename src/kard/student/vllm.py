"""Writing with vLLM on a GPU, behind the same function as everywhere else (``evaluation.engine: vllm``; decoders only).

vLLM orders its own batches, so rounding, and with it a rare word, may differ from one call to the next.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from kard.errors import UserError
from kard.prompt import ANSWER_CUE
from kard.student.cache import Buffers
from kard.student.generation import Hear, Student, Writing, Written
from kard.student.loading import StudentSettings, trained_model
from kard.student.tokens import answer_paths

_ANSWER_TOKENS = 64  # kept free for "Answer:" and a choice, at least


def check_vllm(config: Any) -> None:
    """Look whether vLLM is there, and runs a model of this configuration (None: not known yet).

    Raises:
        UserError: vLLM is not installed, or the model is no decoder.
    """
    if find_spec("vllm") is None:
        raise UserError(
            "evaluation.engine: vLLM is not installed. Install it (pip install vllm), or set engine: transformers."
        )
    if config is not None and config.is_encoder_decoder:
        raise UserError("evaluation.engine: vLLM runs decoders, this student is a T5. Set engine: transformers.")


class VllmStudent(Student):
    """A trained decoder that vLLM runs.

    Args:
        engine: vLLM's ``LLM``.
        tokenizer: The student's tokenizer.
        settings: How it was trained to read and write.
    """

    def __init__(self, engine: Any, tokenizer: PreTrainedTokenizerFast, settings: StudentSettings) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.settings = settings
        self.buffers = Buffers()  # stays empty: vLLM has its own

    @classmethod
    def load(cls, folder: Path, online: bool = False) -> VllmStudent:
        """Read a student that `train_student` wrote; `online`: what lies under it may be fetched from the hub.

        Raises:
            UserError: vLLM is not installed, or the student is no decoder.
        """
        model, tokenizer, settings = trained_model(folder, online)
        check_vllm(model.config)
        from vllm import LLM

        with tempfile.TemporaryDirectory() as merged:
            model.save_pretrained(merged)
            tokenizer.save_pretrained(merged)
            return cls(LLM(model=merged, dtype=settings.dtype), tokenizer, settings)

    def _continue(
        self, prompts: list[str], answers: list[Sequence[str]], how: Writing, hear: Mapping[str, Hear]
    ) -> list[Written]:
        # vLLM hands over whole texts, so nobody hears a part of one.
        choices = [[] if how.answer_by == "generate" else row for row in answers]
        drafts = self._drafts(prompts, choices, how)
        cut = [
            bool(row) and any(_is_cut(text, how) for text in texts) for row, texts in zip(choices, drafts, strict=True)
        ]
        drafts = [
            [f"{text.rstrip()}\n{ANSWER_CUE}" if row and _is_cut(text, how) else text for text in texts]
            for row, texts in zip(choices, drafts, strict=True)
        ]
        ended = self._answered(prompts, drafts, choices)
        return [
            Written(prompt, texts[0], is_cut, 0.0, tuple(texts) if how.sampling else ())
            for prompt, texts, is_cut in zip(prompts, ended, cut, strict=True)
        ]

    def _drafts(self, prompts: list[str], choices: list[Sequence[str]], how: Writing) -> list[list[str]]:
        """What is written before the answer where there are choices, all of it where there are none."""
        from vllm import SamplingParams

        samples = how.sampling.samples if how.sampling else 1
        drawn: dict[str, Any] = {"temperature": 0.0}
        if how.sampling:
            drawn = {"n": samples, "temperature": how.sampling.temperature, "seed": how.sampling.seed}
            drawn |= {"top_k": how.sampling.top_k or -1, "top_p": how.sampling.top_p}
        limit = self.settings.max_output_tokens
        stopping = {"stop": [ANSWER_CUE], "include_stop_str_in_output": True}
        rooms = [max(limit - self._answer_room(row), limit // 2) for row in choices]
        asked = [row for row in range(len(prompts)) if how.writes == "rationale" or not choices[row]]
        settings = [
            SamplingParams(
                **drawn, **(stopping | {"max_tokens": rooms[row]} if choices[row] else {"max_tokens": limit})
            )
            for row in asked
        ]
        replies = self.engine.generate([prompts[row] for row in asked], settings, use_tqdm=False)
        drafts = [[""] * samples for _ in prompts]
        for row, reply in zip(asked, replies, strict=True):
            drafts[row] = [output.text for output in reply.outputs]
        return drafts

    def _answer_room(self, choices: Sequence[str]) -> int:
        """Tokens for ``Answer:`` and any of the choices, which vLLM may cut into more of them than the tokenizer does."""
        return max(_ANSWER_TOKENS, 2 * max(map(len, answer_paths(self.tokenizer, choices)), default=0))

    def _answered(self, prompts: list[str], drafts: list[list[str]], choices: list[Sequence[str]]) -> list[list[str]]:
        """The drafts with one of the choices at their end."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        asked = [(row, place) for row, texts in enumerate(drafts) if choices[row] for place in range(len(texts))]
        settings = [
            SamplingParams(
                temperature=0.0,
                max_tokens=self._answer_room(choices[row]),
                structured_outputs=StructuredOutputsParams(choice=[f" {answer}" for answer in choices[row]]),
            )
            for row, _ in asked
        ]
        texts = [prompts[row] + drafts[row][place] for row, place in asked]
        ended = [list(row) for row in drafts]
        for (row, place), reply in zip(asked, self.engine.generate(texts, settings, use_tqdm=False), strict=True):
            ended[row][place] += reply.outputs[0].text
        return [[text.strip() for text in row] for row in ended]


def _is_cut(draft: str, how: Writing) -> bool:
    return how.writes == "rationale" and not draft.endswith(ANSWER_CUE)
