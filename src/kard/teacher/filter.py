"""Which replies become rationales: each is kept or rejected with a status and a reason in words, none is dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from string import ascii_uppercase
from typing import Any

from kard.data.cutting import sentences
from kard.data.question import Question
from kard.prompt import extract, same_answer
from kard.recipe import TeacherSection
from kard.teacher.kinds import kind_of, leading_to_answer
from kard.teacher.rationale import Rationale, Status
from kard.teacher.replies import REASONING_ONLY, TOOL_CALLS, readable

Verdict = tuple[Status, str]

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


# How models mark what they think aloud, and what may stand in place of the marks of OpenAI's open models ("harmony").
_THINKING = r"(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|seed:think)"
# The first characters stand in front, so that a long text without any of them takes no time.
_OPENED = re.compile(rf"[<\[◁](?i:{_THINKING}>|think\]|think▷|\|begin_of_thought\|>)")
_CLOSED = re.compile(rf"[<\[◁](?i:/{_THINKING}>|/think\]|/think▷|\|end_of_thought\|>)")
_CHANNEL = re.compile(r"<\|channel\|>|^analysis(?=.*?assistant(?:final|commentary|analysis))", re.DOTALL)
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]{0,99}(?:<\|constrain\|>[^<]{0,99})?<\|message\|>|assistantfinal")
_MESSAGE_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
# A text of this length is no rationale, whatever teacher.max_words says, and takes the rules below seconds.
LONGEST_TEXT = 50_000


@dataclass(frozen=True)
class Draft:
    """What a teacher gave for one question, before it is judged.

    Attributes:
        text: The reply, empty where there is none.
        finish_reason: Why the model stopped, as the endpoint said it; empty where no one said.
        failure: Why there is no reply; empty where there is one.
        usage: Tokens and seconds, as far as they are known.
    """

    text: str
    finish_reason: str = ""
    failure: str = ""
    usage: dict[str, Any] = field(default_factory=dict)


def sift(question: Question, drafts: Iterable[Draft], section: TeacherSection, source: str) -> list[Rationale]:
    """Judge each draft of a question on its own; they are numbered in their order.

    Args:
        question: The question that they explain.
        drafts: The teacher's replies and failures.
        section: The recipe's ``teacher``.
        source: Who wrote them.
    """
    rationales = []
    for number, whole in enumerate(drafts):
        text = _said(whole.text, section)
        status, reason = _verdict(question, replace(whole, text=text), section, thought=text != whole.text)
        rationale = Rationale(
            f"{question.id}/{number}", question.id, text[:LONGEST_TEXT], status, reason, source, whole.usage
        )
        if section.rewrite == "keep" and to_rewrite(rationale, question):
            rationale = _with_text(rationale, leading_to_answer(text, question), question, section)
        rationales.append(_finished(rationale, question, section))
    return rationales


def to_rewrite(rationale: Rationale, question: Question) -> bool:
    """Whether ``teacher.rewrite`` is meant for it: it is kept, and does not run from fact to answer."""
    return rationale.status == "kept" and kind_of(rationale.text, question) != "constructive"


def rewritten(rationale: Rationale, text: str, question: Question, section: TeacherSection) -> Rationale:
    """The rationale with the text that the teacher gave when it was asked to rewrite it."""
    return _finished(_with_text(rationale, _said(text, section), question, section), question, section)


def _with_text(rationale: Rationale, text: str, question: Question, section: TeacherSection) -> Rationale:
    """With another text, unless that would be rejected."""
    if text == rationale.text or judge(question, text, "", section)[0] != "kept":
        return rationale
    return replace(rationale, text=text, original=rationale.text)


def _finished(rationale: Rationale, question: Question, section: TeacherSection) -> Rationale:
    """With its kind, and without a last sentence that only states the answer."""
    kind = kind_of(rationale.text, question) if rationale.text.strip() else ""
    return replace(rationale, text=without_conclusion(rationale.text, question, section.min_words), kind=kind)


def of_wanted_kind(rationale: Rationale, section: TeacherSection) -> Rationale:
    """The rationale, rejected if it is of a kind that ``teacher.kinds`` does not name."""
    if rationale.status != "kept" or not section.kinds or rationale.kind in section.kinds:
        return rationale
    return replace(
        rationale, status="wrong_kind", reason=f"{rationale.kind}; teacher.kinds is {', '.join(section.kinds)}"
    )


def settle(rationales: Sequence[Rationale], section: TeacherSection) -> list[Rationale]:
    """Reject repetitions among a question's rationales, and put those of the preferred kind first."""
    rationales = sorted(rationales, key=lambda one: one.status != "kept" or one.kind != section.prefer_kind)
    settled: list[Rationale] = []
    kept: dict[str, str] = {}
    for rationale in rationales:
        words = _words(rationale.text)
        verdict = _repetition(words, kept, section.near_duplicate) if rationale.status == "kept" else None
        if verdict:
            rationale = replace(rationale, status=verdict[0], reason=verdict[1])
        elif rationale.status == "kept":
            kept[words] = rationale.id
        settled.append(rationale)
    return settled


