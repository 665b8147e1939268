"""Which replies become rationales: each is kept or rejected with a status and a reason in words, none is dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from string import ascii_uppercase
from typing import Literal

from kard.data.cutting import sentences
from kard.data.normal import normalised
from kard.data.question import Question
from kard.prompt import extract, same_answer
from kard.recipe.teacher import TeacherSection
from kard.teacher.kinds import kind_of, leading_to_answer
from kard.teacher.rationale import Draft, Rationale, Status
from kard.teacher.replies import REASONING_ONLY, TOOL_CALLS, readable, without_thinking

Verdict = tuple[Status, str]
# What is no whole reply, whatever was asked for.
Unusable = tuple[Literal["too_long", "refused", "truncated", "error"], str]

# A shorter text explains nothing.
MIN_WORDS = 3
# A text of this length is no rationale, whatever teacher.max_words says, and takes the rules below seconds.
LONGEST_TEXT = 50_000

_REFUSAL = re.compile(
    r"(?:i['’]?m|i am|we are) (?:very |so )?(?:sorry|afraid|unable|not able)\b"
    r"|sorry\b|(?:my )?apologies\b|i apologi[sz]e\b"
    r"|(?:unfortunately, )?i (?:cannot|can['’]?t|can not|won['’]?t|will not|must decline|do not have|don['’]?t have)\b"
    r"|as an? (?:ai|artificial|language model|large language)\b",
    re.IGNORECASE,
)

# What only someone can say who was shown a passage, a prompt or the answer.
_SHOWN = r"(?:passages?|contexts?|texts?|excerpts?|snippets?|prompts?|worked examples?)"
_LEAK = re.compile(
    rf"\b(?:the|this|these|above|given|provided|supporting|gold)\s+(?:(?:above|given|provided|supporting|gold|first)\s+)?{_SHOWN}"
    r"(?:\s+(?:above|below|provided|given))?,?\s+(?:that\s+)?(?:says?|states?|mentions?|describes?|explains?|tells?|indicates?|notes?|provided|given|clearly)\b"
    rf"|\b(?:according to|based on|as (?:stated|mentioned|described|given|said|noted|shown) in|in|from)\s+(?:the|this)\s+"
    rf"(?:(?:above|given|provided|supporting|gold)\s+)?{_SHOWN}\b(?!\s+of\b)"
    r"|\b(?:the|this) (?:given|provided|gold|supplied) answer\b|\bas an answer (?:was|is) given\b",
    re.IGNORECASE,
)
# "The (correct) answer (to this question) is …", "The right option is …", "Answer: …"
_ANSWER_IS = re.compile(
    r"(?:\b(?:the|our|my)\s+(?:[\w-]+\s+){0,2}?answer|\b(?:correct|right|best|final)\s+(?:answer|option|choice)|^\W*answer)"
    r"(?:\s+(?:choice|option))?(?:\s+(?:to|for)\s+(?:the|this|our)\s+(?:[\w-]+\s+){0,2}?question)?"
    r"(?:,?\s*(?:therefore|thus|then|hence)\b,?)?"
    r"\s*(?::|\b(?:is|would be|must be|should be|will be)\b(?:\s+(?:therefore|thus|clearly|definitely)\b)?\s*:?)\s*",
    re.IGNORECASE,
)
# "Option (B), the fur, is the correct answer", "making answer (B) the right choice", "Option (B) is correct because …"
_OPTION_IS_RIGHT = re.compile(
    r"\b(?:option|choice|answer)\s*\(?([A-Z])\b\)?(?:,[^.;()]{1,80},)?,?\s+(?:which\s+)?(?:(?:is|as|being)\s+)?(?:therefore\s+)?"
    r"(?:the\s+(?:only\s+|most\s+)?(?:correct|right)\b|(?:correct|right)\b(?!\s+(?:that|in|to|about)\b))",
    re.IGNORECASE,
)
# Rationales that go through the options also call a wrong one "correct, but not the best answer".
_SUPPOSED = re.compile(r"\b(?:if|unless|whether)\b", re.IGNORECASE)
_HEDGED = re.compile(r"\b(?:if|unless|whether|but|however|also|although|though)\b", re.IGNORECASE)
_LETTER = re.compile(
    r"\W*(?:(?:option|choice|answer|letter)\s+)?\W*(?:\(([A-Z])\)|([A-Z])(?=\W*$|[).,:;\"'”’]|\s+[-–—]))"
)
_CLAUSE_END = re.compile(r"[,;:—–(]|\s-\s|\b(?:because|since|as)\b")
_LEADING_WORDS = """
so therefore thus hence then finally overall consequently accordingly and in conclusion summary step based on this these
that it is we can could confidently safely now conclude say see determine infer information facts the
"""
_LEADING = frozenset(_LEADING_WORDS.split())


def judged(question: Question, drafts: Iterable[Draft], section: TeacherSection, source: str) -> list[Rationale]:
    """Rationales of a question, each draft judged on its own; they are numbered in their order.

    Args:
        question: The question that they explain.
        drafts: The teacher's replies and failures.
        section: The recipe's ``teacher``.
        source: Who wrote them.
    """
    rationales = []
    for number, draft in enumerate(drafts):
        text = said(draft)
        status, reason = _verdict(question, draft, text, section)
        rationale = Rationale(
            f"{question.id}/{number}", question.id, text[:LONGEST_TEXT], status, reason, source, draft.usage
        )
        if section.rewrite == "keep" and to_rewrite(rationale, question):
            text = leading_to_answer(text, question)
        rationales.append(rewritten(rationale, text, question, section))
    return rationales


def to_rewrite(rationale: Rationale, question: Question) -> bool:
    """Whether ``teacher.rewrite`` is meant for it: it is kept, and does not run from fact to answer."""
    return rationale.status == "kept" and kind_of(rationale.text, question) != "constructive"


def rewritten(rationale: Rationale, text: str, question: Question, section: TeacherSection) -> Rationale:
    """The rationale with another text, unless that would be rejected; with its kind, and without a last sentence that only
    states the answer."""
    text = without_thinking(readable(text))
    if rationale.status == "kept" and text != rationale.text and judge(question, text, "", section)[0] == "kept":
        rationale = replace(rationale, text=text, original=rationale.text)
    kind = kind_of(rationale.text, question) if rationale.text.strip() else ""
    return replace(rationale, text=without_conclusion(rationale.text, question), kind=kind)


def without_repetitions(rationales: Iterable[Rationale], section: TeacherSection) -> list[Rationale]:
    """A question's rationales, rejected where a kept one has the same words; constructive ones first where they are rewritten."""
    found: list[Rationale] = []
    kept: dict[str, str] = {}
    first_kind = "constructive" if section.rewrite else ""
    for rationale in sorted(rationales, key=lambda one: one.status != "kept" or one.kind != first_kind):
        if rationale.status == "kept":
            first = kept.setdefault(normalised(rationale.text), rationale.id)
            if first != rationale.id:
                rationale = replace(rationale, status="duplicate", reason=f"the same words as {first}")
        found.append(rationale)
    return found


