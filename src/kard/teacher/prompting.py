"""What a teacher is asked: the prompt files, and one request for each rationale that is wanted."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template, ascii_uppercase
from typing import Any
from urllib.parse import urlsplit

from kard.artifacts.files import hash_of
from kard.data.passage import Passage
from kard.data.question import Question
from kard.data.textfile import read_text
from kard.errors import UserError
from kard.models.weights import model_identity
from kard.recipe.teacher import TeacherSection

OPENAI_URL = "https://api.openai.com/v1"
PATHS = {"chat": "/chat/completions", "completions": "/completions"}
KINDS = ("multiple_choice", "yes_no", "open")
PLACEHOLDERS = frozenset(("passages", "question", "choices", "answer"))
PassagesOf = Callable[[Question], list[Passage]]
# Request bodies in; for each its text, why it ended, and the tokens in and out.
Write = Callable[[Sequence[Mapping[str, Any]]], list[tuple[str, str, int, int]]]


@dataclass(frozen=True)
class Request:
    """One request: the body that is sent, and the key that its reply is stored under."""

    key: str
    body: dict[str, Any]


def requests_of(
    questions: Iterable[Question], passages_of: PassagesOf, section: TeacherSection, seed: int
) -> Iterator[tuple[Question, list[Request]]]:
    """Each question with its requests, made when they are asked for, so that any number of questions costs no memory.

    The requests of a question differ by their seed, which depends on `seed` and their number only: asking for more
    rationales later leaves the first ones as they are.
    """
    prompts = read_prompts(section)
    for question in questions:
        prompt = prompts.render(question, passages_of(question))
        yield question, [request_of(prompt, section, f"{seed}:{number}") for number in range(section.asked_for)]


def request_of(prompt: str, section: TeacherSection, seed: str) -> Request:
    """The request that sends a prompt."""
    message = {"role": "user", "content": prompt}
    body = {
        "model": model_name(section),
        # A text to be continued, or a conversation.
        **({"prompt": prompt} if section.endpoint == "completions" else {"messages": [message]}),
        "temperature": section.temperature,
        "max_tokens": section.max_tokens,
        "seed": random.Random(seed).getrandbits(31),
    }
    sent = {key: value for key, value in (body | section.extra_body).items() if value is not None}
    # Where no seed is sent, requests of one question still have a key each.
    key = hash_of({"base_url": _teacher(section), "body": {"seed": body["seed"], **sent}})
    is_openai = section.kind == "openai" and base_url(section) == OPENAI_URL
    if is_openai and section.endpoint == "chat" and "max_tokens" in sent:
        sent["max_completion_tokens"] = sent.pop("max_tokens")  # the older name is refused by models that reason
    return Request(key, sent)


def _teacher(section: TeacherSection) -> Any:
    """Who is asked, for the key of a reply: the endpoint, or the model on this machine."""
    if section.kind == "openai":
        return base_url(section)
    path = Path(section.model or "")
    # A GGUF file stays the same model where it is moved or copied.
    return [
        section.kind,
        path.stat().st_size if path.is_file() else model_identity(str(section.model), "teacher.model"),
    ]


def model_name(section: TeacherSection) -> str:
    """The teacher's model in words, without the folder of a file."""
    return Path(section.model or "").name if section.kind == "llama_cpp" else section.model or ""


def rewriting(question: Question, text: str, section: TeacherSection, seed: int) -> Request:
    """The request for the sentences of a rationale that lead to the answer (``teacher.rewrite: ask``)."""
    template = Template((resources.files("kard.teacher") / "prompts" / "rewrite.txt").read_text(encoding="utf-8"))
    filled = template.substitute(
        question=one_line(question.question), answer=_answer(question), explanation=one_line(text)
    )
    return request_of(filled.rstrip(), section, f"{seed}:rewrite")


