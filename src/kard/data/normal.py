"""Texts that count as the same, however they were typed or extracted. Stored texts stay as they are."""

from __future__ import annotations

import re
import unicodedata

# What nobody sees: NUL, and Unicode's Default_Ignorable_Code_Point (soft hyphens, zero-width spaces and joiners, byte order
# marks, marks of direction, variation selectors).
UNSEEN = (
    "\0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Points of Hebrew and Arabic, which most writers leave out, and the stroke that lengthens Arabic words.
_POINTS = (
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4"
    "\u06e7\u06e8\u06ea-\u06ed\ufc5e-\ufc63\ufe70-\ufe7f"
)
# Keyboards differ: Persian kaf and ye, apostrophes that are letters, a capital of Turkish.
_TYPED = {"\u06a9": "\u0643", "\u06cc": "\u064a", "\u02bc": "'", "\u02bb": "'", "\u0130": "i"}
# Signs that stand for characters: radicals, which PDFs have in their place, and squared units.
_SIGNS = (*range(0x2E80, 0x2FE0), *range(0x3300, 0x3400))
# Letters that some writers keep apart and others do not: ı and i; alefs, final ye and heh. Stemmers know them apart.
_LOOSE = str.maketrans("\u0131\u0623\u0625\u0622\u0671\u0649\u0629", "i\u0627\u0627\u0627\u0627\u064a\u0647")

# A soft hyphen that is followed by a space stood at the end of a line.
_ANY_UNSEEN = re.compile(rf"\u00ad\s*|[{UNSEEN}]")
_POINT = re.compile(f"[{_POINTS}]")
_WORDS, _NOT_LETTERS = re.compile(r"\w+"), re.compile(r"[\W_]+")
_LATIN_LIGATURE = re.compile("[\ufb00-\ufb06]")


def visible(text: str) -> str:
    """A text in Unicode's composed form (NFC), without characters that nobody sees."""
    return text if _plain_ascii(text) else unicodedata.normalize("NFC", _ANY_UNSEEN.sub("", text))


def composed(text: str) -> str:
    """A `visible` text in lower case, its Latin ligatures (as in PDFs) apart: what Lucene's analyzer is given."""
    return _LATIN_LIGATURE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), visible(text)).lower()


def folded(text: str) -> str:
    """A `visible` text without case and optional points, its letters and digits in their plain forms (NFKC).

    A text in English, in composed form, is its lower case. Fractions and signs stay: they are no letters.
    """
    if _plain_ascii(text):
        return text.lower()
    plain = unicodedata.normalize("NFC", _ANY_UNSEEN.sub("", text)).translate(_PLAIN).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFC", plain)


def words_of(text: str) -> list[str]:
    """A text's words (letters, digits and underscores) without case."""
    return _WORDS.findall(text.casefold())


def normalised(text: str) -> str:
    """A text's words without case, one space between them: what makes two titles or choices the same."""
    return " ".join(words_of(text))


def plain(text: str) -> str:
    """A text's letters and digits without case, what stands between them made single spaces."""
    return _NOT_LETTERS.sub(" ", text.casefold()).strip()


def loose(stem: str) -> str:
    """A folded word or stem, with letters as one that some writers take for the same."""
    return stem if stem.isascii() else stem.translate(_LOOSE)


class _Plain(dict[int, str]):
    """Plain forms of characters, each found when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = _plain(chr(code))
        return self[code]


_PLAIN = _Plain()


def _plain(char: str) -> str:
    if _POINT.match(char):
        return ""
    if char in _TYPED:
        return _TYPED[char]
    category, plain = unicodedata.category(char), unicodedata.normalize("NFKC", char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    letter = category[0] in "LNM" or ord(char) in _SIGNS
    return plain if letter and plain[0] != " " and "\u2044" not in plain else char


def _plain_ascii(text: str) -> bool:
    return text.isascii() and "\0" not in text
