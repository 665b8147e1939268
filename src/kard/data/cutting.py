"""Cutting texts at sentence ends."""

from __future__ import annotations

import re
from itertools import islice

# A sentence ends at . ! ? (with closing quotes or brackets) before white space and something that can begin a sentence, at a
# line break, or at an ideographic full stop. Initials and common abbreviations do not end one.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\Wa-z_])|\n+|(?<=[。！？])(?![。！？])[”’」』）]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|ca|c|No|Vol|Fig|e\.g|i\.e|Inc|Ltd|Co|Mt|Lt|Col|Gen|Sgt|Capt|Gov|Sen|Rep|U\.S)"
    r"|\b[A-Z])\.$"
)
_LONGEST_ABBREVIATION = 8  # with the character in front of it; a look at the whole sentence would take quadratic time


# Letters of scripts that put no spaces between words: two of them count as one.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_HAS_SPACELESS = re.compile(f"[{_SPACELESS}]")
# What goes on for longer than this is no word but data, and counts as several.
_LONGEST_WORD = 1000
_WORD = re.compile(rf"\S{{1,{_LONGEST_WORD}}}")
_SPACELESS_WORD = re.compile(rf"[{_SPACELESS}]{{1,2}}|[^\s{_SPACELESS}]{{1,{_LONGEST_WORD}}}")


def sentences(text: str) -> list[str]:
    """Split a text into sentences, without losing a character other than white space between them."""
    return [text[start:end] for start, end in _sentence_spans(text)]


def _sentence_spans(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        before = text[max(start, end.start() - _LONGEST_ABBREVIATION) : end.end()].strip()
        if _ABBREVIATION.search(before) and "\n" not in end.group():
            continue
        spans += _stripped(text, start, end.end())
        start = end.end()
    return spans + _stripped(text, start, len(text))


def _stripped(text: str, start: int, end: int) -> list[tuple[int, int]]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return [(start, start + len(piece.strip()))] if piece.strip() else []


def cut(text: str, words: int) -> list[tuple[int, str]]:
    """Cut a text into pieces of at most `words` words, at sentence ends where there are any.

    Pieces are of similar length, so that no document ends in a fragment. A sentence longer than `words` is cut between words.

    Returns:
        Where each piece begins in the text, and the piece, white space in it made single spaces.
    """
    word = _SPACELESS_WORD if _HAS_SPACELESS.search(text) else _WORD
    units = [unit for start, end in _sentence_spans(text) for unit in _windows(text, start, end, words, word)]
    total = sum(size for _, _, size in units)
    target = total / max(1, -(-total // words))
    pieces: list[tuple[int, list[str]]] = []
    length = 0
    for start, end, size in units:
        if not pieces or length + size > words or length >= target:
            pieces.append((start, []))
            length = 0
        pieces[-1][1].append(" ".join(text[start:end].split()))
        length += size
    return [(start, " ".join(piece)) for start, piece in pieces]


def word_count(text: str) -> int:
    """How many words a text has, counted as for `cut`."""
    word = _SPACELESS_WORD if _HAS_SPACELESS.search(text) else _WORD
    return sum(1 for _ in word.finditer(text))


def _windows(text: str, start: int, end: int, words: int, word: re.Pattern[str]) -> list[tuple[int, int, int]]:
    """First and last character and number of words of a sentence, or of its parts where it is too long."""
    found, windows = word.finditer(text, start, end), []
    while part := list(islice(found, words)):
        windows.append((part[0].start(), part[-1].end(), len(part)))
    return windows
