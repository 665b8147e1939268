"""A teacher without a language model: the sentences of the gold passages that support the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import Stemmer

from kard.data.cutting import sentences
from kard.data.normal import words_of
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
    answer = "" if question.answer is None else question.answer_text
    if not question.conclusion:
        text = _best(passages, count, answer, lambda sentence, _: _support(sentence, question.question, answer))
        return Draft(text, failure="" if text else _WITHOUT_PASSAGES.format(question.id))
    # A step for each gold document, which are all needed, and what follows from them.
    documents: dict[str, list[Passage]] = {}
    for passage in passages:
        documents.setdefault(passage.document, []).append(passage)
    if missing := set(question.gold_passages) - documents.keys() - {passage.id for passage in passages}:
        return Draft("", failure=_WITHOUT_ALL.format(question.id, ", ".join(sorted(missing))))
    conclusion = question.conclusion
    steps = [
        _best(some, count, "", lambda sentence, passage: _step_support(sentence, passage.title, conclusion))
        for some in documents.values()
    ]
    return Draft(" ".join([*steps, conclusion]))


_WITHOUT_ALL = "question {} has gold passages that are not in the knowledge base: {}. Add them, or drop the conclusion"
_WITHOUT_PASSAGES = (
    "question {} has no gold passage in the knowledge base: add gold_passages to it, or use another teacher.kind"
)


def _best(passages: Sequence[Passage], count: int, answer: str, support: Callable[[str, Passage], float]) -> str:
    """The sentences with most support, a paragraph for each passage that has one."""
    candidates = [(passage, sentence) for passage in passages for sentence in sentences(passage.text)]
    scores = [support(sentence, passage) for passage, sentence in candidates]
    best = sorted(range(len(candidates)), key=lambda place: (-scores[place], place))[:count]
    chosen: dict[str, list[tuple[Passage, str]]] = {}
    for passage, sentence in (candidates[place] for place in sorted(best)):
        chosen.setdefault(passage.id, []).append((passage, sentence))
    return " ".join(_paragraph(some[0][0], " ".join(text for _, text in some), answer) for some in chosen.values())


def _support(sentence: str, question: str, answer: str) -> float:
    """Shared words with the question and the answer; naming the whole answer counts as much as two more."""
    shared = content_words(sentence) & (content_words(question) | content_words(answer))
    return len(shared) + 2 * _names(sentence, answer)


def _step_support(sentence: str, title: str, conclusion: str) -> float:
    """Shared words with the conclusion, but for the title's, which any sentence may name; a number counts as three words."""
    shared = content_words(sentence) & content_words(conclusion) - content_words(title)
    numbers = set(re.findall(r"\d+", sentence)) & set(re.findall(r"\d+", conclusion))
    return len(shared) + 3 * len(numbers)


def _paragraph(passage: Passage, text: str, answer: str) -> str:
    title = re.sub(r"\s*\(.*?\)$", "", passage.title)
    stands_alone = not title or _names(text, title) or _names(text, answer)
    return text if stands_alone else f"{passage.title}: {text}"


def _names(text: str, name: str) -> bool:
    """Whether a text holds all words of a name, in any order and inflection."""
    wanted = _stems(name)
    return bool(wanted) and wanted <= _stems(text)


def content_words(text: str) -> set[str]:
    """Stems of a text's words that say what it is about."""
    words = words_of(text)
    return {_stem(word) for word in words if len(word) > 2 and word not in _EMPTY}


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in words_of(text)}
