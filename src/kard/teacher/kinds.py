"""How a rationale reasons: from facts to the answer, by crossing out the other choices, or in another way."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Literal

from kard.data.cutting import sentences
from kard.data.normal import normalised
from kard.data.question import Question

RationaleKind = Literal["constructive", "eliminating", "other"]

_OTHERS = re.compile(
    r"\b(?:the |all |any |none of the )?(?:other|remaining|rest of the|incorrect|wrong) (?:\w+ )?(?:options?|choices?|answers?)\b"
    r"|\b(?:process of elimination|none of the others|(?:the )?others (?:are|do|is|can))\b",
    re.IGNORECASE,
)
_REJECTS = re.compile(
    r"\b(?:not|no|never|neither|nor|none|cannot|\w+n['’]t|without|incorrect|wrong|unlikely|unrelated|irrelevant|implausible"
    r"|impossible|eliminated?|rule[sd]? out|ruling out|incorrectly|rather than|instead|opposite|does little|fails?)\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"(?:this|the) (?:\w+ )?question (?:requires|asks|tests|is (?:asking|about)|involves|relates)\b"
    r"|(?:to answer|in order to answer)\b.*\b(?:we|you|one)\b",
    re.IGNORECASE,
)
_STATES_ANSWER = re.compile(
    r"(?:(?:so|therefore|thus|hence)\W+)?(?:the (?:\w+ )?(?:answer|option|choice)\b|answer\s*:"
    r"|(?:option |choice |answer )?\([A-Z]\)|(?:option|choice|answer) [A-Z]\b)",
    re.IGNORECASE,
)
# A rationale is eliminating when this share of its sentences, but for the preamble, rejects other choices.
_ELIMINATING_SHARE = 1 / 3


def kind_of(text: str, question: Question) -> RationaleKind:
    """The kind of a rationale.

    ``eliminating``: a third of its sentences or more reject other choices. ``constructive``: it does not, it does not begin by
    stating the answer, and its last sentence names the answer (of a yes/no question: there is something before it).
    ``other``: all that is left.
    """
    pieces = _without_preamble(text)
    rejecting = sum(_rejects_choice(piece, question) for piece in pieces)
    if rejecting and rejecting >= _ELIMINATING_SHARE * len(pieces):
        return "eliminating"
    if not pieces or (_STATES_ANSWER.match(pieces[0]) and not _is_answer(pieces[0], question)):
        return "other"
    return "constructive" if _names_answer(pieces[-1], question) else "other"


def leading_to_answer(text: str, question: Question) -> str:
    """The sentences of a rationale that lead to the answer, in their order.

    Left out are sentences that reject other choices, remarks on what the question asks for, and a statement of the answer
    that stands in front of the facts and adds nothing to them.
    """
    kept = [piece for piece in _without_preamble(text) if not _rejects_choice(piece, question)]
    if kept and _STATES_ANSWER.match(kept[0]) and not _is_answer(kept[0], question):
        kept[0] = _fact_behind(kept[0], question)
    # What comes after the last sentence that names the answer no longer leads to it.
    last = max((place for place, piece in enumerate(kept) if _names_answer(piece, question)), default=len(kept) - 1)
    return " ".join(piece for piece in kept[: last + 1] if piece)


def _fact_behind(statement: str, question: Question) -> str:
    """What follows "because" in "Option (C) is correct because it is cold", with the answer for "it"; else nothing."""
    reason = re.split(r"\b(?:because|since|as)\s+", statement, maxsplit=1)[1:]
    fact = re.sub(r"^(?:it|they|this)\b", lambda _: question.answer_text, reason[0]) if reason else ""
    return f"{fact[:1].upper()}{fact[1:]}"


def _without_preamble(text: str) -> list[str]:
    return [piece for piece in sentences(text) if not _PREAMBLE.match(piece)]


def _rejects_choice(sentence: str, question: Question) -> bool:
    """Whether a sentence is there to reject another choice, or several."""
    if question.is_yes_no or not isinstance(question.answer, int):
        return False
    if _OTHERS.search(sentence):
        return True
    right, wrong = _letters(question, True), _letters(question, False)
    names_right = bool(re.search(rf"\([{right}]\)", sentence))
    if re.match(rf"\W*(?:options?|choices?|answers?)?\s*\(?[{wrong}]\)", sentence, re.IGNORECASE):
        return not names_right
    if names_right or not _REJECTS.search(sentence) or _holds(sentence, question.answer_text):
        return False
    others = (choice for index, choice in enumerate(question.choices) if index != question.answer)
    return bool(re.search(rf"\([{wrong}]\)", sentence)) or any(_holds(sentence, choice) for choice in others)


def _letters(question: Question, right: bool) -> str:
    """The letter of the right choice, or those of the others; never empty, so that it can stand in a character class."""
    letters = ascii_uppercase[: len(question.choices)]
    return "".join(one for place, one in enumerate(letters) if (place == question.answer) == right) or "-"


def _names_answer(sentence: str, question: Question) -> bool:
    if question.answer is None:
        return False
    letter = _letters(question, True)
    by_letter = re.search(rf"\([{letter}]\)|\b(?:option|choice|answer)(?: is)? [{letter}]\b", sentence)
    return question.is_yes_no or _holds(sentence, question.answer_text) or bool(by_letter)


def _is_answer(sentence: str, question: Question) -> bool:
    """Whether a sentence begins with the answer's own words, as any statement about it may."""
    return question.answer is not None and _plain(sentence).startswith(_plain(question.answer_text))


def _holds(sentence: str, words: str) -> bool:
    """Whether a sentence holds the words, in their order, inflected at most at their ends."""
    stems = [re.escape(word[: max(3, len(word) - 2)]) for word in _plain(words).split()]
    return bool(stems) and bool(re.search(r"\b" + r"\w*\W+(?:\w+\W+)?".join(stems), _plain(sentence)))


def _plain(text: str) -> str:
    return re.sub(r"^(?:the|an?) (?=\S)", "", normalised(text))
