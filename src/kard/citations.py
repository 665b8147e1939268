"""Citations: the sentences of the passages that say what an explanation says, found by words, names and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kard.data.cutting import sentences
from kard.data.normal import folded

if TYPE_CHECKING:
    from kard.retrieval.analysis import Analysis

UNSUPPORTED = "unsupported"
COVERED = 0.85  # least share of a sentence's content words; chosen on labelled sentences (docs/how-it-works.md)
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_THOUSANDS = re.compile(r"(?<=\d)[.,](?=\d{3}(?!\d))")
# Stop words to the index, and yet they turn a sentence around.
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|without|nicht|kein\w*|nie|ohne|pas|jamais|nunca)\b|n['’]t\b", re.I
)


@dataclass(frozen=True)
class Source:
    """A sentence that was read.

    Attributes:
        number: Place of its passage among those that were read, from 1.
        passage: The passage's id.
        sentence: Its text.
    """

    number: int
    passage: str
    sentence: str


@dataclass(frozen=True)
class Citation:
    """A sentence of an explanation, and the sentences that say the same: the best one of each passage that has one."""

    sentence: str
    sources: tuple[Source, ...]

    @property
    def supported(self) -> bool:
        """Whether any passage says so."""
        return bool(self.sources)

    @property
    def mark(self) -> str:
        """As it stands behind the sentence: ``[1]``, ``[1][3]``, ``[unsupported]``."""
        return "".join(f"[{source.number}]" for source in self.sources) or f"[{UNSUPPORTED}]"

    def row(self) -> dict[str, Any]:
        """As JSON."""
        sources = [asdict(source) for source in self.sources]
        return {"sentence": self.sentence, "supported": self.supported, "sources": sources}


@dataclass(frozen=True)
class _Claims:
    """What a text says, as far as words tell: stems of its content words and of its names, numbers, whether it denies."""

    terms: frozenset[int]
    names: frozenset[int]
    numbers: frozenset[str]
    denies: bool


def cite(
    rationale: str, passages: Sequence[Mapping[str, Any]], analysis: Analysis, covered: float = COVERED
) -> list[Citation]:
    """Look for what an explanation says in the passages that were read for it.

    A sentence is supported by one of a passage where that one, with the passage's title, holds enough of its content words and
    all of its names (words with a capital, but for the first one) and numbers; where both deny something, or neither; and where
    it says more than the title. That is word overlap, no understanding: who did what to whom is not looked at.

    Args:
        rationale: Its sentences are cited, but for those without a content word, such as the number of a list.
        passages: What was read, best first: objects with ``id, title, text``.
        analysis: Which words count as the same, and which have no content: the index's.
        covered: Least share of the content words.

    Returns:
        One citation a sentence, in their order; nothing where nothing was read.
    """
    said = sentences(rationale) if passages else []
    shown = [(place, text) for place, passage in enumerate(passages) for text in sentences(passage["text"])]
    claims = _claims([*said, *(str(passage["title"]) for passage in passages), *(text for _, text in shown)], analysis)
    titles, read = claims[len(said) : len(said) + len(passages)], claims[len(said) + len(passages) :]
    cited = []
    for sentence, claim in zip(said, claims, strict=False):
        best: dict[int, tuple[float, str]] = {}
        for (place, text), source in zip(shown, read, strict=True):
            share = _covered(claim, source, titles[place])
            if share >= covered and share > best.get(place, (0.0, ""))[0]:
                best[place] = share, text
        sources = (Source(place + 1, str(passages[place]["id"]), text) for place, (_, text) in sorted(best.items()))
        if claim.terms:
            cited.append(Citation(sentence, tuple(sources)))
    return cited


def _covered(claim: _Claims, source: _Claims, title: _Claims) -> float:
    """Share of a sentence's content words that another one and its title hold; 0 where they cannot say the same."""
    held = source.terms | title.terms
    more = claim.terms - title.terms or claim.numbers - title.numbers
    same = claim.names <= held and claim.numbers <= source.numbers | title.numbers and claim.denies == source.denies
    return len(claim.terms & held) / len(claim.terms) if same and more and claim.terms else 0.0


def _claims(texts: Sequence[str], analysis: Analysis) -> list[_Claims]:
    words = [_NUMBER.sub(" ", text) for text in texts]  # numbers count as wholes
    names = [" ".join(word for word in _WORD.findall(text)[1:] if word[0].isupper()) for text in words]
    digests, numbers, bounds = analysis.terms([*words, *names])
    terms = [frozenset(part.tolist()) for part in np.split(digests[numbers], bounds[1:-1])]
    rows = zip(texts, terms, terms[len(texts) :], strict=False)
    return [_Claims(own, named, _numbers(text), bool(_NEGATION.search(text))) for text, own, named in rows]


def _numbers(text: str) -> frozenset[str]:
    return frozenset(_THOUSANDS.sub("", number) for number in _NUMBER.findall(folded(text)))


def pieces(rationale: str, citations: Sequence[Citation]) -> Iterator[tuple[str, Citation | None]]:
    """An explanation in pieces, each sentence that is cited with its citation; together they are the explanation."""
    begin = 0
    for citation in citations:
        at = rationale.index(citation.sentence, begin)
        if at > begin:
            yield rationale[begin:at], None
        yield citation.sentence, citation
        begin = at + len(citation.sentence)
    if begin < len(rationale):
        yield rationale[begin:], None


def with_marks(rationale: str, citations: Sequence[Citation]) -> str:
    """An explanation with a mark behind each sentence that is cited."""
    parts = pieces(rationale, citations)
    return "".join(text if citation is None else f"{text} {citation.mark}" for text, citation in parts)
