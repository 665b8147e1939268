"""The paper's last filter: a model that reads question and rationale must rank the gold choice first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase

from kard.artifacts.files import hash_of
from kard.data.question import Question
from kard.machine.processes import process_count
from kard.models.weights import model_identity
from kard.progress import progress
from kard.recipe.teacher import TeacherSection
from kard.teacher.cache import ReplyCache
from kard.teacher.prompting import Prompts, read_prompts
from kard.teacher.rationale import Rationale

# Prompts and the answers that may follow each of them in; which of them is the likeliest, out.
Rank = Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]
CONCLUSION = "So the answer is"
_AT_ONCE = 64  # verdicts of a process that a killed run loses; they are ranked in batches of similar length


def verify(
    rationales: Sequence[Rationale],
    questions: Mapping[str, Question],
    section: TeacherSection,
    rank: Rank,
    cache: ReplyCache,
) -> list[Rationale]:
    """Reject kept rationales after which the verifier ranks another choice than the gold one first (paper, section 3.1).

    Args:
        rationales: In any order; open questions' and rejected ones stay as they are.
        questions: By id.
        section: The recipe's ``teacher``.
        rank: The model.
        cache: Keeps what the model ranked first, so that a killed run asks nothing twice.
    """
    prompts, identity = _prompts(section), model_identity(section.verifier or "", "teacher.verifier")
    asked = [one for one in rationales if one.status == "kept" and questions[one.question].choices]
    verified: dict[str, Rationale] = {}
    with progress("verify rationales", len(asked), "rationales") as advance:
        at_once = _AT_ONCE * process_count()
        for begin in range(0, len(asked), at_once):
            some = asked[begin : begin + at_once]
            pairs = [_reading(one, questions[one.question], prompts, section) for one in some]
            keys = [hash_of([identity, *pair]) for pair in pairs]
            missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if cache.verdict(key) is None}
            if missing:
                texts, answers = zip(*missing.values(), strict=True)
                cache.keep_verdicts(zip(missing, rank(texts, answers), strict=True))
            for one, key in zip(some, keys, strict=True):
                best = cache.verdict(key)
                assert best is not None
                verified[one.id] = _judged(one, questions[one.question], best)
            advance(len(some))
    return [verified.get(one.id, one) for one in rationales]


def example_prompt(question: Question, section: TeacherSection) -> str:
    """What the verifier reads of a question, in front of a rationale: the worked examples, and the question."""
    return _examples(question, _prompts(section))


def _prompts(section: TeacherSection) -> Prompts:
    """The shipped worked examples, each with its explanation in front of its answer."""
    plain = {"prompt": None, "sees_answer": False, "sees_gold_passages": False}
    return read_prompts(section.model_copy(update=plain))


def _reading(
    rationale: Rationale, question: Question, prompts: Prompts, section: TeacherSection
) -> tuple[str, list[str]]:
    """What the verifier reads, and the answers that it ranks."""
    text = f"{_examples(question, prompts)} {rationale.text} {CONCLUSION}"
    if section.verifier_by == "text":
        text = re.sub(r"\([A-Z]\) ", "", text)
    by_letter = section.verifier_by == "letter" and not question.is_yes_no
    shown = [f"({letter})" for letter in ascii_uppercase] if by_letter else question.choices
    return text, [f" {answer}" for answer, _ in zip(shown, question.choices, strict=False)]


def _examples(question: Question, prompts: Prompts) -> str:
    return prompts.render(question, ()).partition("\n\n")[2]


def _judged(rationale: Rationale, question: Question, best: int) -> Rationale:
    if best == question.answer:
        return rationale
    reason = f"the verifier reads “{question.choices[best]}” out of it, the answer is “{question.answer_text}”"
    return replace(rationale, status="unverified", reason=reason)
