"""Test questions that training questions or passages give away: runs of words that both have (n-grams).

As for GPT-3 (Brown et al. 2020, appendix C): a question collides with a text if they share a run of N words, where N is the 5th
percentile of the test questions' lengths, at least 8 and at most 13, and runs found in more than 10 texts are templates and
do not count. Only the test questions' runs are kept in memory; the texts are streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
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
_BLOCK = 1000


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
        passages: Texts, read once and one block at a time.
        advance: Told how many passages have been read.

    Returns:
        ``n`` (words of a run), ``questions``, ``too_short`` (test questions with fewer words: they cannot collide), and for
        ``train`` and ``passages`` an object with ``questions`` (ids of the colliding ones), ``share``, ``loud`` and
        ``examples`` (``question``, ``words`` and the text that has them, ``found_in``).
    """
    texts = [question.query("question_and_choices") for question in test]
    lengths = [len(words_of(text)) for text in texts]
    n = int(np.clip(np.percentile(lengths, 5), SHORTEST, LONGEST))
    runs = _Runs(texts, n)
    others = {"train": (question.query("question_and_choices") for question in train), "passages": passages}
    told = {"train": lambda count: None, "passages": advance}
    found = {name: _side(test, runs, others[name], LOUD[name], told[name]) for name in others}
    return {"n": n, "questions": len(test), "too_short": sum(length < n for length in lengths), **found}


def _side(
    test: Sequence[Question], runs: _Runs, texts: Iterable[str], loud: float, advance: Callable[[int], None]
) -> dict[str, Any]:
    first: dict[int, tuple[str, str]] = {}
    for question, words, text in runs.collisions(texts, advance):
        first.setdefault(question, (words, text))
    share = len(first) / len(test)
    examples = [
        {"question": test[number].question, "words": words, "found_in": text}
        for number, (words, text) in list(first.items())[:EXAMPLES]
    ]
    return {
        "questions": [test[number].id for number in sorted(first)],
        "share": share,
        "loud": share > loud,
        "examples": examples,
    }


class _Runs:
    """The runs of `n` words of some texts, to be looked for in others."""

    def __init__(self, texts: Sequence[str], n: int) -> None:
        self.n = n
        self.words = [words_of(text) for text in texts]
        self.number = {word: place for place, word in enumerate({w for row in self.words for w in row}, start=1)}
        # A word is a random 64-bit number and a run a polynomial of them: two runs are the same by chance once in 10^19.
        self.random = np.random.default_rng(0).integers(0, 2**64, len(self.number) + 1, dtype=np.uint64)
        digests, owners, starts = self._digests(self.words)
        self.digests = np.unique(digests)
        self.owners: dict[int, list[tuple[int, int]]] = {}
        for digest, owner, start in zip(digests.tolist(), owners.tolist(), starts.tolist(), strict=True):
            self.owners.setdefault(digest, []).append((owner, start))

    def collisions(self, texts: Iterable[str], advance: Callable[[int], None]) -> Iterator[tuple[int, str, str]]:
        """The number of a text of ours, the words that it shares, and the first text that has them; templates left out."""
        found: dict[int, set[int]] = {}  # at most `TEMPLATE` + 1 texts a run, so that their number costs no memory
        first: dict[int, str] = {}
        begin, rest = 0, iter(texts)
        while block := list(islice(rest, _BLOCK)):
            digests, owners, _ = self._digests([words_of(text) for text in block])
            for place in np.flatnonzero(np.isin(digests, self.digests)).tolist():
                digest, owner = int(digests[place]), int(owners[place])
                first.setdefault(digest, block[owner])
                having = found.setdefault(digest, set())
                if len(having) <= TEMPLATE:
                    having.add(begin + owner)
            begin += len(block)
            advance(len(block))
        for digest, having in found.items():
            if len(having) <= TEMPLATE:
                for owner, start in self.owners[digest]:
                    yield owner, " ".join(self.words[owner][start : start + self.n]), first[digest]

    def _digests(self, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each run that has words of ours alone: its digest, its text's number, and its place there."""
        lengths = np.array([len(words) + 1 for words in texts], dtype=np.int64)
        flat = [word for words in texts for word in (*words, "")]  # the empty one, nobody's, keeps texts apart
        numbers = np.fromiter(map(self.number.get, flat, [0] * len(flat)), np.int64, len(flat))
        known = np.concatenate(([0], np.cumsum(numbers > 0)))
        begins = np.flatnonzero(known[self.n :] - known[: -self.n] == self.n)
        digests = np.zeros(len(begins), dtype=np.uint64)
        for offset in range(self.n):
            digests = digests * np.uint64(0x9E3779B97F4A7C15) + self.random[numbers[begins + offset]]
        owners = np.repeat(np.arange(len(texts)), lengths)[begins]
        return digests, owners, begins - (np.cumsum(lengths) - lengths)[owners]
