"""Generated questions: what one is, how it stands in a file, and how it is read off a teacher's reply."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from kard.artifacts.files import read_jsonl, write_jsonl
from kard.data.draw import Drawn
from kard.data.normal import words_of
from kard.data.passage import Passage
from kard.data.question import Question
from kard.recipe.sections import GeneratedKind
from kard.teacher.replies import first_words

GeneratedStatus = Literal[
    "kept",
    "unparsable",
    "too_long",
    "not_self_contained",
    "copied_sentence",
    "two_right",
    "unsupported",
    "gives_itself_away",
    "near_duplicate",
    "round_trip",
    "known_by_heart",
    "rejected",
    "refused",
    "truncated",
    "error",
]
MOST_WRONG = 3
_LABEL = re.compile(
    r"^[\s>#*_-]*(?:\d+[.)]\s*)?[*_]*(passage|question|wanted answer|(?:right |correct )?answer|(?:wrong|incorrect|other)"
    r"(?: answers?| choices?| options?)?|explanation|rationale)s?(?:[ #]*\d+)?[*_]*\s*[:：][*_]*[ \t]*",
    re.IGNORECASE,
)
_ASKS = re.compile(r"[?？؟]|[;\u037e]$")  # as Latin, Chinese, Arabic and Greek ask
_ASKS_FOR_MORE = re.compile(r"^\W*(?:what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)  # than yes or no
_ECHOED = 0.5  # share of a repeated passage's words that are the passage's
_NUMBER = re.compile(r"^\d[.)]\s+")
_LIST_MARK = re.compile(r"^\s*(?:[-*•]\s+)?(?:\(?[A-Da-d]\)\s*)?")


@dataclass(frozen=True)
class Generated:
    """A question that a teacher was asked for, with what became of it.

    Attributes:
        id: Kind, and a digest of what it asks about what: the same reply has the same id in every run.
        kind: Of the question.
        split: The one that it was asked for.
        question: The text; empty where the reply held none.
        choices: In the order in which they are shown.
        answer: As in `kard.data.question.Question`; None where there is none.
        passages: Ids of the passages that it was made from.
        documents: Ids of their documents.
        status: ``kept``, or why it is not used.
        reason: The status in words, with what was found; empty where it was kept.
        rationale: The explanation that came with it.
        reviewer: Who has decided about it (``questions.reviewed``); empty where nobody has read it.
        usage: Tokens and seconds of all requests about it.
    """

    id: str
    kind: GeneratedKind
    split: str
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: int | str | None = None
    passages: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    status: GeneratedStatus = "kept"
    reason: str = ""
    rationale: str = ""
    reviewer: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def right(self) -> str:
        """The answer in words; empty where there is none."""
        return self.choices[self.answer] if isinstance(self.answer, int) else self.answer or ""

    @property
    def wrong(self) -> tuple[str, ...]:
        """The choices but for the right one."""
        return tuple(choice for place, choice in enumerate(self.choices) if place != self.answer)

    def as_question(self) -> Question:
        """What students learn from and are asked. A first piece of a document is named as ``#1``: its id means all of them."""
        pairs = zip(self.passages, self.documents, strict=True)
        gold = tuple(f"{name}#1" if name == document else name for name, document in pairs)
        rationales = (self.rationale,) if self.rationale else ()
        return Question(self.id, self.question, self.choices, self.answer, rationales, gold)

    def rejected(self, status: GeneratedStatus, reason: str) -> Generated:
        """The question with a status that isn't kept."""
        return replace(self, status=status, reason=reason)


def as_asked(one: Generated) -> Generated:
    """The question as its teacher has to answer it: no in front of yes. Models prefer yes, and what comes first; where both are
    the same choice, they confirm whatever they have asked."""
    if one.kind != "yes_no" or one.answer is None:
        return one
    return replace(one, choices=one.choices[::-1], answer=one.choices[::-1].index(one.right))


def write_generated(path: Path, generated: Iterable[Generated]) -> None:
    """Write generated questions as JSONL, kept and rejected alike."""
    write_jsonl(path, (asdict(one) for one in generated))


def read_generated(path: Path) -> list[Generated]:
    """Read what `write_generated` wrote."""
    lists = ("choices", "passages", "documents")
    return [Generated(**row | {name: tuple(row[name]) for name in lists}) for row in read_jsonl(path)]


