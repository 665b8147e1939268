"""Collecting rationales: one function for all kinds of teachers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from kard.progress import progress
from kard.questions import Question
from kard.recipe import TeacherSection
from kard.teacher import Rationale
from kard.teacher.cache import Reply, ReplyCache
from kard.teacher.extractive import extract_rationale
from kard.teacher.filter import Draft, sift
from kard.teacher.prompting import PassagesOf, render_prompt, requests_of, requests_of_question

CHARACTERS_PER_TOKEN = 4


def collect_rationales(
    questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection, seed: int, cache: Path
) -> list[Rationale]:
    """Rationales of all questions, kept and rejected ones alike, in the order of the questions.

    Args:
        questions: Those that need rationales.
        passages_of: The gold passages of a question, may be empty.
        section: The recipe's ``teacher``.
        seed: Decides the seeds of the requests.
        cache: SQLite file of paid replies (kind openai); a reply in it is never asked for again.

    Returns:
        At least one a question for the kinds extractive and openai; for recorded, as many as came with the question.

    Raises:
        UserError: The endpoint cannot be used, or too many requests failed.
    """
    if section.kind == "openai":
        return list(_asked(questions, passages_of, section, seed, cache))
    if section.kind == "recorded":
        return [rationale for question in questions for rationale in _recorded(question, section)]
    return list(_extracted(questions, passages_of, section))


def _recorded(question: Question, section: TeacherSection) -> list[Rationale]:
    return sift(question, map(Draft, question.rationales[: section.rationales]), section, "recorded")


def _extracted(questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection) -> Iterator[Rationale]:
    with progress("pick sentences", len(questions), "questions") as advance:
        for question in questions:
            draft = extract_rationale(question, passages_of(question), section.sentences)
            yield from sift(question, [draft], section, "extractive")
            advance(1)


def _asked(
    questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection, seed: int, path: Path
) -> Iterator[Rationale]:
    from kard.teacher.client import ask

    with closing(ReplyCache(path)) as cache:
        total = len(questions) * (section.rationales or 1)
        failures = ask(requests_of(questions, passages_of, section, seed), total, section, cache)
        for question in questions:
            requests = requests_of_question(question, passages_of(question), section, seed)
            drafts = [_draft(cache.reply(request.key), failures.get(request.key, "")) for request in requests]
            yield from sift(question, drafts, section, str(section.model))


def _draft(reply: Reply | None, failure: str) -> Draft:
    if reply is None:
        return Draft("", failure=failure)
    usage = {name: getattr(reply, name) for name in ("prompt_tokens", "completion_tokens", "seconds")}
    return Draft(reply.text, reply.finish_reason, usage=usage)


def describe_teacher(section: TeacherSection) -> str:
    """One sentence about where the rationales come from, for the report and the model card."""
    if section.kind == "recorded":
        return "The rationales came with the questions."
    if section.kind == "extractive":
        count = "sentence" if section.sentences == 1 else f"{section.sentences} sentences"
        return f"The rationales are the {count} of the gold passages that support the answer; no LLM was asked."
    told = (("the gold answer", section.sees_answer), ("the gold passages", section.sees_gold_passages))
    seen = " and ".join(name for name, shown in told if shown) or "the question alone"
    return f"The rationales were written by {section.model} ({section.base_url or 'OpenAI'}), which saw {seen}."


def estimate(questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection) -> dict[str, Any]:
    """What asking the teacher takes, for ``--dry-run``.

    Returns:
        ``requests``, ``input_tokens`` (estimated at four characters a token), ``output_tokens`` (at most, by
        ``teacher.max_tokens``), and ``note``, which says so; all zero where no LLM is asked.
    """
    if section.kind != "openai":
        return {"requests": 0, "input_tokens": 0, "output_tokens": 0, "note": "no LLM is asked"}
    each = section.rationales or 1
    characters = sum(len(render_prompt(question, passages_of(question), section)) for question in questions)
    return {
        "requests": each * len(questions),
        "input_tokens": each * characters // CHARACTERS_PER_TOKEN,
        "output_tokens": each * len(questions) * section.max_tokens,
        "note": f"estimated: {CHARACTERS_PER_TOKEN} characters a token in, at most teacher.max_tokens a reply out",
    }
