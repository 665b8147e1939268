"""Conversations as OpenAI's fine-tuning takes them: the first question of a user, and what the assistant answers to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from kard.data.question import Question
from kard.data.readers.rows import Row, shown

_OPTION = re.compile(r"\s*[(\[]?([A-Z])[).:\]]\s*(\S.*?)\s*")
_CUE = re.compile(r"(?:^|\n)\W*(?:final )?answer\W*:\W*|\n#### ", re.IGNORECASE)
_LETTER = re.compile(r"[(\[]?([A-Z])(?![\w'])[).:\]]?")


def questions(row: Row, source: str, left: Counter[str]) -> Iterator[Question]:
    """From ``messages``: lines that begin with A), B) … are choices; what stands in front of a last ``Answer:`` is a rationale.

    Later turns, which nobody understands without the first, and system messages are not read; `left` counts them.
    """
    messages = row["messages"]
    turns = [one for one in messages if one["role"] in ("user", "assistant")]
    pairs = [pair for pair in pairwise(turns) if [one["role"] for one in pair] == ["user", "assistant"]]
    left["system messages are not read"] += len(messages) - len(turns)
    left["later turns are not read: only the first question of a conversation stands alone"] += len(pairs[1:])
    if not pairs or not (_text(pairs[0][0]) and _text(pairs[0][1])) or pairs[0][1].get("weight") == 0:
        left["conversations left out: no question with an answer to learn from"] += 1
        return
    asked, reply = map(_text, pairs[0])
    question, choices = _choices(asked)
    rationale, answer = _parts(reply, choices)
    if isinstance(answer, str):  # none of the choices
        question, choices = asked, ()
    yield Question(source, question, choices, answer, rationales=(rationale,) if rationale else ())


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    if not all(isinstance(part.get("text"), str) for part in parts):
        raise ValueError(f"'content' is {shown(content)}, and should be text")
    return "\n".join(part["text"] for part in parts).strip()


def _choices(text: str) -> tuple[str, tuple[str, ...]]:
    """A text without its lines A), B) …, and these."""
    lines = [(line, _OPTION.fullmatch(line)) for line in text.split("\n")]
    options = [found for _, found in lines if found]
    rest = "\n".join(line for line, found in lines if not found).strip()
    if len(options) < 2 or [found[1] for found in options] != list(ascii_uppercase[: len(options)]) or not rest:
        return text, ()
    return rest, tuple(found[2] for found in options)


def _parts(reply: str, choices: tuple[str, ...]) -> tuple[str, int | str]:
    """Rationale and answer: what follows the last ``Answer:``, or, where there are choices, what the reply begins with."""
    if cues := list(_CUE.finditer(reply)):
        rationale, answer = reply[: cues[-1].start()].strip(), reply[cues[-1].end() :].strip()
    else:
        answer, _, rationale = reply.partition("\n") if choices else (reply, "", "")
    place = _place(answer, choices)
    return rationale.strip(), answer if place is None else place


def _place(answer: str, choices: tuple[str, ...]) -> int | None:
    """Which choice is meant, by its text or its letter."""
    if answer in choices:
        return choices.index(answer)
    found = _LETTER.match(answer)
    place = ascii_uppercase.index(found[1]) if found else len(choices)
    rest = answer[found.end() :].strip() if found else ""
    fits = place < len(choices) and rest.rstrip(".") in ("", choices[place].rstrip("."))
    return place if fits else None
