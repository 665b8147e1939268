"""From text to terms: words, stop words, stems. An index keeps its analysis, and queries go through the same one."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from kard.data.normal import UNSEEN, composed, folded, loose
from kard.errors import UserError
from kard.progress import say
from kard.recipe.sections import RetrieverSection
from kard.retrieval import scanning

_KNOWN_WORDS = 1_000_000
_SAMPLES, _SAMPLE_CHARACTERS = 60, 1_000
_SURE = 0.8
# Languages by ISO code: Snowball's stemmer, which is also the name of the stop word list where there is one.
_LANGUAGES = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi",
    "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "ko": "korean", "lt": "lithuanian",
    "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese", "ro": "romanian",
    "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish", "zh": "chinese",
}  # fmt: skip
# Scripts taken in pairs of characters, as a set of the module regex. Korean has spaces, but particles end its words.
_PAIRED = r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&[\p{L}\p{M}]]"
_LONGEST_PAIR = 4  # characters, where halves of them are marks of their own
_POSSESSIVE = re.compile("['\u2019\uff07]s$")
# A vowel with a consonant after it: Porter's measure is above 0. A y is a vowel after a consonant.
_MEASURED = re.compile("(?:[aeiou]|(?<=[^aeiou])y)(?:[^aeiouy]|(?<=[aeiou])y)")


@dataclass(frozen=True)
class Analysis:
    """How texts are cut into terms. Forms of a character count as one (`kard.data.normal`).

    Attributes:
        analyzer: ``standard`` (words of two characters and more; pairs of characters in scripts without spaces) or
            ``lucene`` (as Lucene's EnglishAnalyzer, which the paper's index was made with).
        language: Whose Snowball stemmer and stop words of bm25s are used, as far as there are any; or None.

    Raises:
        UserError: There is neither for such a language.
    """

    analyzer: str = "standard"
    language: str | None = None

    def __post_init__(self) -> None:
        import Stemmer

        if self.language is not None and self.language not in Stemmer.algorithms() and not _stop_words(self.language):
            known = ", ".join(sorted({*Stemmer.algorithms(), *filter(_stop_words, _LANGUAGES.values())}))
            raise UserError(
                f"retriever.language: '{self.language}' is not known. Choose auto, null or one of: {known}."
            )

    def terms(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Terms of texts in their order, as queries have them.

        Returns:
            The different terms as sorted 64-bit digests, the numbers of the texts' terms among them, and where each text's
            begin (and the end), one more than texts.
        """
        return self._terms(texts, singles=False)[:3]

    def indexed(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Terms of texts as an index has them: beside pairs of characters their single ones, so that one character finds.

        Returns:
            As `terms`; and each text's length in terms, in which single characters of pairs do not count.
        """
        return self._terms(texts, singles=True)

    def _terms(self, texts: Sequence[str], singles: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        numbers, ends, words = self._words(texts, singles)
        if len(self._digests) > _KNOWN_WORDS:
            self._digests.clear()
        digests, of_word = np.unique(np.array([self._digests[word] for word in words], np.uint64), return_inverse=True)
        stopped = int(len(digests) > 0 and digests[0] == 0)
        single = numbers < 0
        found = (of_word - stopped)[np.where(single, -1 - numbers, numbers)]
        kept = found >= 0
        bounds, counted = (np.concatenate(([0], np.cumsum(which)))[ends] for which in (kept, kept & ~single))
        return digests[stopped:], found[kept], bounds, np.diff(counted)

    def _words(self, texts: Sequence[str], singles: bool = False) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Numbers of the texts' words (single characters of pairs: below 0), where each text's begin, and the words."""
        lower = [text.lower() for text in texts]
        joined, codes, bounds = _joined(lower)
        # Hardly a text has characters of several forms, and only those texts are read again.
        odd = np.flatnonzero(_odd(self.analyzer, _planes(codes))[codes])
        for place in np.unique(np.searchsorted(bounds, odd, side="right") - 1).tolist():
            lower[place] = _FOLDS[self.analyzer](texts[place])
        if len(odd):
            joined, codes, bounds = _joined(lower)
        shortest = 1 if self.analyzer == "lucene" else 2
        classes = _classes(self.analyzer, _planes(codes))
        numbers, ends, firsts = scanning.scan(codes, bounds, classes, shortest, singles)
        return numbers, ends, [joined[first:last] for first, last in firsts.tolist()]

    def shared(self, text: str, query: str) -> list[tuple[int, int]]:
        """Where words of a text stand that a query has as well: first and last place, for highlighting."""
        wanted = self.terms([query])[0]
        spans = list(_pieces(text))
        digests, numbers, bounds = self.terms([text[begin:end] for begin, end in spans])
        known = np.isin(digests, wanted)[numbers]
        merged: list[tuple[int, int]] = []
        for (begin, end), first, last in zip(spans, bounds[:-1], bounds[1:], strict=True):
            if first == last or not known[first:last].all():
                continue
            if merged and begin < merged[-1][1]:
                begin, end = merged[-1][0], max(end, merged[-1][1])
                merged.pop()
            merged.append((begin, end))
        return merged

    @cached_property
    def _digests(self) -> _Digests:
        if self.analyzer == "lucene":
            return _Digests(_stop_words("english"), _lucene_stem)
        # One character of a script taken in pairs is no stop word.
        stopped = frozenset(folded(word) for word in _stop_words(self.language) if len(word) > 1)
        stem = _stemmer(self.language)
        return _Digests(stopped, lambda word: loose(stem(word)))


class _Digests(dict[str, int]):
    """Numbers that stand for words' terms, 0 for a stop word; each is computed when its word is first met."""

    def __init__(self, stopped: frozenset[str], stem: Callable[[str], str]) -> None:
        self.stopped, self.stem = stopped, stem

    def __missing__(self, word: str) -> int:
        self[word] = 0 if _POSSESSIVE.sub("", word) in self.stopped else _digest(self.stem(word))
        return self[word]


def _digest(term: str) -> int:
    return int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1


def analysis_for(section: RetrieverSection, texts: Sequence[str]) -> Analysis:
    """The recipe's analysis; a language that it leaves to detection is that of the texts, and said."""
    if section.analyzer == "lucene":
        return Analysis("lucene", "english")
    if section.language != "auto":
        return Analysis("standard", section.language)
    language = detect_language(texts)
    say(f"  language {language or 'not clear: words are taken as they are, none is left out'}")
    return Analysis("standard", language)


def detect_language(texts: Sequence[str]) -> str | None:
    """Snowball's name of the language that most of the texts are in, or None where it is not clear or not known."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    votes: Counter[str] = Counter()
    for sample in _samples(texts):
        language, probability = identifier.classify(sample)
        votes[language if probability > _SURE else "?"] += 1
    if not votes:
        return None
    language, most = votes.most_common(1)[0]
    return _LANGUAGES.get(language) if most >= _SURE * votes.total() else None


def _samples(texts: Sequence[str]) -> Iterator[str]:
    """Stretches of text from all over the texts; short texts are put together, so that there is something to judge."""
    stride = max(1, len(texts) // _SAMPLES)
    for begin in range(0, len(texts), stride):
        sample = ""
        for place in range(begin, min(begin + stride, len(texts))):
            sample += texts[place] + "\n"
            if len(sample) >= _SAMPLE_CHARACTERS:
                break
        if sample.strip():
            yield sample[:_SAMPLE_CHARACTERS]


_FOLDS: dict[str, Callable[[str], str]] = {"standard": folded, "lucene": composed}
# Where characters of several forms are: not among ideographs, Hangul syllables, private and unassigned ones.
_FORMS = [(0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x20000), (0x2F800, 0x2FA20), (0xE0000, 0xE1000)]


def _joined(texts: Sequence[str]) -> tuple[str, np.ndarray, np.ndarray]:
    """Texts as one, its code points, and where each text begins (and the end)."""
    joined = "".join(texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return joined, codes, np.concatenate(([0], np.cumsum([len(text) for text in texts], dtype=np.int64)))


def _planes(codes: np.ndarray) -> int:
    """How many of Unicode's planes a table of code points needs, for emoji the second; all, beyond these rare ones."""
    highest = int(codes.max(initial=0)) >> 16
    return highest + 1 if highest < 2 else 17


@cache
def _odd(analyzer: str, planes: int) -> np.ndarray:
    """For each code point whether a text in lower case with it must be folded: it has another form, or joins what it follows."""
    fold, size = _FOLDS[analyzer], planes << 16
    odd = np.zeros(size, dtype=np.bool_)
    for begin, end in _FORMS:
        for code in range(begin, min(end, size)):
            char = chr(code)
            odd[code] = unicodedata.category(char)[0] == "M" or 0x1160 <= code < 0x1200 or fold(char) != char.lower()
    return odd


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Where what may be found stands in a text: words, and in scripts taken in pairs each few characters."""
    for found in _marked().finditer(text):
        begin, end = found.span()
        if found[1] is None:
            yield begin, end
            continue
        for place in range(begin, end):
            yield from ((place, stop) for stop in range(place + 1, min(place + _LONGEST_PAIR, end) + 1))


@cache
def _marked() -> Any:
    import regex

    pair = rf"[{_PAIRED}\u2e80-\u2fdf]"  # with the radicals that `folded` makes characters of
    word = rf"[[\w\p{{M}}'\u2019\u3300-\u33ff{UNSEEN}]--{pair}]"
    return regex.compile(rf"({pair}[{pair}{UNSEEN}]*)|(?:\u00ad\s*|{word})+", regex.V1)


@cache
def _classes(analyzer: str, planes: int) -> np.ndarray:
    """What each code point may do in a word, a byte each; of the first planes of Unicode only, because most texts are
    within the first one, and the others take most of the time."""
    import regex

    every = "".join(map(chr, range(planes << 16)))
    classes = np.zeros(planes << 16, dtype=np.uint8)

    def put(kind: int, pattern: str) -> None:
        classes[[ord(character) for character in regex.findall(pattern, every, regex.V1)]] = kind

    if analyzer == "standard":
        put(scanning.LETTER, r"[\p{L}\p{N}\p{M}_]")
        put(scanning.PAIRED, _PAIRED)
        return classes
    for kind, names in {
        scanning.LETTER: "ALetter Hebrew_Letter",
        scanning.DIGIT: "Numeric",
        scanning.CONNECTOR: "ExtendNumLet",
        scanning.KATAKANA: "Katakana",
        scanning.MID_LETTER: "MidLetter",
        scanning.MID_NUMBER: "MidNum",
        scanning.MID_BOTH: "MidNumLet Single_Quote",
        scanning.MARK: "Extend Format ZWJ",
    }.items():
        put(kind, "[" + "".join(rf"\p{{WB={name}}}" for name in names.split()) + "]")
    put(scanning.ALONE, r"[\p{Script=Han}\p{Script=Hiragana}]")
    put(scanning.COMPLEX, r"[[\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]&&\p{L}]")
    classes[ord(":")] = scanning.MID_LETTER  # as in the Unicode version that Lucene 9 was made for
    return classes


def _stemmer(language: str | None) -> Callable[[str], str]:
    import Stemmer

    return Stemmer.Stemmer(language).stemWord if language in Stemmer.algorithms() else str


def _stop_words(language: str | None) -> frozenset[str]:
    """The stop words of bm25s for a language; none where it has no list."""
    from bm25s import stopwords

    name = "EN" if language == "english" else str(language).upper()
    return frozenset(vars(stopwords).get(f"STOPWORDS_{name}", ()))


def _lucene_stem(word: str) -> str:
    """Porter's stemmer with the two departures of his own Java version, which Lucene uses; short words stay."""
    word = _POSSESSIVE.sub("", word)
    if len(word) <= 2:
        return word
    stem = _porter()(word)
    if stem.endswith("bli") and _MEASURED.search(stem[:-3]):
        return _porter()(stem[:-1] + "e")
    return stem[:-1] if stem.endswith("logi") and _MEASURED.search(stem[:-4]) else stem


@cache
def _porter() -> Callable[[str], str]:
    return _stemmer("porter")
