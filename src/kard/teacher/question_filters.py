"""Which generated questions can be used: what is wrong with one by itself, and what the teacher's own answers show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from string import ascii_uppercase

from kard.data.cutting import word_count
from kard.data.normal import plain, words_of
from kard.prompt import extract, same_answer
from kard.teacher.extractive import content_words
from kard.teacher.generated import Generated, GeneratedStatus

Verdict = tuple[GeneratedStatus, str]

LONGEST_QUESTION, LONGEST_ANSWER = 60, 20  # words
# A question that has so many words in a row, or this share of its own, from the passage asks by quoting it.
COPIED_WORDS, COPIED_SHARE, _SHORTEST_COPY = 12, 0.75, 6
# A right choice that is so much longer than each wrong one is found without reading.
_TIMES_LONGER, _MORE_WORDS = 1.6, 3
SIMILAR = (
    0.8  # share of common stretches of nine characters from which questions, with their answers, are near duplicates
)
_AGREE = 0.6  # share of common words from which two open answers are the same

_TEXT = r"(?:passages?|texts?|excerpts?|paragraphs?|snippets?|extracts?|contexts?)"
_WORK = r"(?:articles?|documents?|authors?|sections?|chapters?|tables?|figures?|information|descriptions?|statements?|examples?)"
_SPEAKS_OF_TEXT = re.compile(
    rf"\b(?:the|this|these|that|above|given|following|provided)\s+(?:(?:above|given|following|provided|first|second|last)\s+)?"
    rf"(?:{_TEXT}\b(?!\s+(?:of|from|by)\b)|{_WORK}(?=\W*$|\s+(?:above|below|says?|states?|mentions?|describes?|provided|given)\b))"
    r"|\b(?:according to|based on|(?:stated|mentioned|described|given|said|shown) in|in)\s+(?:the|this)\s+"
    rf"(?:{_TEXT}|article|document|section|chapter)\b(?!\s+(?:of|from|by|about|on)\b)"
    r"|\b(?:mentioned|described|listed|stated|shown) (?:above|below|here)\b|\b(?:all|none|both) of the (?:above|following)\b"
    r"|\b(?:im|laut|nach|in) (?:dem |diesem |obigen )*(?:text|abschnitt|artikel|dokument)\b"
    r"|\b(?:dans|selon|d'après) (?:le|ce) (?:texte|passage|document)\b|\b(?:en|según) (?:el|este) (?:texto|pasaje|documento)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"\b(?:he|she|it|they|him|his|her|hers|its|them|their|theirs)\b", re.IGNORECASE)
_DEMONSTRATIVE = re.compile(
    r"(?<!of )\b(?:this|these|those|such)\s+(?!(?:is|are|was|were|as|that|who|which|with|in|of|to|from|for|whose|by)\b)[a-z]",
    re.IGNORECASE,
)
# "Is it true that", "when does it rain", "how long does it take to": the word stands for nothing.
_EMPTY_IT = re.compile(
    r"\b(?:is|was|does|did|will|would|can|could|has|should|makes?|made) it (?:not )?"
    r"(?:\w+ )?(?:true|possible|important|necessary|likely|common|safe|best|take|cost|mean|rain|snow|called|required|allowed"
    r"|\w+(?: for [\w ]+)? to\b|that\b)|\bit (?:takes|took|means|rains|is (?:\w+ )?(?:to|that))\b",
    re.IGNORECASE,
)
_EMPTY_WORDS = """
a an the what who whom whose which when where why how do does did is are was were be been being has have had can could will
would should may might must many much long often far old and or but if in on at of to for from with by as about after before
during into than then that there this these those not no yes happen happened happens cause caused causes go went come came
become became make made name names called main one first last some any all each type kind year month day date time age place
city country part role purpose reason effect result number percentage
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_NOT_TOLD = re.compile(
    r"\bnot (?:told|known|stated|mentioned|given|specified|answered|certain|sure)\b|\bunknown\b|\bno answer\b|\bunanswerable\b"
    r"|\b(?:do|does|can|could)(?: not|n['’]?t) (?:know|tell|say|be answered)\b",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"\W*[A-Z]\b(?:\W+(?:and\W+)?[A-Z]\b)+\W*$")


def judged_alone(one: Generated, texts: Sequence[str]) -> Verdict | None:
    """What is wrong with a question and its choices, the passages' `texts` beside them; None where nothing is."""
    checks = (_too_long(one), _not_self_contained(one), _copied(one, texts), _two_right(one), _gives_itself_away(one))
    return next((found for found in checks if found is not None), None)


def _too_long(one: Generated) -> Verdict | None:
    for what, text, most in (("question", one.question, LONGEST_QUESTION), ("answer", one.right, LONGEST_ANSWER)):
        if (words := word_count(text)) > most:
            return "too_long", f"the {what} has {words} words, more than {most}"
    longest = max(map(word_count, one.wrong), default=0)
    return (
        ("too_long", f"a choice has {longest} words, more than {LONGEST_ANSWER}") if longest > LONGEST_ANSWER else None
    )


