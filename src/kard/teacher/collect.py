"""Collecting rationales: one function for all kinds of teachers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache as once
from itertools import chain, groupby
from pathlib import Path

from kard.data.question import Question
from kard.progress import progress, say
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.extractive import extract_rationale
from kard.teacher.filter import judged, rewritten, to_rewrite, without_repetitions
from kard.teacher.limits import Spent, likely_cost
from kard.teacher.prompting import PassagesOf, Request, Write, model_name, requests_of, rewriting
from kard.teacher.rationale import Draft, Rationale, Status
from kard.teacher.recorded import recorded_drafts
from kard.teacher.verifier import Rank, verify

_OTHER_TEACHERS = (
    "Give the questions 'rationales' (teacher.kind: recorded), 'gold_passages' (extractive), or ask a language model "
    "(openai)."
)
_ADVICE: dict[Status, str] = {
    "wrong_answer": "show the teacher the gold answer (teacher.sees_answer), or ask another one",
    "refused": "ask another teacher, or write teacher.prompt",
    "truncated": "raise teacher.max_tokens",
    "too_short": "ask another teacher, or write teacher.prompt",
    "too_long": "raise teacher.max_words",
    "leak": "write teacher.prompt so that it forbids them, or set teacher.reject_leaks: false",
    "unverified": "name another teacher.verifier, or none",
    "error": "{reason}",
}
# Requests that may be sent as one, and how many texts they ask for; returns what failed, with the reason.
Ask = Callable[[Iterator[Sequence[Request]], int], dict[str, str]]


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
    else:
        drafts = (
            _recorded(questions, section) if section.kind == "recorded" else _extracted(questions, passages_of, section)
        )
        rationales = [one for question, some in drafts for one in judged(question, some, section, section.kind)]
    if section.verifier is not None:
        assert models.rank is not None
        by_id = {question.id: question for question in questions}
        with closing(ReplyCache(cache)) as verdicts:
            rationales = verify(rationales, by_id, section, models.rank, verdicts)
    groups = groupby(rationales, key=lambda rationale: rationale.question)
    return [rationale for _, group in groups for rationale in without_repetitions(group, section)]


def _recorded(questions: Sequence[Question], section: TeacherSection) -> Iterator[tuple[Question, Sequence[Draft]]]:
    replies = recorded_drafts(questions, section.replies) if section.replies else {}
    for question in questions:
        drafts = replies.get(question.id, []) if section.replies else [Draft(text) for text in question.rationales]
        yield question, drafts[: section.rationales]


def _extracted(
    questions: Sequence[Question], passages_of: PassagesOf, section: TeacherSection
) -> Iterator[tuple[Question, Sequence[Draft]]]:
    with progress("pick sentences", len(questions), "questions") as advance:
        for question in questions:
            yield question, [extract_rationale(question, passages_of(question), section.sentences)]
            advance(1)


def _asked(
    questions: Sequence[Question],
    passages_of: PassagesOf,
    section: TeacherSection,
    seed: int,
    path: Path,
    write: Write | None,
) -> list[Rationale]:
    if section.sees_gold_passages and (count := sum(not passages_of(question) for question in questions)):
        say(f"  ask teacher: {count:,} of {len(questions):,} questions have no gold passages and are asked without any")
    keys: dict[str, list[str]] = {}

    def groups() -> Iterator[Sequence[Request]]:
        for question, group in requests_of(questions, passages_of, section, seed):
            keys[question.id] = [request.key for request in group]
            yield from [group] if section.at_once else ([request] for request in group)

    with closing(ReplyCache(path)) as cache, asker(section, cache, write) as ask:
        draft = drafts(ask(groups(), len(questions) * section.asked_for), cache)
        source = model_name(section)
        rationales = [
            one for question in questions for one in judged(question, map(draft, keys[question.id]), section, source)
        ]
        if section.rewrite == "ask":
            return _rewritten(rationales, {one.id: one for one in questions}, section, seed, cache, ask)
    return rationales


def drafts(failures: Mapping[str, str], cache: ReplyCache) -> Callable[[str], Draft]:
    """What was replied to each request that was asked, by its key: a text, or why there is none."""
    return lambda key: cache.reply(key) or Draft("", failure=failures.get(key, ""))


@contextmanager
def asker(section: TeacherSection, cache: ReplyCache, write: Write | None) -> Iterator[Ask]:
    """The way to ask this kind of teacher; a llama.cpp server is started when the first reply is missing."""
    from kard.teacher import batches, client, local

    with ExitStack() as stack:

        @once
        def served() -> TeacherSection:
            return section.model_copy(update={"base_url": stack.enter_context(local.serving(section))})

        def ask(groups: Iterator[Sequence[Request]], total: int) -> dict[str, str]:
            if section.kind == "transformers":
                assert write is not None
                local.write_missing(groups, total, section, cache, write)
                return {}
            if section.kind == "openai":
                ask_endpoint = batches.ask_in_batches if section.mode == "batch" else client.ask
                return ask_endpoint(groups, total, section, cache)
            missing = (group for group in groups if not all(cache.has(request.key) for request in group))
            first = next(missing, None)
            return client.ask(chain([first], missing), total, served(), cache) if first else {}

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
    if failures := ask(([request] for request in requests.values()), len(requests)):
        say(f"  ask teacher: {len(failures):,} rationales could not be rewritten and stay as they are")
    replies = {name: cache.reply(request.key) for name, request in requests.items()}
    return [
        rewritten(one, reply.text, questions[one.question], section) if (reply := replies.get(one.id)) else one
        for one in rationales
    ]


def why_none_is_kept(rationales: Sequence[Rationale], section: TeacherSection) -> str:
    """How many rationales were rejected for what, and what to do, where none is left to learn from."""
    if not rationales:
        return f"There are none. {_OTHER_TEACHERS}"
    counts = Counter(rationale.status for rationale in rationales)
    errors = Counter(rationale.reason for rationale in rationales if rationale.status == "error")
    reasons = "; ".join(reason for reason, _ in errors.most_common(3))
    said = [f"{count:,} {status}: {_ADVICE[status].format(reason=reasons)}" for status, count in counts.most_common()]
    return f"{'. '.join(said)}.{'' if section.asks else f' {_OTHER_TEACHERS}'}"


def describe_teacher(section: TeacherSection) -> str:
    """One sentence about where the rationales come from, for the report and the model card."""
    if section.replies is not None:
        return f"The rationales are replies of a language model that were recorded earlier ({section.replies.name})."
    if section.kind == "recorded":
        return "The rationales came with the questions."
    if section.kind == "extractive":
        taken = "sentence" if section.sentences == 1 else f"{section.sentences} sentences"
        support = "supports" if section.sentences == 1 else "support"
        return f"A rationale is the {taken} of the gold passages that {support} the answer; no LLM was asked."
    shows = (("the gold answer", section.sees_answer), ("the gold passages", section.sees_gold_passages))
    seen = " and ".join(name for name, is_shown in shows if is_shown) or "the question alone"
    verified = f" The verifier was {section.verifier}." if section.verifier else ""
    return f"The rationales were written by {writer(section)}, which saw {seen}.{verified}"


def writer(section: TeacherSection) -> str:
    """The model that is asked, and where it runs."""
    where = section.base_url or "OpenAI" if section.kind == "openai" else f"on this machine, {section.kind}"
    return f"{model_name(section)} ({where})"


def estimate(
    questions: Sequence[Question],
    passages_of: PassagesOf,
    section: TeacherSection,
    seed: int = 0,
    cache: Path | None = None,
) -> tuple[int, Spent]:
    """What asking the teacher takes, for ``--dry-run``.

    Args:
        questions: As for `collect_rationales`, like the other arguments.
        passages_of: The gold passages of a question.
        section: The recipe's ``teacher``.
        seed: The recipe's seed.
        cache: File of paid replies; those that are in it are not counted.

    Returns:
        How many rationales are there, and what is still to be sent: requests, and tokens in (estimated by characters) and
        out (at most); ``teacher.rewrite: ask`` comes on top. Nothing where no language model is asked.
    """
    if not section.asks:
        return 0, Spent()
    # A dry run makes no file.
    with closing(ReplyCache(cache)) if cache and cache.exists() else nullcontext() as replies:
        every = (request for _, group in requests_of(questions, passages_of, section, seed) for request in group)
        missing = (request for request in every if replies is None or not replies.has(request.key))
        spent = sum((likely_cost(request.body, section) for request in missing), Spent())
    return len(questions) * section.asked_for - spent.requests, spent


def spent_so_far(cache: Path) -> Spent:
    """What all runs with this cache have sent and used."""
    if not cache.exists():
        return Spent()
    with closing(ReplyCache(cache)) as replies:
        return replies.spent()
