"""`kard search`: passages of a run's index for any query, with the words that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kard.data.filters import Access, Restriction, condition_of
from kard.data.passage import Passage
from kard.run import Run


@dataclass(frozen=True)
class FoundPassage:
    """A passage, its score, and where in its text the query's words stand (first and last character of each)."""

    passage: Passage
    score: float
    words: tuple[tuple[int, int], ...]

    def marked(self, mark: Callable[[str], str]) -> str:
        """The text with the query's words marked."""
        pieces, last = [], 0
        for begin, end in self.words:
            pieces += [self.passage.text[last:begin], mark(self.passage.text[begin:end])]
            last = end
        return "".join([*pieces, self.passage.text[last:]])

    def as_json(self) -> dict[str, Any]:
        """All of it, with the words as they stand in the text."""
        shared = [self.passage.text[begin:end] for begin, end in self.words]
        return asdict(self.passage) | {"score": self.score, "words": shared}


def search_run(run: Path, query: str, count: int, only: str | None = None) -> list[FoundPassage]:
    """The best passages of a run's index for a query, of those that a filter leaves (as JSON text).

    Raises:
        UserError: The folder is no run, its index is not built, or the filter fits no document's metadata.
    """
    opened = Run.open(run)
    passages, retriever = opened.passages(), opened.retriever()
    allowed = Access(passages.path.parent).allowed(Restriction.of(condition_of(only)))
    [hits] = retriever.search([query], count, allowed)
    found = [(passages[int(place)], float(score)) for place, score in zip(hits.positions, hits.scores, strict=True)]
    return [
        FoundPassage(passage, score, tuple(retriever.analysis.shared(passage.text, query))) for passage, score in found
    ]
