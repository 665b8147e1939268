"""Which passages questions are asked about: all documents have their turn, and no document serves both training and test."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kard.data.cutting import word_count
from kard.data.normal import words_of
from kard.data.passage import Passages
from kard.data.splits import DEV_SHARE, TEST_SHARE
from kard.errors import UserError
from kard.recipe.sections import GeneratedKind

# More passages than this are not all looked at: so many of them are, drawn by the seed.
MOST_PASSAGES = 100_000
MIN_WORDS = 20
# Fewer documents are cut into stretches of passages, which take the place of documents in the split.
_FEWEST_DOCUMENTS = 10
_STRETCHES, _LONGEST_STRETCH = 20, 20
_PARTNERS = 30  # passages among which the one to compare with is chosen

# What is looked for in a text without case; searched as they stand, as expressions would take minutes for many passages.
_LEADERS = ("....", ". . . ", "……", "____")
_LINKS = ("http://", "https://", "www.", "doi:", "mailto:")
_LICENCES = (
    *("all rights reserved", "permission is hereby granted", "without warranty", "licensed under", "licenced under"),
    *("redistribution and use", "copyright", "©", "creative commons", "terms of use", "isbn"),
    *("alle rechte vorbehalten", "tous droits réservés", "todos los derechos reservados"),
)
_SENTENCE_END = re.compile(r"(?:[^\W\d_]{2}|\w{3})[.!?][\"'”’)\]]*(?:\s|$)|[。！？]")


@dataclass(frozen=True)
class Drawn:
    """One question to ask for.

    Attributes:
        split: ``train``, ``dev`` or ``test``.
        kind: Of the question.
        places: Positions of the passages that it is about: one, two for a comparison.
        others: Positions of more passages of the same document, as far as they are needed.
        wanted: The answer that a yes/no question is to have, so that both are as frequent.
    """

    split: str
    kind: GeneratedKind
    places: tuple[int, ...]
    others: tuple[int, ...] = ()
    wanted: str = ""


@dataclass(frozen=True)
class Draw:
    """All questions to ask for, and what is said of how they were drawn.

    Attributes:
        items: In the order in which they are asked for.
        unfit: How many passages nobody can ask about, by reason.
        documents: How many documents (or stretches of passages) each split has.
        stretch: Passages of a stretch; 0 where the split is by whole documents.
    """

    items: tuple[Drawn, ...]
    unfit: Mapping[str, int]
    documents: Mapping[str, int]
    stretch: int


def draw(passages: Passages, sizes: Mapping[str, int], kinds: Sequence[GeneratedKind], seed: int) -> Draw:
    """Draw passages to ask about: one of each document in turn, documents and passages in an order by the seed.

    A fifth of the documents is for test and, where `sizes` asks for any, a tenth for dev; a document that holds more than that
    of all passages is left to training. The split and the order do not depend on the sizes: asking for more
    later leaves what was asked for as it is.

    Args:
        passages: The knowledge base, read once.
        sizes: How many questions each split is to get. Fewer are drawn where every passage has had every kind.
        kinds: Of questions; unanswerable ones are not drawn for training.
        seed: Decides all of it.

    Raises:
        UserError: Fewer than two documents or passages can be asked about.
    """
    unfit: Counter[str] = Counter()
    documents = _by_document(passages, unfit, seed)
    fit = sum(map(len, documents.values()))
    if fit < 2:
        said = ", ".join(f"{count:,} {reason}" for reason, count in unfit.most_common())
        raise UserError(
            f"knowledge: {fit} of {len(passages):,} passages can be asked about, two are needed ({said or 'all'}). Add documents."
        )
    stretch = 0 if len(documents) >= _FEWEST_DOCUMENTS else max(1, min(_LONGEST_STRETCH, fit // _STRETCHES))
    units = list(documents.values()) if not stretch else _stretches(documents, stretch)
    parts = _split(units, fit, bool(sizes.get("dev")), seed)
    items: list[Drawn] = []
    for name, own in parts.items():
        asked = [kind for kind in kinds if name != "train" or kind != "unanswerable"]
        items += _drawn(name, own, sizes.get(name, 0), asked, passages, seed)
    items.sort(key=lambda item: random.Random(f"{seed}:{item.kind}:{item.places}").random())
    return Draw(tuple(items), unfit, {name: len(own) for name, own in parts.items()}, stretch)


def unfit_for_questions(text: str) -> str:
    """Why nothing can be asked about a passage, in words; empty where something can."""
    if (words := word_count(text)) < MIN_WORDS:
        return f"shorter than {MIN_WORDS} words"
    folded, numbers = text.casefold(), sum(word[0].isdigit() and not word[-1].isalpha() for word in text.split())
    leaders, links = (sum(map(folded.count, signs)) for signs in (_LEADERS, _LINKS))
    if leaders > 2 or numbers > 0.3 * words:
        return "tables of contents or of numbers"
    if sum(sign in folded for sign in _LICENCES) > 1:
        return "licences and imprints"
    if links > 2 and links > words / 15:
        return "lists of links"
    return "" if _SENTENCE_END.search(text) else "without a sentence"


def _by_document(passages: Passages, unfit: Counter[str], seed: int) -> dict[str, list[int]]:
    """Positions of the passages that can be asked about, by document."""
    places: Sequence[int] = range(len(passages))
    if len(places) > MOST_PASSAGES:
        places = sorted(random.Random(f"{seed}:sample").sample(places, MOST_PASSAGES))
    found: dict[str, list[int]] = {}
    for place in places:
        passage = passages[place]
        if why := unfit_for_questions(passage.text):
            unfit[why] += 1
        else:
            found.setdefault(passage.document, []).append(place)
    return found


def _stretches(documents: Mapping[str, list[int]], length: int) -> list[list[int]]:
    """Passages that follow one another in a document, at most so many together."""
    cut = ([own[begin : begin + length] for begin in range(0, len(own), length)] for own in documents.values())
    return [part for parts in cut for part in parts]


def _split(units: list[list[int]], fit: int, with_dev: bool, seed: int) -> dict[str, list[list[int]]]:
    order = list(units)
    random.Random(f"{seed}:split").shuffle(order)
    order.sort(key=lambda unit: len(unit) > TEST_SHARE * fit)
    test = max(1, round(TEST_SHARE * len(order)))
    dev = test + (max(1, round(DEV_SHARE * len(order))) if with_dev else 0)
    if dev >= len(order):
        raise UserError(
            f"knowledge: {len(order)} documents can be asked about, too few to keep training and test apart. Add documents, or "
            "set questions.dev_size: null."
        )
    return {"test": order[:test], "dev": order[test:dev], "train": order[dev:]}


def _drawn(
    split: str, units: list[list[int]], size: int, kinds: Sequence[GeneratedKind], passages: Passages, seed: int
) -> Iterator[Drawn]:
    """So many questions of a split: the first round takes a passage of each document, later ones the next one."""
    every = [place for unit in units for place in unit]
    own = {place: unit for unit in units for place in unit}
    had: set[tuple[int, GeneratedKind]] = set()
    counts: Counter[str] = Counter()
    for place in _rounds(units, len(set(kinds)), seed):
        if (number := counts.total()) >= size:
            return
        turn = number % len(kinds)
        kind = next(kind for kind in (*kinds[turn:], *kinds[:turn]) if (place, kind) not in had)
        had.add((place, kind))
        partner = _partner(place, own, every, passages, seed) if kind == "comparison" else None
        if kind == "comparison" and partner is None:
            continue
        others = tuple(_around(place, own[place])) if kind == "unanswerable" else ()
        places = (place,) if partner is None else (place, partner)
        yield Drawn(split, kind, places, others, ("yes", "no")[counts[kind] % 2] if kind == "yes_no" else "")
        counts[kind] += 1


def _rounds(units: list[list[int]], times: int, seed: int) -> Iterator[int]:
    """Positions, a passage of each unit in turn; when all have been there, they come again."""
    orders = [random.Random(f"{seed}:{unit[0]}:passages").sample(unit, len(unit)) for unit in units]
    for _ in range(times):
        left, turn = orders, 0
        while left:
            yield from (order[turn] for order in left)
            turn += 1
            left = [order for order in left if turn < len(order)]


def _around(place: int, unit: list[int]) -> list[int]:
    """The passages next to one, of the same document."""
    at = unit.index(place)
    return [*unit[max(0, at - 2) : at], *unit[at + 1 : at + 3]]


def _partner(place: int, own: Mapping[int, list[int]], every: list[int], passages: Passages, seed: int) -> int | None:
    """The passage to compare one with: of some of other documents, the one with most words in common."""
    some = random.Random(f"{seed}:{place}").sample(every, min(len(every), _PARTNERS))
    apart = [other for other in some if own[other] is not own[place]]
    others = apart or [other for other in some if other != place]
    words = _long_words(passages[place].full_text)
    shared = {other: len(words & _long_words(passages[other].full_text)) for other in others}
    return max(others, key=lambda other: shared[other], default=None)


def _long_words(text: str) -> set[str]:
    return {word for word in words_of(text) if len(word) > 4}
