"""A teacher without a language model: the sentences of the gold passages that support the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import Stemmer

from kard.data.cutting import sentences
from kard.data.passage import Passage
from kard.data.question import Question
from kard.teacher.rationale import Draft

# Words that say nothing about what a sentence is about; shorter words than three letters are left out as well.
_EMPTY_WORDS = """
the and for are was were has have had its his her their this that these those which what who whom whose when where
how why with from into than then not but can could will would may might does did been being one ones described following
most likely example called known
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_stem = Stemmer.Stemmer("english").stemWord


def extract_rationale(question: Question, passages: Sequence[Passage], count: int) -> Draft:
    """The `count` sentences that share most words with the question and the answer, in their original order.

    Args:
        question: The question; a sentence that names its answer is preferred.
        passages: Its gold passages.
        count: How many sentences are taken; where the question has a conclusion, of each gold document.

    Returns:
        One draft. Sentences of a passage that name neither its title nor the answer get the title in front, so that the
        rationale makes sense on its own. The question's conclusion ends it.
    """
    if question.conclusion:
        return _concluded(question, passages, count)
    candidates = [(passage, sentence) for passage in passages for sentence in sentences(passage.text)]
    if not candidates:
        return Draft("", failure=_WITHOUT_PASSAGES.format(question.id))
    answer = "" if question.answer is None else question.answer_text
    scores = [_support(sentence, passage, question.question, answer) for passage, sentence in candidates]
    best = sorted(range(len(candidates)), key=lambda place: (-scores[place], place))[:count]
    chosen = [candidates[place] for place in sorted(best)]
    return Draft(" ".join(_paragraph(passage, chosen, answer) for passage in _in_order(chosen)))


def _concluded(question: Question, passages: Sequence[Passage], count: int) -> Draft:
    """A step for each gold document, which are all needed, and what follows from them."""
    documents: dict[str, list[Passage]] = {}
    for passage in passages:
        documents.setdefault(passage.document, []).append(passage)
    if missing := set(question.gold_passages) - documents.keys() - {passage.id for passage in passages}:
        return Draft("", failure=_WITHOUT_ALL.format(question.id, ", ".join(sorted(missing))))
    steps = []
    for pieces in documents.values():
        candidates = [(passage, sentence) for passage in pieces for sentence in sentences(passage.text)]
        scores = [_step_support(sentence, passage, question) for passage, sentence in candidates]
        best = sorted(range(len(candidates)), key=lambda place: (-scores[place], place))[:count]
        chosen = [candidates[place] for place in sorted(best)]
        steps += [_paragraph(passage, chosen, "") for passage in _in_order(chosen)]
    return Draft(" ".join([*steps, question.conclusion]))


def _step_support(sentence: str, passage: Passage, question: Question) -> float:
    """Shared words with the conclusion, but for the title's, which any sentence may name; a number counts as three words."""
    shared = _content_words(sentence) & _content_words(question.conclusion) - _content_words(passage.title)
    numbers = set(re.findall(r"\d+", sentence)) & set(re.findall(r"\d+", question.conclusion))
    return len(shared) + 3 * len(numbers)


_WITHOUT_ALL = "question {} has gold passages that are not in the knowledge base: {}. Add them, or drop the conclusion"
_WITHOUT_PASSAGES = (
    "question {} has no gold passage in the knowledge base: add gold_passages to it, or use another teacher.kind"
)


def _support(sentence: str, passage: Passage, question: str, answer: str) -> float:
    """Shared words with the question and the answer; naming the whole answer counts as much as two more."""
    words = _content_words(sentence)
    shared = len(words & (_content_words(question) | _content_words(answer)))
    return shared + 2 * _names(sentence, answer)


def _paragraph(passage: Passage, chosen: Sequence[tuple[Passage, str]], answer: str) -> str:
    text = " ".join(sentence for owner, sentence in chosen if owner is passage)
    title = re.sub(r"\s*\(.*?\)$", "", passage.title)
    stands_alone = not title or _names(text, title) or _names(text, answer)
    return text if stands_alone else f"{passage.title}: {text}"


def _in_order(chosen: Sequence[tuple[Passage, str]]) -> list[Passage]:
    return list({passage.id: passage for passage, _ in chosen}.values())


def _names(text: str, name: str) -> bool:
    """Whether a text holds all words of a name, in any order and inflection."""
    wanted = _stems(name)
    return bool(wanted) and wanted <= _stems(text)


def _content_words(text: str) -> set[str]:
    words = re.findall(r"\w+", text.casefold())
    return {_stem(word) for word in words if len(word) > 2 and word not in _EMPTY}


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in re.findall(r"\w+", text.casefold())}