def said(draft: Draft) -> str:
    """What a draft says: readable, without what the model thought aloud."""
    return without_thinking(readable(draft.text))


def why_ended(draft: Draft, text: str) -> str:
    """Why the model stopped; of a draft that says nothing, as it holds thoughts alone, so much."""
    only_thought = draft.text.strip() and not text.strip() and draft.finish_reason != "length"
    return REASONING_ONLY if only_thought else draft.finish_reason


def unusable(text: str, finish_reason: str, section: TeacherSection) -> Unusable | None:
    """Status and reason of a text that is no whole reply: endless, empty, a refusal, cut off; None where it is one."""
    if len(text) > LONGEST_TEXT:
        return "too_long", f"{len(text):,} characters, more than {LONGEST_TEXT:,}"
    if not text.split():
        return _empty(finish_reason, section)
    if finish_reason in ("content_filter", "refusal"):
        return "refused", f"the endpoint says {finish_reason}"
    if refusal := _REFUSAL.match(text.strip()):
        return "refused", f"begins with “{refusal.group()}”"
    return ("truncated", f"cut off{_at_limit(section)}") if finish_reason == "length" else None


def _verdict(question: Question, draft: Draft, text: str, section: TeacherSection) -> Verdict:
    return ("error", draft.failure) if draft.failure else judge(question, text, why_ended(draft, text), section)


def judge(question: Question, text: str, finish_reason: str, section: TeacherSection) -> Verdict:
    """Status of one text, and the reason in words (empty where it is kept)."""
    if verdict := unusable(text, finish_reason, section):
        return verdict
    length = len(text.split())
    if length < MIN_WORDS:
        return "too_short", f"{length} words, fewer than {MIN_WORDS}"
    if length > section.max_words:
        return "too_long", f"{length} words, teacher.max_words is {section.max_words}"
    if section.reject_leaks and (leak := _LEAK.search(text)):
        return "leak", f"says “{leak.group()}”"
    wrong = _wrong_conclusion(question, text)
    return ("wrong_answer", wrong) if wrong else ("kept", "")


