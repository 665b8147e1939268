"""From text to terms: words, stop words, stems. An index keeps its analysis, and queries go through the same one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from itertools import count
from typing import Any

import numpy as np

from kard.data.normal import UNSEEN, composed, folded, loose
from kard.errors import UserError
from kard.progress import say
from kard.recipe import RetrieverSection

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
_ASCII_WORD = re.compile("[a-z0-9_]{2,}")
_CHARACTERS = 0x32400  # all letters, digits and marks are below


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
        """Terms of texts, as queries have them.

        Returns:
            The different terms as sorted 64-bit digests, the numbers of the texts' terms among them, and where each text's
            begin (and the end), one more than texts.
        """
        return self._terms([self.words(text)[0] for text in texts])

    def indexed(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Terms of texts as an index has them: beside pairs of characters their single ones, so that one character finds.

        Returns:
            As `terms`; and each text's length in terms, in which single characters of pairs do not count.
        """
        found = [self.words(text) for text in texts]
        digests, numbers, bounds = self._terms([[*words, *singles] for words, singles in found])
        return (
            digests,
            numbers,
            bounds,
            np.diff(bounds) - np.array([len(singles) for _, singles in found], dtype=np.int64),
        )

    def words(self, text: str) -> tuple[list[str], list[str]]:
        """Words and pairs of characters of a text, and the single characters of pairs."""
        if self.analyzer == "lucene":
            return list(filter(None, _lucene_words().findall(composed(text)))), []
        text = folded(text)
        if text.isascii():  # most texts: a small set of characters is searched for far faster
            return _ASCII_WORD.findall(text), []
        pattern, paired = _standard_words()
        found = pattern.findall(text)
        if not paired.search(text):
            return found, []
        words: list[str] = []
        singles: list[str] = []
        for word in found:
            if paired.match(word):
                words += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
                singles += word if len(word) > 1 else ""
            else:
                words.append(word)
        return words, singles

    def _terms(self, texts: list[list[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
        numbers = np.array([vocabulary[word] for words in texts for word in words], dtype=np.int64)
        if len(self._digests) > _KNOWN_WORDS:
            self._digests.clear()
        of_words = np.array([self._digests[word] for word in vocabulary], dtype=np.uint64)
        digests, places = np.unique(of_words, return_inverse=True)
        stopped = int(len(digests) > 0 and digests[0] == 0)
        found = (places - stopped)[numbers]
        ends = np.cumsum([0, *map(len, texts)])
        return digests[stopped:], found[found >= 0], np.concatenate(([0], np.cumsum(found >= 0)))[ends]

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


def _characters(pattern: str) -> str:
    """A set of the module regex as a set of the module re, which finds words eight times as fast."""
    import regex

    every = "".join(map(chr, range(_CHARACTERS)))
    spans = (found.span() for found in regex.finditer(f"(?:{pattern})+", every, regex.V1))
    return "[" + "".join(rf"\U{begin:08x}-\U{end - 1:08x}" for begin, end in spans) + "]"


@cache
def _standard_words() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Words of two characters and more or stretches of characters taken in pairs; and a character of the latter."""
    paired = _characters(_PAIRED)
    words = _characters(rf"[[\p{{L}}\p{{N}}\p{{M}}_]--{_PAIRED}]")
    return re.compile(f"{words}{{2,}}|{paired}+"), re.compile(paired)


@cache
def _lucene_words() -> re.Pattern[str]:
    """Words as Unicode Standard Annex 29 has them, in Lucene 9's reading of it; connectors alone are an empty match."""
    alone = r"[\p{Script=Han}\p{Script=Hiragana}]"
    combined = r"[[\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]&&\p{L}]"

    def kind(*names: str) -> str:
        breaks = "".join(rf"\p{{WB={name}}}" for name in names)
        return _characters(rf"[[{breaks}]--[:{alone}{combined}]]")

    marks = kind("Extend", "Format", "ZWJ") + "*+"
    letter, digit, katakana = kind("ALetter", "Hebrew_Letter"), kind("Numeric"), kind("Katakana")
    connector = f"{kind('ExtendNumLet')}{marks}"
    # A full stop or an apostrophe stands between two letters or two digits.
    in_word = f"(?:{kind('MidLetter', 'MidNumLet', 'Single_Quote')}|:){marks}(?={letter})"
    in_number = f"{kind('MidNum', 'MidNumLet', 'Single_Quote')}{marks}(?={digit})"
    run = f"(?:(?:{letter}++{marks}(?:{in_word})?|{digit}++{marks}(?:{in_number})?)++|(?:{katakana}{marks})++)"
    word = f"(?:{connector})*{run}(?:(?:{connector})++{run}?)*+"
    others = f"{_characters(alone)}{marks}|(?:{_characters(combined)}{marks})++"
    return re.compile(f"({word}|{others})|(?:{connector})+")


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