def joined(requests: Sequence[Request]) -> dict[str, Any]:
    """The body that asks for the texts of several requests of one question at once."""
    body = requests[0].body
    return body | {"n": len(requests)} if len(requests) > 1 else body


def base_url(section: TeacherSection) -> str:
    """The endpoint without a slash at its end, so that one endpoint has one key."""
    return (section.base_url or OPENAI_URL).rstrip("/")


def request_url(section: TeacherSection) -> str:
    """Where requests go: a query of ``teacher.base_url`` stays behind the path, and the path may be there as a whole."""
    url, path = urlsplit(base_url(section)), PATHS[section.endpoint]
    return url._replace(path=url.path.rstrip("/").removesuffix(path) + path).geturl()


@dataclass(frozen=True)
class Prompts:
    """The prompt of each kind of question, and whether the gold passages are shown in it."""

    templates: dict[str, Template]
    shows_passages: bool

    def render(self, question: Question, passages: Sequence[Passage]) -> str:
        """The prompt of a question: instruction, five worked examples, the question itself, "Explanation:"."""
        shown = passages if self.shows_passages else ()
        filled = self.templates[_kind(question)].substitute(
            passages="".join(f"Passage: {one_line(passage.full_text)}\n" for passage in shown),
            question=one_line(question.question),
            choices="\n".join(lettered(question)),
            answer=_answer(question),
        )
        return filled.rstrip()


def read_prompts(section: TeacherSection) -> Prompts:
    """The recipe's own prompt file for all questions, or the shipped ones.

    With ``teacher.sees_answer: false`` the answers of the worked examples move behind their explanations, so that the
    teacher states its own and the filter can compare it with the gold one.

    Raises:
        UserError: The recipe's prompt file is missing, or its placeholders are not the four that there are.
    """
    shipped = resources.files("kard.teacher") / "prompts"
    if section.prompt is not None:
        texts = dict.fromkeys(KINDS, _own_prompt(section.prompt))
    else:
        texts = {kind: (shipped / f"{kind}.txt").read_text(encoding="utf-8") for kind in KINDS}
    if not section.sees_answer:
        texts = {kind: _without_answers(text) for kind, text in texts.items()}
    return Prompts({kind: Template(text) for kind, text in texts.items()}, section.sees_gold_passages)


def _own_prompt(path: Path) -> str:
    text = read_text(path)
    template = Template(text)
    found = set(template.get_identifiers())
    if not template.is_valid() or not found <= PLACEHOLDERS or "question" not in found:
        wrong = ", ".join(f"${name}" for name in sorted(found - PLACEHOLDERS)) or "a lone $, or no $question"
        known = ", ".join(f"${name}" for name in sorted(PLACEHOLDERS))
        raise UserError(f"{path}: has {wrong}. Use {known}; $question is needed, and $$ is a dollar sign.")
    return text


def _without_answers(text: str) -> str:
    moved = re.sub(r"^Answer: (.+)\n(Explanation: .+)$", r"\2 So the answer is \1.", text, flags=re.MULTILINE)
    return re.sub(r"^Answer: \$\{?answer\}?\n", "", moved, flags=re.MULTILINE)


def _kind(question: Question) -> str:
    if not question.choices:
        return "open"
    return "yes_no" if question.is_yes_no else "multiple_choice"


def _answer(question: Question) -> str:
    if _kind(question) == "multiple_choice" and isinstance(question.answer, int):
        return lettered(question)[question.answer]
    return "" if question.answer is None else one_line(question.answer_text)


def lettered(question: Question) -> list[str]:
    """The choices as a prompt shows them: ``(A) red``."""
    count = len(question.choices)
    if count > len(ascii_uppercase):
        raise UserError(f"question {question.id}: has {count} choices, more than there are letters. Give it fewer.")
    return [f"({ascii_uppercase[place]}) {one_line(choice)}" for place, choice in enumerate(question.choices)]


def one_line(text: str) -> str:
    """The text without ends of lines, which end a part of a prompt."""
    return " ".join(text.split())
