"""Collecting rationales: one function for all kinds of teachers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from kard.artifacts import hash_of_file
from kard.data.question import Question
from kard.models.weights import model_identity
from kard.progress import progress, say
from kard.recipe import TeacherSection
from kard.teacher.cache import Reply, ReplyCache
from kard.teacher.extractive import extract_rationale
from kard.teacher.filter import Draft, of_wanted_kind, rewritten, settle, sift, to_rewrite
from kard.teacher.limits import CHARACTERS_PER_TOKEN, Spent, likely_cost, spending
from kard.teacher.prompting import PassagesOf, Request, Write, model_name, requests_of, rewriting
from kard.teacher.rationale import Rationale, Status
from kard.teacher.recorded import recorded_drafts
from kard.teacher.verifier import Rank, verify

_NOT_DECIDING = {
    *("api_key_env", "concurrency", "timeout", "retries", "max_wait", "max_failures"),
    *("requests_per_minute", "tokens_per_minute", "input_price", "output_price"),
    *("max_usd", "max_requests", "max_total_tokens", "mode", "batch_wait", "several"),
    "replies",  # their content is in the stage's key
}


_OTHER_TEACHERS = (
    "Give the questions 'rationales' (teacher.kind: recorded), 'gold_passages' (extractive), or ask a language model "
    "(openai)."
)
_ADVICE: dict[Status, str] = {
    "wrong_answer": "show the teacher the gold answer (teacher.sees_answer), or ask another one",
    "refused": "ask another teacher, or write teacher.prompt",
    "truncated": "raise teacher.max_tokens",
    "too_short": "lower teacher.min_words, or ask another teacher",
    "too_long": "raise teacher.max_words",
    "leak": "write teacher.prompt so that it forbids them, or set teacher.reject_leaks: false",
    "wrong_kind": "name more teacher.kinds, or set teacher.rewrite",
    "unverified": "name another teacher.verifier, or none",
    "error": "{reason}",
}


@dataclass(frozen=True)
class Models:
    """Language models in this process, handed in: the teacher knows none.

    Attributes:
        rank: The verifier (``teacher.verifier``).
        write: The teacher of kind transformers.
    """

    rank: Rank | None = None
    write: Write | None = None


def collect_rationales(
    questions: Sequence[Question],
    passages_of: PassagesOf,
    section: TeacherSection,
    seed: int,
    cache: Path,
    models: Models = Models(),
) -> list[Rationale]:
    """Rationales of all questions, kept and rejected ones alike, in the order of the questions.

    Args:
        questions: Those that need rationales.
        passages_of: The gold passages of a question, may be empty.
        section: The recipe's ``teacher``.
        seed: Decides the seeds of the requests.
        cache: SQLite file of replies and verdicts; what is in it is never asked for again.
        models: As far as the recipe names any.

    Returns:
        At least one a question where a model is asked and for extractive; for recorded, as many as came with the question.

    Raises:
        UserError: The endpoint cannot be used, or too many requests failed.
    """
    if section.asks:
        rationales = _asked(questions, passages_of, section, seed, cache, models.write)
    elif section.kind == "recorded":
        rationales = _recorded(questions, section)
    else:
        rationales = list(_extracted(questions, passages_of, section))
    rationales = [of_wanted_kind(rationale, section) for rationale in rationales]
    if section.verifier is not None:
        assert models.rank is not None
        by_id = {question.id: question for question in questions}
        with closing(ReplyCache(cache)) as verdicts:
            rationales = verify(rationales, by_id, section, models.rank, verdicts)
    groups = groupby(rationales, key=lambda rationale: rationale.question)
    return [rationale for _, group in groups for rationale in settle(list(group), section)]


def _recorded(questions: Sequence[Question], section: TeacherSection) -> list[Rationale]:
    if section.replies is None:
        drafts = {question.id: list(map(Draft, question.rationales)) for question in questions}
    else:
        drafts = recorded_drafts(questions, section.replies)
    return [
        rationale
        for question in questions
        for rationale in sift(question, drafts.get(question.id, ())[: section.rationales], section, "recorded")
    ]


def _extracted(questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection) -> Iterator[Rationale]:
    with progress("pick sentences", len(questions), "questions") as advance:
        for question in questions:
            draft = extract_rationale(question, passages_of(question), section.sentences)
            yield from sift(question, [draft], section, "extractive")
            advance(1)


def _asked(
    questions: Sequence[Question],
    passages_of: PassagesOf,
    section: TeacherSection,
    seed: int,
    path: Path,
    write: Write | None,
) -> list[Rationale]:
    _say_without_passages(questions, passages_of, section)
    keys: dict[str, list[str]] = {}

    def groups() -> Iterator[Sequence[Request]]:
        for question, group in requests_of(questions, passages_of, section, seed):
            keys[question.id] = [request.key for request in group]
            yield from [group] if section.at_once else ([request] for request in group)

    with closing(ReplyCache(path)) as cache, _asker(section, cache, write) as ask:
        cache.take_in()
        failures = ask(groups, len(questions) * (section.rationales or 1))
        rationales = [
            rationale
            for question in questions
            for rationale in sift(
                question,
                [_draft(cache.reply(key), failures.get(key, "")) for key in keys[question.id]],
                section,
                model_name(section),
            )
        ]
        if section.rewrite == "ask":
            return _rewritten(rationales, {one.id: one for one in questions}, section, seed, cache, ask)
    return rationales


Ask = Callable[[Callable[[], Iterator[Sequence[Request]]], int], dict[str, str]]


@contextmanager
def _asker(section: TeacherSection, cache: ReplyCache, write: Write | None) -> Iterator[Ask]:
    """The way to ask this kind of teacher; a model on this machine is started when the first reply is missing."""
    from kard.teacher import batches, client, local

    with ExitStack() as stack:
        served: list[TeacherSection] = []

        def ask(groups: Callable[[], Iterator[Sequence[Request]]], total: int) -> dict[str, str]:
            if section.kind == "openai" and section.mode == "batch":
                return batches.ask_in_batches(groups(), total, section, cache)
            if section.kind == "openai":
                return client.ask(groups(), total, section, cache)
            if all(cache.has(request.key) for group in groups() for request in group):
                return {}
            if section.kind == "transformers":
                assert write is not None
                local.write_missing(groups(), total, section, cache, write)
                return {}
            if not served:
                url = stack.enter_context(local.serving(section))
                served.append(section.model_copy(update={"base_url": url}))
            return client.ask(groups(), total, served[0], cache)

        yield ask


def _rewritten(
    rationales: Sequence[Rationale],
    questions: Mapping[str, Question],
    section: TeacherSection,
    seed: int,
    cache: ReplyCache,
    ask: Ask,
) -> list[Rationale]:
    """The rationales, with what the teacher made of those that do not run from fact to answer."""
    requests = {
        one.id: rewriting(questions[one.question], one.text, section, seed)
        for one in rationales
        if to_rewrite(one, questions[one.question])
    }
    if failures := ask(lambda: ([request] for request in requests.values()), len(requests)):
        say(f"  ask teacher: {len(failures):,} rationales could not be rewritten and stay as they are")
    replies = {name: cache.reply(request.key) for name, request in requests.items()}
    return [
        rewritten(one, reply.text, questions[one.question], section) if (reply := replies.get(one.id)) else one
        for one in rationales
    ]


def _say_without_passages(questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection) -> None:
    if section.sees_gold_passages and (count := sum(not passages_of(question) for question in questions)):
        say(f"  ask teacher: {count:,} of {len(questions):,} questions have no gold passages and are asked without any")


def _draft(reply: Reply | None, failure: str) -> Draft:
    if reply is None:
        return Draft("", failure=failure)
    return Draft(reply.text, reply.finish_reason, usage=reply.usage)


def why_none_is_kept(rationales: Sequence[Rationale], section: TeacherSection) -> str:
    """How many rationales were rejected for what, and what to do, where none is left to learn from."""
    if not rationales:
        return f"There are none. {_OTHER_TEACHERS}"
    counts = Counter(rationale.status for rationale in rationales)
    errors = Counter(rationale.reason for rationale in rationales if rationale.status == "error")
    said = [
        f"{count:,} {status}: {_ADVICE[status].format(reason='; '.join(reason for reason, _ in errors.most_common(3)))}"
        for status, count in counts.most_common()
    ]
    return f"{'. '.join(said)}.{'' if section.asks else f' {_OTHER_TEACHERS}'}"


def deciding_settings(section: TeacherSection) -> dict[str, Any]:
    """The settings that decide which rationales there are, for the stage's key.

    How fast the teacher is asked, how often again, and for how much at most is left out: raising a budget after the end
    makes nothing new. A prompt file counts with its content.
    """
    settings = section.model_dump(mode="json", exclude=_NOT_DECIDING)
    settings |= {"prompt": hash_of_file(section.prompt)} if section.prompt else {}
    settings |= {"verifier": model_identity(section.verifier, "teacher.verifier")} if section.verifier else {}
    return settings | (
        {"model": model_identity(str(section.model), "teacher.model")}
        if section.kind in ("llama_cpp", "transformers")
        else {}
    )


def describe_teacher(section: TeacherSection) -> str:
    """One sentence about where the rationales come from, for the report and the model card."""
    if section.replies is not None:
        return f"The rationales are replies of a language model that were recorded earlier ({section.replies.name})."
    if section.kind == "recorded":
        return "The rationales came with the questions."
    if section.kind == "extractive":
        one = section.sentences == 1
        taken = "sentence" if one else f"{section.sentences} sentences"
        support = "supports" if one else "support"
        return f"A rationale is the {taken} of the gold passages that {support} the answer; no LLM was asked."
    told = (("the gold answer", section.sees_answer), ("the gold passages", section.sees_gold_passages))
    seen = " and ".join(name for name, shown in told if shown) or "the question alone"
    where = section.base_url or "OpenAI" if section.kind == "openai" else f"on this machine, {section.kind}"
    verified = f" The verifier was {section.verifier}." if section.verifier else ""
    return f"The rationales were written by {model_name(section)} ({where}), which saw {seen}.{verified}"


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
    if not section.asks:
        zero = {"answered": 0, "requests": 0, "input_tokens": 0, "output_tokens": 0, "usd": None}
        return zero | {"note": "no LLM is asked"}
    with _opened(cache) as replies:
        every = (request for _, group in requests_of(questions, passages_of, section, seed) for request in group)
        missing = (request for request in every if replies is None or not replies.has(request.key))
        spent = sum((likely_cost(request.body, section) for request in missing), Spent())
    return {
        "answered": len(questions) * (section.rationales or 1) - spent.requests,
        "requests": spent.requests,
        "input_tokens": spent.prompt_tokens,
        "output_tokens": spent.completion_tokens,
        "usd": spent.usd(section) if section.input_price + section.output_price else None,
        "note": f"estimated: {CHARACTERS_PER_TOKEN} characters a token in, at most teacher.max_tokens a reply out"
        + ("; teacher.rewrite: ask comes on top, at most as many requests again" if section.rewrite == "ask" else ""),
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
