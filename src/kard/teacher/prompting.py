"""What a teacher is asked: the prompt files, and one request for each rationale that is wanted."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template, ascii_uppercase
from typing import Any

from kard.artifacts import hash_of
from kard.errors import UserError
from kard.knowledge import Passage
from kard.questions import Question
from kard.recipe import TeacherSection

OPENAI_URL = "https://api.openai.com/v1"
PassagesOf = Callable[[Question], list[Passage]]


@dataclass(frozen=True)
class Request:
    """One request: the body that is sent, and the key that its reply is stored under."""

    key: str
    body: dict[str, Any]


def requests_of(
    questions: Iterable[Question], passages_of: PassagesOf, section: TeacherSection, seed: int
) -> Iterator[Request]:
    """One request after another, those of a question together, numbered by their seed; none is kept in memory."""
    for question in questions:
        yield from requests_of_question(question, passages_of(question), section, seed)


def requests_of_question(
    question: Question, passages: Sequence[Passage], section: TeacherSection, seed: int
) -> Iterator[Request]:
    """The requests of one question; asking for more rationales later leaves the first ones as they are."""
    prompt = render_prompt(question, passages, section)
    for number in range(section.rationales or 1):
        body = {
            "model": section.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": section.temperature,
            "max_tokens": section.max_tokens,
            "seed": random.Random(f"{seed}:{number}").getrandbits(31),
        }
        yield Request(hash_of({"base_url": base_url(section), "body": body}), body)


def base_url(section: TeacherSection) -> str:
    """The endpoint without a slash at its end, so that one endpoint has one key."""
    return (section.base_url or OPENAI_URL).rstrip("/")


def render_prompt(question: Question, passages: Sequence[Passage], section: TeacherSection) -> str:
    """The prompt of a question: instruction, five worked examples, the question itself, "Explanation:".

    With ``teacher.sees_answer: false`` the answers of the worked examples move behind their explanations, so that the
    teacher states its own and the filter can compare it with the gold one.
    """
    text = _prompt_file(_kind(question))
    if not section.sees_answer:
        text = re.sub(r"^Answer: (.+)\n(Explanation: .+)$", r"\2 So the answer is \1.", text, flags=re.MULTILINE)
        text = text.replace("Answer: $answer\n", "")
    shown = passages if section.sees_gold_passages else ()
    filled = Template(text).substitute(
        passages="".join(f"Passage: {_one_line(passage.full_text)}\n" for passage in shown),
        question=_one_line(question.question),
        choices="\n".join(_lettered(question)),
        answer=_answer(question),
    )
    return filled.rstrip()


@cache
def _prompt_file(kind: str) -> str:
    return (resources.files("kard.teacher") / "prompts" / f"{kind}.txt").read_text(encoding="utf-8")


def _kind(question: Question) -> str:
    if not question.choices:
        return "open"
    return "yes_no" if {choice.casefold() for choice in question.choices} == {"yes", "no"} else "multiple_choice"


def _answer(question: Question) -> str:
    if _kind(question) == "multiple_choice" and isinstance(question.answer, int):
        return _lettered(question)[question.answer]
    return "" if question.answer is None else _one_line(question.answer_text)


def _lettered(question: Question) -> list[str]:
    count = len(question.choices)
    if count > len(ascii_uppercase):
        raise UserError(f"question {question.id}: has {count} choices, more than there are letters. Give it fewer.")
    return [f"({ascii_uppercase[place]}) {_one_line(choice)}" for place, choice in enumerate(question.choices)]


def _one_line(text: str) -> str:
    return " ".join(text.split())