def _not_self_contained(one: Generated) -> Verdict | None:
    for text in (one.question, *one.choices, one.right):
        if found := _SPEAKS_OF_TEXT.search(text):
            return "not_self_contained", f"says “{found[0]}”"
    without = _EMPTY_IT.sub(lambda found: " " * len(found[0]), one.question)
    for found in (_PRONOUN.search(without), _DEMONSTRATIVE.search(without)):
        if found and not set(words_of(one.question[: found.start()])) - _EMPTY:
            return "not_self_contained", f"nothing is named before “{found[0]}”"
    return None


def _copied(one: Generated, texts: Sequence[str]) -> Verdict | None:
    asked = words_of(one.question)
    for text in texts:
        read = words_of(text)
        run = SequenceMatcher(None, asked, read, autojunk=False).find_longest_match()
        enough = run.size >= COPIED_WORDS or run.size >= COPIED_SHARE * len(asked)
        if enough and run.size >= _SHORTEST_COPY:
            return "copied_sentence", f"“{' '.join(asked[run.a : run.a + run.size])}” stands in the passage"
    return None


def _two_right(one: Generated) -> Verdict | None:
    if one.kind not in ("multiple_choice", "comparison"):
        return None
    for choice in one.wrong:
        same = content_words(choice) == content_words(one.right) and bool(content_words(choice))
        if same or _holds(one.right, choice) or _holds(choice, one.right):
            return "two_right", f"“{choice}” and “{one.right}” say the same, or one holds the other"
    return None


def _gives_itself_away(one: Generated) -> Verdict | None:
    asked, right = content_words(one.question), content_words(one.right)
    if one.kind == "short":
        known = right and right <= asked and " or " not in one.question
        return ("gives_itself_away", f"the question holds its answer “{one.right}”") if known else None
    if one.kind != "multiple_choice":
        return None
    length, longest = word_count(one.right), max(map(word_count, one.wrong), default=0)
    if length >= _TIMES_LONGER * longest and length >= longest + _MORE_WORDS:
        return "gives_itself_away", f"the right choice has {length} words, no wrong one more than {longest}"
    shared = asked & right
    if shared and not any(asked & content_words(choice) for choice in one.wrong):
        return (
            "gives_itself_away",
            f"only the right choice shares words with the question ({', '.join(sorted(shared))})",
        )
    return None


def judged_by_answer(one: Generated, reply: str) -> Verdict | None:
    """What the teacher's answer from the passages shows: another answer, or two; None where it is the question's."""
    said = reply.strip().removeprefix("Answer:").strip()
    shown = " ".join(said.split())[:80]
    if one.kind == "unanswerable":
        return None if _NOT_TOLD.search(said) else ("round_trip", f"its passages answer it: “{shown}”")
    if one.choices and len(_letters_in(said, one)) > 1:
        return "two_right", f"from its passage the teacher answers “{shown}”"
    if agrees(one, said):
        return None
    return "round_trip", f"from its passage the teacher answers “{shown}”, the answer is “{one.right}”"


def judged_by_memory(one: Generated, reply: str) -> Verdict | None:
    """Whether the teacher gives the same answer without any passage."""
    said = reply.strip().removeprefix("Answer:").strip()
    known = not _NOT_TOLD.search(said) and agrees(one, said)
    return ("known_by_heart", "the teacher gives the same answer without its passage") if known else None


def agrees(one: Generated, said: str) -> bool:
    """Whether a reply gives the question's answer."""
    line = next((line.strip() for line in said.splitlines() if line.strip()), "")
    if one.choices:
        return extract(line, one.choices, "answer", "both").answer == one.answer
    if same_answer(line, one.right) or _holds(line, one.right):
        return True
    if _numbers(line) != _numbers(one.right):
        return False
    given, right = content_words(line), content_words(one.right)
    return _holds(one.right, line) or (bool(given) and 2 * len(given & right) >= _AGREE * (len(given) + len(right)))


def _holds(text: str, part: str) -> bool:
    return bool(plain(part)) and f" {plain(part)} " in f" {plain(text)} "


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _letters_in(said: str, one: Generated) -> set[str]:
    """Letters of choices that the first line of a reply names."""
    line = said.splitlines()[0] if said else ""
    named = re.findall(r"\b[A-Z]\b" if _LETTERS.match(line) else r"\(([A-Z])\)", line)
    return set(named) & set(ascii_uppercase[: len(one.choices)])


def near_duplicates(generated: Sequence[Generated], examples: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Places of questions that are similar to an earlier one, or to a worked example of the prompts, with what that asks."""
    from kard.data.duplicates import similar_earlier

    texts = [*examples, *(f"{one.question} {one.right}" for one in generated)]
    for place, earlier in enumerate(similar_earlier(list(map(plain, texts)), SIMILAR)):
        if place >= len(examples) and earlier is not None:
            yield place - len(examples), texts[earlier]
