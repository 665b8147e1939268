"""What goes over the wire: requests with their limits, and replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kard.finder import Found
from kard.serving.worker import Done

MOST_CHOICES, MOST_SHOWN = 26, 50


def not_blank(text: str) -> str:
    if not "".join(text.split()):
        raise ValueError("is blank. Give it a text.")
    return text


Text = Annotated[str, Field(min_length=1, max_length=8000), AfterValidator(not_blank)]
Choice = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(not_blank)]
Choices = Annotated[
    list[Choice], Field(max_length=MOST_CHOICES, description="Options to choose from; none: open answer")
]
Shown = Annotated[int, Field(ge=0, le=MOST_SHOWN, description="How many of the considered passages to return")]
Filter = Annotated[
    dict[str, Any] | None,
    Field(
        description="Read only documents whose metadata fits, as {'year': {'$gte': 2020}}; operators: $eq $ne $gt $gte $lt "
        "$lte $in $nin below a key, $and $or $not around conditions"
    ),
]


_EXAMPLE: dict[str, Any] = {
    "question": "Which of these is described as “Long-necked African mammal”?",
    "choices": ["Giraffe", "Zebra", "Hippopotamus", "Rhinoceros"],
}


class Request(BaseModel):
    """Base of our own requests: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class AnswerRequest(Request):
    """A question."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE | {"show": 5}]})
    question: Text
    choices: Choices = []
    model: str | None = Field(None, max_length=200, description="One of /v1/models; by default the first")
    filter: Filter = None
    show: Shown | None = Field(None, description="How many of the considered passages to return; by default those read")
    stream: bool = Field(False, description="Server-sent events: passages, text (pieces), answer or error")


class SearchRequest(Request):
    """A question to find passages for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": _EXAMPLE["question"], "k": 3}]})
    query: Text
    choices: Choices = []
    model: str | None = Field(None, max_length=200, description="One of /v1/models that reads passages")
    filter: Filter = None
    k: Annotated[int, Field(ge=1, le=MOST_SHOWN)] = 10


class Passage(BaseModel):
    """A passage with the scores and ranks that brought it there; null where there is none."""

    id: str
    title: str
    text: str
    source: str
    retriever: float | None = Field(description="Score by the retriever that found it: BM25, or as /v1/models says")
    retriever_rank: int | None = Field(description="Place among the considered passages before reranking, from 1")
    reranker: float | None
    likelihood: float | None = Field(
        description="log p(question | passage) by the student, of passages that it had a second look at"
    )
    rank: int = Field(description="Place in the end, from 1")
    read: bool = Field(description="Whether the student read it")


class Source(BaseModel):
    """A sentence of a passage that was read."""

    number: int = Field(description="Place of the passage among those that were read, from 1: the passage's rank")
    passage: str = Field(description="The passage's id")
    sentence: str


class Citation(BaseModel):
    """A sentence of the rationale, and what says the same, by words, names and numbers."""

    sentence: str
    supported: bool = Field(description="Whether a passage that was read says so")
    sources: list[Source] = Field(description="Of each passage that says so, its best sentence")


class AnswerReply(BaseModel):
    """An answer with all that led to it."""

    model: str
    answer: str | None = Field(description="Null where none could be read off the text, or it was withheld: abstained")
    choice: int | None = Field(description="Index of the answer into the choices")
    confidence: float | None = Field(
        description="Where calibrated: how often answers like this one are right. Otherwise how sure the student is of its "
        "choice, among the choices and after its rationale, no measured share of right answers, and null for open questions. "
        "With evaluation.samples: the share of the samples that came to the answer"
    )
    calibrated: bool = Field(description="Whether confidence was calibrated on dev questions (evaluation.abstain)")
    abstained: bool = Field(description="Whether the answer was withheld, because it is not sure enough; text has it")
    question_cut: bool = Field(description="Whether the question was too long, so that only its end was read")
    rationale: str
    citations: list[Citation] = Field(description="Of each sentence of the rationale; none where nothing was read")
    passages: list[Passage]
    documents: int | None = Field(description="Version of the documents that was read; null where nothing is read")
    text: str = Field(description="All that the student wrote")
    milliseconds: dict[str, float] = Field(
        description="queue, and of the batch that it was part of: search, rerank, write, as far as the model does them"
    )


class SearchReply(BaseModel):
    """Passages, best first."""

    model: str
    passages: list[Passage]
    milliseconds: dict[str, float]


class Model(BaseModel):
    """A way of answering, as OpenAI lists a model, and what it is."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "kard"
    label: str
    reads: str


class Models(BaseModel):
    """All ways of answering; the first is the default."""

    object: Literal["list"] = "list"
    data: list[Model]
    recipe: str
    retriever: str = Field(description="What finds passages, in words: BM25, vectors …")
    passages: int = Field(description="How many passages are read for a question")
    examples: list[dict[str, Any]] = Field(description="Some questions with choices, to try")


class ErrorDetail(BaseModel):
    """What was wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """An error."""

    error: ErrorDetail


def passage_rows(found: Sequence[Found], count: int, read: int) -> list[dict[str, Any]]:
    """The first `count` of the considered passages, of which the student read `read`."""
    by_retriever = sorted(range(len(found)), key=lambda place: -(found[place].retriever or 0.0))
    retriever_rank = {place: rank for rank, place in enumerate(by_retriever, start=1)}
    return [
        {**item.row(), "retriever_rank": retriever_rank[place], "rank": place + 1, "read": place < read}
        for place, item in enumerate(found[:count])
    ]


def answer_reply(done: Done, model: str, show: int | None) -> dict[str, Any]:
    """A finished job as /v1/answer returns it."""
    answer = done.answer
    assert answer is not None
    read = len(answer.passages)
    return {
        "model": model,
        "answer": answer.answer,
        "choice": answer.choice,
        "confidence": None if answer.confidence is None else round(answer.confidence, 4),
        "calibrated": answer.threshold is not None,
        "abstained": answer.abstained,
        "question_cut": answer.question_cut,
        "rationale": answer.rationale,
        "citations": [citation.row() for citation in answer.citations],
        "passages": passage_rows(done.found, read if show is None else show, read),
        "documents": answer.documents,
        "text": answer.text,
        "milliseconds": done.milliseconds,
    }
