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
COPIED_WORDS, COPIED_SHARE, _SHORTEST_COPY = 10, 0.75, 6
# A right choice that is so much longer than each wrong one is found without reading.
_TIMES_LONGER, _MORE_WORDS = 1.6, 3
_FEW_WORDS = 2
# Shares of common words, or stretches of letters, from which questions with the same answer are near duplicates; and any are.
SIMILAR, NEARLY_SAME = 0.6, 0.9
_AGREE = 0.6  # share of common words from which two open answers are the same

_TEXT = r"(?:passages?|texts?|excerpts?|paragraphs?|snippets?|extracts?|contexts?)"
_WORK = r"(?:articles?|documents?|authors?|sections?|chapters?|tables?|figures?|information|descriptions?|statements?|examples?)"
_SPEAKS_OF_TEXT = re.compile(
    rf"\b(?:the|this|these|that|above|given|following|provided)\s+(?:(?:above|given|following|provided|first|second|last)\s+)?"
    rf"(?:{_TEXT}\b(?!\s+(?:of|from|by)\b)|{_WORK}(?=\W*$|\s+(?:above|below|says?|states?|mentions?|describes?|provided|given)\b))"
    r"|\b(?:according to|based on|(?:stated|mentioned|described|given|said|shown) in|in)\s+(?:the|this)\s+"
    rf"(?:{_TEXT}|article|document|section|chapter)\b(?!\s+(?:of|from|by|about|on)\b)"
    r"|\b(?:mentioned|described|listed|stated|shown) (?:above|below|here)\b|\b(?:all|none|both) of the (?:above|following)\b"
    r"|\bwhich (?:one )?of the following (?:statements? )?(?:is|are) (?:not )?(?:true|false|correct|right|wrong)\b"
    r"|\b(?:im|laut|nach|in) (?:dem |diesem |obigen )*(?:text|abschnitt|artikel|dokument)\b"
    r"|\b(?:dans|selon|d'après) (?:le|ce) (?:texte|passage|document)\b|\b(?:en|según) (?:el|este) (?:texto|pasaje|documento)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"\b(?:he|she|it|they|him|his|her|hers|its|them|their|theirs)\b", re.IGNORECASE)
_DEMONSTRATIVE = re.compile(
    r"(?<!of )\b(?:this|these|those|such)\s+(?!(?:is|are|was|were|as|that|who|which|with|in|of|to|from|for|whose|by)\b)[a-z]",
    re.IGNORECASE,
)
_ASKED_FOR = re.compile(r"^\W*(?:what|who|which)\s+\w+", re.IGNORECASE)  # a verb, or what only the answer will name
_NAMELESS = re.compile(r"^\W*[Ww]hat(?:'s| is| was) the (?:name|title) of the [a-z]+\W*$")
_NAME = re.compile(r"(?<=\W)(?:[^\W\d_a-z]\w*|\d+)")
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
# Thai, Japanese, Chinese: words cannot be told apart.
_WITHOUT_SPACES = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
_THOUSANDS = re.compile(r"(?<=\d)[, \u202f](?=\d{3}(?!\d))")
_NUMERAL_OR_LETTER = re.compile(
    r"\b(?:[IVXLC]{2,}|[B-HJ-Z])\b"
)  # the Second World War is not the First, vitamin C not D
_ALL_IN_BRACKETS = re.compile(r"^\(([^()]*)\)$")
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)")
_ARTICLE = re.compile(r"^(?:the|an?) (?=\S)")
_LETTERS = re.compile(r"\W*[A-Z]\b(?:\W+(?:and\W+)?[A-Z]\b)+\W*$")


def faults(one: Generated, texts: Sequence[str]) -> list[Verdict]:
    """All that is wrong with a question and its choices, the passages' `texts` beside them; the first one is its status."""
    alone = (_too_long(one), _not_self_contained(one), _copied(one, texts), _two_right(one))
    checks = (*alone, _unsupported(one, texts), _gives_itself_away(one))
    return [found for found in checks if found is not None]


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
    if _NAMELESS.match(one.question):
        return "not_self_contained", "does not say which one it asks about"
    without = _EMPTY_IT.sub(lambda found: " " * len(found[0]), one.question)
    pronoun, pointing = _PRONOUN.search(without), _DEMONSTRATIVE.search(without)
    if pronoun and not set(words_of(_ASKED_FOR.sub("", one.question[: pronoun.start()]))) - _EMPTY:
        return "not_self_contained", f"nothing is named before “{pronoun[0]}”"
    if pointing and not _NAME.search(one.question, 1, pointing.start()):
        return "not_self_contained", f"no name stands before “{pointing[0]}”"
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
        same = _content(choice) == _content(one.right) and bool(_content(choice))
        if same or _holds(one.right, choice) or _holds(choice, one.right):
            return "two_right", f"“{choice}” and “{one.right}” say the same, or one holds the other"
    return None