def from_reply(text: str, drawn: Drawn, passages: Sequence[Passage]) -> Generated:
    """Read a question off a reply; ``unparsable`` where something is missing.

    Args:
        text: In labelled lines, ``Question:`` (may be left out at the beginning), ``Answer:``, ``Wrong:``, ``Explanation:``; the
            passage may be repeated in front of them.
        drawn: What was asked for.
        passages: Those that it is about.
    """
    parts = _parts(text)
    question = " ".join(parts.get("question", ()))
    answer = _cleaned(" ".join(parts.get("answer", ()))) or drawn.wanted
    documents = tuple(passage.document for passage in passages)
    made = Generated(
        "", drawn.kind, drawn.split, question, (), answer or None, tuple(one.id for one in passages), documents
    )
    made = replace(made, rationale=" ".join(parts.get("explanation", ())))
    if drawn.kind in ("multiple_choice", "comparison"):
        every: dict[str, str] = {}
        for one in filter(None, (answer, *map(_cleaned, _without_numbers(parts.get("wrong", []))))):
            every.setdefault(one.casefold(), one)
        made = replace(made, choices=tuple(every.values())[: MOST_WRONG + 1], answer=0 if answer else None)
    elif drawn.kind == "yes_no":
        stated = [word for word in words_of(answer)[:1] if word in ("yes", "no")]
        made = replace(made, choices=("yes", "no"), answer=("yes", "no").index(stated[0]) if stated else None)
    elif drawn.kind == "unanswerable":
        made = replace(made, answer=None, rationale="")
    made = replace(made, id=_identity(made, text))
    lacks = ""
    if not _ASKS.search(question):
        lacks = "question"
    elif not _is_echo(parts.get("passage", ()), passages):
        lacks = "question about this passage"
    elif drawn.kind == "yes_no" and _ASKS_FOR_MORE.search(question):
        lacks = "question for yes or no"
    elif ends_with_question(made):
        lacks = "answer"
    return made.rejected("unparsable", f"no {lacks} in “{first_words(text)}”") if lacks else made


def ends_with_question(made: Generated) -> bool:
    """Whether a reply has a question, and no answer that belongs to one of its kind."""
    return made.kind != "unanswerable" and made.answer is None and _ASKS.search(made.question) is not None


def gone_on(begun: str, rest: str) -> str:
    """A reply that ended with its question, with what was written behind it later: the answer, or all of it once more."""
    label = _LABEL.match(rest)
    if label and "question" in label[1].lower():
        return rest
    return f"{begun}\n{rest if label else f'Answer: {rest}'}"


def _parts(text: str) -> dict[str, list[str]]:
    """The lines behind each label, of the first question alone; what stands before any label belongs to the question, and what
    was repeated in front of it is the passage."""
    parts: dict[str, list[str]] = {}
    label = "question"
    for line in text.strip().splitlines():
        if found := _LABEL.match(line):
            word = found[1].lower()
            label = next((name for name in ("wrong", "answer", "question", "passage") if name in word), "")
            label = {"incorrect": "wrong", "other": "wrong"}.get(word.split()[0], label) or "explanation"
            if label in ("passage", "question") and parts.get("question"):
                break
            line = line[found.end() :]
        if line.strip():
            parts.setdefault(label, []).append(" ".join(line.split()).strip("*_ "))
    return parts


def _is_echo(lines: Sequence[str], passages: Sequence[Passage]) -> bool:
    """Whether a passage that was repeated is one of those that were shown, and not a worked example's or an invented one."""
    said = words_of(" ".join(lines))
    shown = set(words_of(" ".join(passage.full_text for passage in passages)))
    return sum(word in shown for word in said) >= _ECHOED * len(said)


def _without_numbers(choices: Sequence[str]) -> list[str]:
    """Choices without the numbers that a list gave them; where only some have one, it belongs to them."""
    numbered = len(choices) > 1 and all(map(_NUMBER.match, choices))
    return [_NUMBER.sub("", choice) for choice in choices] if numbered else list(choices)


def _cleaned(choice: str) -> str:
    """A choice without what marks it as one of a list, and without a full stop that closes it."""
    plain = _LIST_MARK.sub("", choice).strip()
    return plain.removesuffix(".") if plain.count(".") == 1 else plain


def _identity(made: Generated, reply: str) -> str:
    held = [made.kind, *made.passages, made.question, made.right, *sorted(made.wrong), "" if made.question else reply]
    return f"{made.kind}-{blake2b(chr(0).join(held).encode('utf-8', 'surrogatepass'), digest_size=6).hexdigest()}"


def used(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Requests, tokens and seconds of several requests together, as far as they are known."""
    known = [usage for usage in usages if usage]
    names = ("prompt_tokens", "completion_tokens", "seconds")
    total = {name: sum(usage.get(name) or 0 for usage in known) for name in names}
    return {"requests": sum(usage.get("requests", 1) for usage in known), **total} if known else {}
