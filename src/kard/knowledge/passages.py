"""Cutting texts at sentence ends."""

from __future__ import annotations

import re

# A sentence ends at . ! ? (with closing quotes or brackets) before white space and something that can begin a sentence, at a
# line break, or at an ideographic full stop. Initials and common abbreviations do not end one.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\Wa-z_])|\n+|(?<=[。！？])(?![。！？])[”’」』）]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|ca|c|No|Vol|Fig|e\.g|i\.e|Inc|Ltd|Co|Mt|Lt|Col|Gen|Sgt|Capt|Gov|Sen|Rep|U\.S)"
    r"|\b[A-Z])\.$"
)
_LONGEST_ABBREVIATION = 8  # with the character in front of it; a look at the whole sentence would take quadratic time


def sentences(text: str) -> list[str]:
    """Split a text into sentences, without losing a character other than white space between them."""
    pieces: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        before = text[max(start, end.start() - _LONGEST_ABBREVIATION) : end.end()].strip()
        if _ABBREVIATION.search(before) and "\n" not in end.group():
            continue
        if piece := text[start : end.end()].strip():
            pieces.append(piece)
        start = end.end()
    last = text[start:].strip()
    return [*pieces, last] if last else pieces


def cut(text: str, words: int) -> list[str]:
    """Cut a text into pieces of at most `words` words, at sentence ends where there are any.

    Pieces are of similar length, so that no document ends in a fragment. A sentence longer than `words` is cut between words.
    """
    units = [unit for sentence in sentences(text) for unit in _windows(sentence, words)]
    total = sum(len(unit.split()) for unit in units)
    target = total / max(1, -(-total // words))
    pieces: list[list[str]] = []
    length = 0
    for unit in units:
        size = len(unit.split())
        if not pieces or length + size > words or length >= target:
            pieces.append([])
            length = 0
        pieces[-1].append(unit)
        length += size
    return [" ".join(piece) for piece in pieces]


def _windows(sentence: str, words: int) -> list[str]:
    tokens = sentence.split()
    return [" ".join(tokens[i : i + words]) for i in range(0, len(tokens), words)]
