"""OpenAI's chat protocol: messages to a question, an answer to a completion, whole or in pieces."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from transformers import PreTrainedTokenizerFast

from kard.errors import UserError
from kard.kard import Answer
from kard.notebook import ADDRESS, meaning, percent
from kard.serving.schema import AnswerRequest, Choices, Filter, answer_reply
from kard.serving.worker import Done

Stop = Annotated[str, Field(min_length=1, max_length=200)]
Stops = Annotated[list[Stop], Field(max_length=4)]
_CHOICES = "Choices:"
# Asked for with these, another thing than the student's answer would be expected: better to refuse than to ignore them.
_NOT_OFFERED = ("tools", "functions", "logprobs", "audio", "prediction", "web_search_options")


_EXAMPLE: dict[str, Any] = {
    "model": "kard_reranker",
    "messages": [{"role": "user", "content": "Which of these has the longest neck?\nChoices:\n- Giraffe\n- Zebra"}],
    "sources": True,
}


def _as_list(sent: Any) -> Any:
    """One text as a list, so that an error names a place in what was sent and no branch of a type."""
    return [] if sent is None else [sent] if isinstance(sent, str) else sent


StopTexts = Annotated[
    Stops,
    BeforeValidator(_as_list, json_schema_input_type=Stop | Stops | None),
    Field(description="The text ends before the first of these"),
]


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: str = Field(max_length=50)
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A conversation. The last user message is the question: the student answers one question at a time, always as its recipe
    says, so earlier turns, temperature and the like are accepted and change nothing."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})
    model: str = Field(max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: StopTexts = []
    response_format: dict[str, Any] | None = None
    sources: bool = Field(
        False,
        description="Our own: the text ends with the passages that were read, for clients that keep nothing but the text",
    )
    choices: Choices = Field([], description="Our own: options; or write them as lines '- …' after a line 'Choices:'")

    filter: Filter = None

    @property
    def limit(self) -> int | None:
        """Most tokens that are wanted."""
        return self.max_completion_tokens or self.max_tokens


def question_of(request: ChatRequest) -> AnswerRequest:
    """The question of a conversation, under the same limits as /v1/answer's.

    Raises:
        UserError: There is none, or something is asked for that a student cannot do.
    """
    asked = [name for name in _NOT_OFFERED if (request.model_extra or {}).get(name)]
    if (request.response_format or {}).get("type", "text") != "text":
        asked.append("response_format")
    if request.n not in (None, 1):
        asked.append("n")
    if asked:
        raise UserError(f"{asked[0]}: a student writes one rationale and answer as text. Leave it out.")
    last = next((message for message in reversed(request.messages) if message.role == "user"), None)
    if last is None:
        raise UserError("messages: none has the role 'user'. Put the question into one.")
    text, listed = split_choices(_text(last))
    choices, model = request.choices or listed, request.model
    return AnswerRequest(question=text, choices=choices, model=model, filter=request.filter, stream=request.stream)


def split_choices(text: str) -> tuple[str, list[str]]:
    """A question and the options that follow it as lines ``- …`` after a line ``Choices:``, if they end the text."""
    question, cue, rest = text.rpartition(f"\n{_CHOICES}")
    lines = [line.strip() for line in rest.splitlines() if line.strip()]
    if not cue or not lines or not all(line.startswith("- ") for line in lines):
        return text, []
    return question, [line[2:] for line in lines]


def _text(message: Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    parts = [part.get("text") for part in message.content if part.get("type") == "text"]
    if len(parts) < len(message.content) or not all(isinstance(part, str) for part in parts):
        raise UserError("messages: a student reads text alone. Leave other parts out.")
    return "\n".join(str(part) for part in parts)


def before_stops(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of what ends it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def first_tokens(tokenizer: PreTrainedTokenizerFast, text: str, limit: int | None) -> str:
    """As much of a text as `limit` tokens hold."""
    if limit is None:
        return text
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= limit else text[: offsets[limit - 1][1]]


class Completion:
    """The reply to one chat request.

    Args:
        request: What was asked.
        tokenizer: A copy of the student's that no other thread uses.
    """

    def __init__(self, request: ChatRequest, tokenizer: PreTrainedTokenizerFast) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def cut(self, text: str, whole: bool = True) -> str:
        """What of a text is within the limits that were asked for; of one that goes on, what is sure to be."""
        kept = before_stops(text, self.request.stop)
        if not whole and kept == text:
            begun = (n for stop in self.request.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
            kept = text[: len(text) - max(begun, default=0)]
        return first_tokens(self.tokenizer, kept, self.request.limit)

    def whole(self, done: Done) -> dict[str, Any]:
        """The completion of a request that does not stream."""
        answer = _answer(done)
        content = self.cut(answer.text) + self._behind(answer)
        message = {"role": "assistant", "content": content, "refusal": None, "annotations": self._annotations(answer)}
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(answer)}],
            "usage": self.usage(done),
            "kard": answer_reply(done, self.request.model, None),
        }

    def piece(self, content: str, first: bool) -> dict[str, Any]:
        """A chunk of a stream with some text."""
        return self._chunk({**({"role": "assistant"} if first else {}), "content": content}, None)

    def end(self, done: Done) -> list[dict[str, Any]]:
        """The last chunks of a stream: why it ended with the whole answer beside it, and the usage where it was asked for."""
        answer = _answer(done)
        chunks = [self.piece(text, first=False)] if (text := self._behind(answer)) else []
        last = self._chunk({"annotations": self._annotations(answer)}, self._reason(answer))
        chunks.append({**last, "kard": answer_reply(done, self.request.model, None)})
        if self.request.stream_options and self.request.stream_options.include_usage:
            chunks.append({**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage(done)})
        return chunks

    def usage(self, done: Done) -> dict[str, int]:
        """Tokens that were read and written."""
        read, written = done.prompt_tokens, min(done.completion_tokens, self.request.limit or done.completion_tokens)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _behind(self, answer: Answer) -> str:
        """What stands behind the text: that the answer is not sure enough to count as one, for clients that keep nothing but
        the text; and the passages that were read, where they were asked for."""
        unsure = f"\n\nNot sure enough to answer: {percent(answer.confidence or 0.0)} ({meaning(answer)})."
        found = [item.passage for item in answer.passages] if self.request.sources else []
        lines = [f"[{number}] {passage.full_text} ({passage.source})" for number, passage in enumerate(found, start=1)]
        return unsure * answer.abstained + ("\n\nSources:\n" + "\n".join(lines) if lines else "")

    def _annotations(self, answer: Answer) -> list[dict[str, Any]]:
        """The passages that were read as OpenAI cites sources; a passage without an address has its id for one."""
        end, cited = len(self.cut(answer.text)), []
        for passage in (item.passage for item in answer.passages):
            url = ADDRESS.search(passage.source)
            address = url.group() if url else f"passage:{quote(passage.id)}"
            place = {"start_index": 0, "end_index": end, "url": address, "title": passage.title}
            own = {"id": passage.id, "source": passage.source, "text": passage.text}
            cited.append({"type": "url_citation", "url_citation": {**place, **own}})
        return cited

    def _reason(self, answer: Answer) -> str:
        kept = self.cut(answer.text)
        stopped = kept == answer.text or any(answer.text.startswith(kept + stop) for stop in self.request.stop)
        return "stop" if stopped else "length"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.request.model}

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def _answer(done: Done) -> Answer:
    assert done.answer is not None  # a chat never asks for a search alone
    return done.answer
