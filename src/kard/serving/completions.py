"""OpenAI's older protocol, for programs that score answers: a prompt to a question, and how likely the answer in it is."""

from __future__ import annotations

import re
import time
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerFast

from kard.errors import UserError
from kard.prompt import ANSWER_CUE, QUESTION_CUE
from kard.serving.chat import StopTexts, before_stops, first_tokens, split_choices
from kard.serving.schema import AnswerRequest, Filter, answer_reply
from kard.serving.worker import Done

_ASKED = re.compile(rf"(?:^|\n){QUESTION_CUE}")
_ANSWERED = re.compile(rf"\s{ANSWER_CUE}")
_NOT_OFFERED = ("stream", "suffix")
_EXAMPLE: dict[str, Any] = {
    "model": "kard_reranker",
    "prompt": "Question: Which of these has the longest neck?\nChoices:\n- Giraffe\n- Zebra\nAnswer: Giraffe",
    "echo": True,
    "logprobs": 1,
    "max_tokens": 0,
}
Token = Annotated[int, Field(ge=0)]
MOST_PROMPTS = 128


class CompletionRequest(BaseModel):
    """Questions as prompts: a text that ends after Answer:, or with an answer there. The last Question: counts; what
    stands before it is not read, because the run finds passages itself. Temperature and the like change nothing."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})
    model: str = Field(max_length=200)
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[list[Token]], Field(min_length=1, max_length=MOST_PROMPTS)]
    ) = Field(description="A text or several, or the tokens of one or of several")
    max_tokens: int | None = Field(None, ge=0)
    echo: bool = Field(False, description="Return the prompt as well; with logprobs alone")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=5,
        description="With echo: the log-probabilities of the tokens behind the prompt's last Answer:, and of so many of the "
        "likeliest ones, after the passages that were found and the explanation that was written",
    )
    n: int | None = None
    best_of: int | None = None
    stop: StopTexts = []
    filter: Filter = None

    @property
    def scores(self) -> bool:
        """Whether answers are scored, and not written.

        Raises:
            UserError: Something is asked for that a student cannot do.
        """
        asked = [name for name in _NOT_OFFERED if (self.model_extra or {}).get(name)]
        asked += [name for name in ("n", "best_of") if (self.model_dump()[name] or 1) > 1]
        if asked:
            raise UserError(f"{asked[0]}: a student writes one rationale and answer. Leave it out.")
        if self.echo != (self.logprobs is not None):
            raise UserError(
                "echo, logprobs: one needs the other here. Send both to score an answer, or none to get one."
            )
        if self.echo and (self.max_tokens or 0) > 1:
            raise UserError("max_tokens: at most 1 with echo, for nothing is written. Leave echo and logprobs out.")
        return self.echo


@dataclass(frozen=True)
class Prompt:
    """A prompt, taken apart.

    Attributes:
        question: What it asks.
        tokens: All of its tokens.
        answered: How many of them stand before what is behind its last ``Answer:``; None where it has none.
    """

    question: AnswerRequest
    tokens: list[int]
    answered: int | None


def prompts_of(request: CompletionRequest, tokenizer: PreTrainedTokenizerFast) -> list[Prompt]:
    """The prompts of a request.

    Raises:
        UserError: An answer is to be scored and there is none.
    """
    sent = request.prompt
    single = isinstance(sent, str) or isinstance(sent[0], int)
    found = [_prompt(one, request, tokenizer) for one in ([sent] if single else sent)]
    for one in found if request.scores else ():
        if one.answered is None or one.answered >= len(one.tokens):
            raise UserError(
                f"prompt: no answer to score behind '{ANSWER_CUE}'. Send '{QUESTION_CUE} …\\n{ANSWER_CUE} …'."
            )
    return found


def _prompt(sent: Any, request: CompletionRequest, tokenizer: PreTrainedTokenizerFast) -> Prompt:
    if isinstance(sent, str):  # halves of surrogate pairs are no text
        tokens = tokenizer(sent.encode("utf-8", "replace").decode(), add_special_tokens=False).input_ids
    else:
        tokens = list(sent)
    if tokens and max(tokens) >= len(tokenizer):
        raise UserError(
            f"prompt: has the token {max(tokens)}, and the student knows {len(tokenizer)}. Send it as a text."
        )
    text = _text(tokenizer, tokens)
    cues = [cue.end() for cue in _ANSWERED.finditer(text)]
    begin = cues[-1] if cues else len(text)
    upto = bisect_left(range(len(tokens)), begin, key=lambda count: len(_text(tokenizer, tokens[:count])))
    head = text[: begin - len(ANSWER_CUE)] if cues else text
    asked = _ASKED.split(head)[-1].strip()
    question, choices = split_choices(asked)
    return Prompt(
        AnswerRequest(question=question, choices=choices, model=request.model, filter=request.filter),
        tokens,
        upto if cues else None,
    )


def _text(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def completion_reply(
    request: CompletionRequest, prompts: Sequence[Prompt], done: Sequence[Done], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """The reply to a request."""
    rows = [
        {
            "index": index,
            **(_scored if request.scores else _written)(request, prompt, one, tokenizer),
            "kard": answer_reply(one, request.model, None),
        }
        for index, (prompt, one) in enumerate(zip(prompts, done, strict=True))
    ]
    read = sum(one.prompt_tokens for one in done)
    written = sum(one.completion_tokens for one in done)
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": rows,
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _written(
    request: CompletionRequest, prompt: Prompt, done: Done, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """The text that was written; behind ``Answer:`` the answer alone."""
    assert done.answer is not None
    text = done.answer.text
    if prompt.answered is not None:
        text = f" {text.rpartition(ANSWER_CUE)[2].strip()}"
    kept = first_tokens(tokenizer, before_stops(text, request.stop), request.max_tokens)
    stopped = kept == text or any(text.startswith(kept + stop) for stop in request.stop)
    return {"text": kept, "logprobs": None, "finish_reason": "stop" if stopped else "length"}


def _scored(
    request: CompletionRequest, prompt: Prompt, done: Done, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """The prompt, and the likeliest token after it where one is asked for, with the log-probabilities of all that stands behind
    ``Answer:``."""
    assert done.scores is not None
    assert prompt.answered is not None
    tops = done.scores.topk(max(request.logprobs or 0, 1), dim=-1)
    more = [int(tops.indices[-1, 0])] if request.max_tokens != 0 else []
    tokens = [*prompt.tokens, *more]
    behind = tokens[prompt.answered :]
    own = done.scores[range(len(behind)), behind].tolist()
    none = [None] * prompt.answered
    words = [_text(tokenizer, [token]) for token in tokens]
    rows = zip(
        tops.indices.flip(-1).tolist(), tops.values.flip(-1).tolist(), strict=True
    )  # of words that look alike the best
    top = [{_text(tokenizer, [token]): score for token, score in zip(*row, strict=True)} for row in rows]
    logprobs = {
        "tokens": words,
        "token_logprobs": [*none, *own],
        "top_logprobs": [*none, *top[: len(behind)]],
        "text_offset": [sum(map(len, words[:place])) for place in range(len(words))],
    }
    return {"text": _text(tokenizer, tokens), "logprobs": logprobs, "finish_reason": "length"}
