"""Collecting rationales: one function for all kinds of teachers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kard.artifacts import hash_of_file
from kard.progress import progress, say
from kard.questions import Question
from kard.recipe import TeacherSection
from kard.teacher import Rationale
from kard.teacher.cache import Reply, ReplyCache
from kard.teacher.extractive import extract_rationale
from kard.teacher.filter import Draft, sift
from kard.teacher.limits import CHARACTERS_PER_TOKEN, Spent, likely_cost, spending
from kard.teacher.prompting import PassagesOf, requests_of

_NOT_DECIDING = {
    *("api_key_env", "concurrency", "timeout", "retries", "max_wait", "max_failures"),
    *("requests_per_minute", "tokens_per_minute", "input_price", "output_price"),
    *("max_usd", "max_requests", "max_total_tokens"),
}


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

    _say_without_passages(questions, passages_of, section)
    requests = partial(requests_of, questions, passages_of, section, seed)
    with closing(ReplyCache(path)) as cache:
        total = len(questions) * (section.rationales or 1)
        failures = ask((request for _, group in requests() for request in group), total, section, cache)
        for question, group in requests():
            drafts = [_draft(cache.reply(request.key), failures.get(request.key, "")) for request in group]
            yield from sift(question, drafts, section, str(section.model))


def _say_without_passages(questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection) -> None:
    if section.sees_gold_passages and (count := sum(not passages_of(question) for question in questions)):
        say(f"  ask teacher: {count:,} of {len(questions):,} questions have no gold passages and are asked without any")


def _draft(reply: Reply | None, failure: str) -> Draft:
    if reply is None:
        return Draft("", failure=failure)
    usage = {name: getattr(reply, name) for name in ("prompt_tokens", "completion_tokens", "seconds")}
    return Draft(reply.text, reply.finish_reason, usage=usage)


def deciding_settings(section: TeacherSection) -> dict[str, Any]:
    """The settings that decide which rationales there are, for the stage's key.

    How fast the teacher is asked, how often again, and for how much at most is left out: raising a budget after the end
    makes nothing new. A prompt file counts with its content.
    """
    settings = section.model_dump(mode="json", exclude=_NOT_DECIDING)
    return settings | ({"prompt": hash_of_file(section.prompt)} if section.prompt else {})


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


def estimate(
    questions: Sequence[Question],
    passages_of: PassagesOf,
    section: TeacherSection,
    seed: int = 0,
    cache: Path | None = None,
) -> dict[str, Any]:
    """What asking the teacher takes, for ``--dry-run``.

    Args:
        questions: As for `collect_rationales`, like the other arguments.
        passages_of: The gold passages of a question.
        section: The recipe's ``teacher``.
        seed: The recipe's seed.
        cache: File of paid replies; those that are in it are not counted.

    Returns:
        ``answered`` (requests whose reply is there), ``requests`` (still to be sent), ``input_tokens`` (estimated at
        four characters a token), ``output_tokens`` (at most), ``usd`` (by the recipe's prices; None without prices),
        and ``note``, which says how it was estimated. All zero where no LLM is asked.
    """
    if section.kind != "openai":
        zero = {"answered": 0, "requests": 0, "input_tokens": 0, "output_tokens": 0, "usd": None}
        return zero | {"note": "no LLM is asked"}
    with _opened(cache) as replies:
        every = (request for _, group in requests_of(questions, passages_of, section, seed) for request in group)
        missing = (request for request in every if replies is None or replies.reply(request.key) is None)
        spent = sum((likely_cost(request.body, section) for request in missing), Spent())
    return {
        "answered": len(questions) * (section.rationales or 1) - spent.requests,
        "requests": spent.requests,
        "input_tokens": spent.prompt_tokens,
        "output_tokens": spent.completion_tokens,
        "usd": spent.usd(section) if section.input_price + section.output_price else None,
        "note": f"estimated: {CHARACTERS_PER_TOKEN} characters a token in, at most teacher.max_tokens a reply out",
    }


@contextmanager
def _opened(path: Path | None) -> Iterator[ReplyCache | None]:
    """The cache if its file is there; a dry run makes none."""
    if path is None or not path.exists():
        yield None
        return
    with closing(ReplyCache(path)) as cache:
        yield cache


def spent_so_far(section: TeacherSection, cache: Path) -> dict[str, Any]:
    """What all runs with this cache have sent and used, for the report.

    Returns:
        ``requests``, ``input_tokens``, ``output_tokens``, ``usd`` (None without prices), and all of it in ``words``.
    """
    with _opened(cache) as replies:
        spent = replies.spent() if replies else Spent()
    return {
        "requests": spent.requests,
        "input_tokens": spent.prompt_tokens,
        "output_tokens": spent.completion_tokens,
        "usd": spent.usd(section) if section.input_price + section.output_price else None,
        "words": spending(spent, section),
    }
