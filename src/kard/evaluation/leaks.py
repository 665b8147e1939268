"""Test questions that training questions or passages give away: runs of words that both have (n-grams).

As for GPT-3 (Brown et al. 2020, appendix C): a question collides with a text if they share a run of N words, where N is the 5th
percentile of the test questions' lengths, at least 8 and at most 13, and runs found in more than 10 texts are templates and
do not count. Only the test questions' runs are kept in memory; the texts are streamed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kard.data.normal import words_of
from kard.data.question import Question

SHORTEST, LONGEST = 8, 13
TEMPLATE = 10
# Shares of the test questions above which the report is loud. A training question that collides is a leak; a passage that
# does may be the very source that the question was written from, so more of these are let pass.
LOUD = {"train": 0.01, "passages": 0.1}
EXAMPLES = 5

Run = tuple[str, ...]


def find_leaks(
    test: Sequence[Question],
    train: Sequence[Question],
    passages: Iterable[str],
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Which test questions share a run of words with a training question, and which with a passage.

    Args:
        test: The questions that are evaluated; their choices belong to their text.
        train: The training questions.
        passages: Texts, read once and one at a time.
        advance: Called with 1 for each passage that was read.

    Returns:
        ``n`` (words of a run), ``questions``, ``too_short`` (test questions with fewer words: they cannot collide), and for
        ``train`` and ``passages`` an object with ``questions`` (ids of the colliding ones), ``share``, ``loud`` and
        ``examples`` (``question``, ``words`` and the text that has them, ``found_in``).
    """
    words = [words_of(question.query("question_and_choices")) for question in test]
    n = int(np.clip(np.percentile([len(row) for row in words], 5), SHORTEST, LONGEST))
    owners: dict[Run, list[int]] = {}
    for number, row in enumerate(words):
        for run in _runs(row, n):
            owners.setdefault(run, []).append(number)
    others = {"train": (question.query("question_and_choices") for question in train), "passages": passages}
    counters = {"train": lambda count: None, "passages": advance}
    sides = {name: _side(test, owners, texts, n, LOUD[name], counters[name]) for name, texts in others.items()}
    return {"n": n, "questions": len(test), "too_short": sum(len(row) < n for row in words), **sides}


def _side(
    test: Sequence[Question],
    owners: Mapping[Run, Sequence[int]],
    texts: Iterable[str],
    n: int,
    loud: float,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    having: Counter[Run] = Counter()  # texts that have a run
    found_in: dict[Run, str] = {}
    for text in texts:
        for run in dict.fromkeys(_runs(words_of(text), n)):
            if run in owners:
                having[run] += 1
                found_in.setdefault(run, text)
        advance(1)
    first: dict[int, Run] = {}
    for run in (run for run, count in having.items() if count <= TEMPLATE):
        for number in owners[run]:
            first.setdefault(number, run)
    share = len(first) / len(test)
    return {
        "questions": [test[number].id for number in sorted(first)],
        "share": share,
        "loud": share > loud,
        "examples": [
            {"question": test[number].question, "words": " ".join(run), "found_in": found_in[run]}
            for number, run in list(first.items())[:EXAMPLES]
        ],
    }


def _runs(words: Sequence[str], n: int) -> Iterator[Run]:
    """All runs of `n` words, in their order."""
    return zip(*(words[offset:] for offset in range(n)), strict=False)