def _unsupported(one: Generated, texts: Sequence[str]) -> Verdict | None:
    """An answer from memory: no word that says what it is about stands in the passages, or a number of it does not."""
    if one.kind not in ("multiple_choice", "short") or _WITHOUT_SPACES.search(one.right):
        return None
    read = _content(" ".join(texts))
    # A passage may say "two" where the answer says 2.
    lacking = [number for number in _numbers(one.right) if len(number) > 2 and number not in read]
    words = content_words(one.right)
    if lacking or (words and not words & read):
        return "unsupported", f"“{lacking[0] if lacking else one.right}” does not stand in its passages"
    return None


def _gives_itself_away(one: Generated) -> Verdict | None:
    asked, right = _content(one.question), _content(one.right)
    if one.kind == "short":
        known = right and right <= asked and " or " not in one.question
        # "Who is Ada Lovelace?" "Ada King Lovelace"
        says_again = asked and asked < right and len(right) <= len(asked) + _FEW_WORDS
        if known or says_again:
            return (
                "gives_itself_away",
                f"the question holds its answer “{one.right}”, or all but {_FEW_WORDS} words of it",
            )
        return None
    if one.kind != "multiple_choice":
        return None
    length, longest = word_count(one.right), max(map(word_count, one.wrong), default=0)
    if length >= _TIMES_LONGER * longest and length >= longest + _MORE_WORDS:
        return "gives_itself_away", f"the right choice has {length} words, no wrong one more than {longest}"
    others = [asked & _content(choice) for choice in one.wrong]
    own = (asked & right).difference(*others)
    if own and all(other <= right for other in others):
        words = ", ".join(sorted(own))
        return "gives_itself_away", f"only the right choice shares words with the question ({words})"
    if right and right <= asked and not any(_content(choice) <= asked for choice in one.wrong):
        return "gives_itself_away", f"the question holds its answer “{one.right}”"
    return None


def _content(text: str) -> set[str]:
    return content_words(text) | set(_numbers(text)) | set(_NUMERAL_OR_LETTER.findall(text))


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
    line = _ALL_IN_BRACKETS.sub(r"\1", line)
    if same_answer(line, one.right) or _holds(line, one.right):
        return True
    short, stated = (_THOUSANDS.sub("", _IN_BRACKETS.sub("", text)) for text in (line, one.right))  # 1,300 km (810 mi)
    if _numbers(short) != _numbers(stated):
        return False
    if _holds(one.right, line) or _holds(stated, short):
        return True
    given, right, asked = (_content(text) for text in (short, stated, one.question))
    if given - asked and right - asked:  # what both repeat of the question is no answer
        given, right = given - asked, right - asked
    return bool(given) and 2 * len(given & right) >= _AGREE * (len(given) + len(right))


def _holds(text: str, part: str) -> bool:
    """Whether a text has all words of another one in a row, an article in front aside."""
    words = _ARTICLE.sub("", plain(part))
    return bool(words) and f" {words} " in f" {plain(text)} "


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", _THOUSANDS.sub("", text))


def _letters_in(said: str, one: Generated) -> set[str]:
    """Letters of choices that the first line of a reply names."""
    line = said.splitlines()[0] if said else ""
    named = re.findall(r"\b[A-Z]\b" if _LETTERS.match(line) else r"\(([A-Z])\)", line)
    return set(named) & set(ascii_uppercase[: len(one.choices)])


def near_duplicates(generated: Sequence[Generated], examples: Sequence[Generated]) -> Iterator[tuple[int, str]]:
    """Places of questions that are similar to an earlier one, or to a worked example of the prompts, with what that asks."""
    from kard.data.duplicates import similar_earlier, stretches

    every = [*examples, *generated]
    by_letters = similar_earlier([stretches(plain(one.question)) for one in every], SIMILAR)
    by_words = similar_earlier([_content(one.question) or {one.question} for one in every], SIMILAR)
    for place, own in enumerate(generated, start=len(examples)):
        letters = by_letters[place]
        near = sorted({**letters, **by_words[place]})
        same = (other for other in near if letters.get(other, 0) >= NEARLY_SAME or _agree(own, every[other]))
        if (first := next(same, None)) is not None:
            yield place - len(examples), every[first].question


def _agree(one: Generated, other: Generated) -> bool:
    """Whether two questions have the same answer; yes and no say nothing."""
    return one.kind != "yes_no" and (_holds(one.right, other.right) or _holds(other.right, one.right))