_EMPTY = {
    REASONING_ONLY: "reasoning only, no text: raise teacher.max_tokens, or turn its reasoning off",
    TOOL_CALLS: "calls a tool, no text: ask a model without tools",
}


def _empty(finish_reason: str, section: TeacherSection) -> Unusable:
    if finish_reason == "length":
        return "truncated", f"no text{_at_limit(section)}"
    return "error", _EMPTY.get(finish_reason, "the reply is empty")


def _at_limit(section: TeacherSection) -> str:
    """Where a reply ended; what was recorded had a limit that nobody knows."""
    return "" if section.replies else f" at {section.max_tokens} tokens (teacher.max_tokens)"


def _wrong_conclusion(question: Question, text: str) -> str:
    """What a text concludes, in words, if that is something else than the gold answer; empty otherwise."""
    stated = stated_answer(text, question)
    if stated is None or question.answer is None or _agrees(stated, question.answer):
        return ""
    named = question.choices[stated] if isinstance(stated, int) else stated
    return f"concludes “{named}”, the answer is “{question.answer_text}”"


def stated_answer(text: str, question: Question) -> int | str | None:
    """The answer that a text declares to be the right one.

    Returns:
        An index into the choices, or the stated text for an open question. The last statement of the kind "the answer
        is …" counts; without one, an option that is called correct, if there is only one such option. Otherwise None.
    """
    answers: list[int | str] = []
    called_correct: set[int] = set()
    for sentence in sentences(text):
        if (found := _ANSWER_IS.search(sentence)) and not _SUPPOSED.search(sentence[: found.start()]):
            answer = _named(sentence[found.end() :], question)
            answers += [] if answer is None else [answer]
        elif (option := _OPTION_IS_RIGHT.search(sentence)) and not _HEDGED.search(sentence):
            index = _index(option[1], question)
            called_correct |= set() if index is None else {index}
    if answers:
        return answers[-1]
    return called_correct.pop() if len(called_correct) == 1 else None


def _named(rest: str, question: Question) -> int | str | None:
    """The answer that a statement names: `rest` is what follows "the answer is"."""
    if rest.startswith("not "):
        return None
    if not question.choices:
        return rest.strip() or None
    if letter := _LETTER.match(rest):
        return _index(letter[1] or letter[2], question)
    clause = _CLAUSE_END.split(rest, maxsplit=1)[0]
    answers = (extract(part, question.choices, "answer").answer for part in (clause, rest))
    return next((answer for answer in answers if answer is not None), None)


def _index(letter: str, question: Question) -> int | None:
    index = ascii_uppercase.find(letter.upper())
    return index if index < len(question.choices) else None


def _agrees(stated: int | str, gold: int | str) -> bool:
    if isinstance(stated, str) and isinstance(gold, str):
        return same_answer(stated, gold) or f" {normalised(gold)} " in f" {normalised(stated)} "
    return stated == gold


def without_conclusion(text: str, question: Question) -> str:
    """The text without a last sentence that only states the answer, which `kard.prompt.target` puts there anyway.

    The text stays as it is where the sentence says more than that, or where too few words would be left.
    """
    text = text.strip()
    pieces = sentences(text)
    if not pieces or not _only_states_answer(pieces[-1], question):
        return text
    rest = text[: text.rindex(pieces[-1])].rstrip()
    return rest if len(rest.split()) >= MIN_WORDS else text


def _only_states_answer(sentence: str, question: Question) -> bool:
    if found := _ANSWER_IS.search(sentence):
        stated = normalised(sentence[found.end() :]).removeprefix("option ")
    elif found := _OPTION_IS_RIGHT.search(sentence):
        after = set(normalised(sentence[found.end() :]).split())
        stated = found[1].lower() if after <= {"answer", "option", "choice"} else ""
    else:
        return False
    leading = set(re.sub(r"\d+", "", normalised(sentence[: found.start()])).split())
    return leading <= _LEADING and stated in _forms_of_answer(question)


def _forms_of_answer(question: Question) -> set[str]:
    """The gold answer as a conclusion may name it, in normalised words: text, letter, or both."""
    if question.answer is None:
        return set()
    text = normalised(question.answer_text)
    letter = ascii_uppercase[question.answer].lower() if isinstance(question.answer, int) else text
    return {text, letter, f"{letter} {text}"}