def _repetition(words: str, kept: dict[str, str], threshold: float | None) -> Verdict | None:
    if words in kept:
        return "duplicate", f"the same words as {kept[words]}"
    if threshold is None:
        return None
    for other, identity in kept.items():
        matcher = SequenceMatcher(None, words.split(), other.split(), autojunk=False)
        if matcher.quick_ratio() >= threshold and (ratio := matcher.ratio()) >= threshold:
            return "near_duplicate", f"{ratio:.0%} the words of {identity}, teacher.near_duplicate is {threshold:g}"
    return None


def _said(text: str, section: TeacherSection) -> str:
    """The text as it is judged: readable, and without what was thought aloud."""
    text = readable(text)
    return _without_thinking(text) if section.thinking == "cut" else text


def _without_thinking(text: str) -> str:
    """The text without what a reasoning model thought aloud; some templates open that part before the reply begins."""
    if _CHANNEL.search(text):
        final = _FINAL.split(text)[1:]
        return _MESSAGE_END.split(final[-1], maxsplit=1)[0].strip() if final else ""
    answer = _CLOSED.split(text)[-1]
    before, *unfinished = _OPENED.split(answer, maxsplit=1)
    return before.strip() if unfinished else answer


def _verdict(question: Question, draft: Draft, section: TeacherSection, thought: bool) -> Verdict:
    if draft.failure:
        return "error", draft.failure
    if thought and not draft.text.strip() and draft.finish_reason != "length":
        return judge(question, "", REASONING_ONLY, section)
    return judge(question, draft.text, draft.finish_reason, section)


def judge(question: Question, text: str, finish_reason: str, section: TeacherSection) -> Verdict:
    """Status of one text, and the reason in words (empty where it is kept)."""
    if len(text) > LONGEST_TEXT:
        return "too_long", f"{len(text):,} characters, more than {LONGEST_TEXT:,}"
    length = len(text.split())
    if not length:
        return _empty(finish_reason, section)
    if finish_reason in ("content_filter", "refusal"):
        return "refused", f"the endpoint says {finish_reason}"
    if refusal := _REFUSAL.match(text.strip()):
        return "refused", f"begins with “{refusal.group()}”"
    if finish_reason == "length":
        return "truncated", f"cut off{_at_limit(section)}"
    if length < section.min_words:
        return "too_short", f"{length} words, teacher.min_words is {section.min_words}"
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


def _empty(finish_reason: str, section: TeacherSection) -> Verdict:
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
        return same_answer(stated, gold) or f" {_words(gold)} " in f" {_words(stated)} "
    return stated == gold


def without_conclusion(text: str, question: Question, min_words: int) -> str:
    """The text without a last sentence that only states the answer, which `kard.prompt.target` puts there anyway.

    The text stays as it is where the sentence says more than that, or where fewer than `min_words` words would be left.
    """
    text = text.strip()
    pieces = sentences(text)
    if not pieces or not _only_states_answer(pieces[-1], question):
        return text
    rest = text[: text.rindex(pieces[-1])].rstrip()
    return rest if len(rest.split()) >= max(1, min_words) else text


def _only_states_answer(sentence: str, question: Question) -> bool:
    if found := _ANSWER_IS.search(sentence):
        stated = _words(sentence[found.end() :]).removeprefix("option ")
    elif found := _OPTION_IS_RIGHT.search(sentence):
        after = set(_words(sentence[found.end() :]).split())
        stated = found[1].lower() if after <= {"answer", "option", "choice"} else ""
    else:
        return False
    leading = set(re.sub(r"\d+", "", _words(sentence[: found.start()])).split())
    return leading <= _LEADING and stated in _forms_of_answer(question)


def _forms_of_answer(question: Question) -> set[str]:
    """The gold answer as a conclusion may name it, in normalised words: text, letter, or both."""
    if question.answer is None:
        return set()
    text = _words(question.answer_text)
    letter = ascii_uppercase[question.answer].lower() if isinstance(question.answer, int) else text
    return {text, letter, f"{letter} {text}"}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
