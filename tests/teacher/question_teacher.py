"""A teacher on loopback that asks about colours of things, and answers its own questions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kard.prompt import same_answer
from tests.conftest import COLOURS, PLACES, THINGS
from tests.teacher.fault_server import completion

FACT = re.compile(r"The (\w+) of the (\w+) is (\w+)\.")
LATER = "This was asked for later."
ASKED = re.compile(r"(\w+) of the (\w+)")


def documents(count: int) -> dict[str, str]:
    """Markdown files by name: each tells the colour of one thing, in words that tiny models know."""
    pairs = [(thing, place) for thing in THINGS for place in PLACES][:count]
    return {
        f"{thing}-{place}.md": (
            f"# The {thing} of the {place}\n\nThe {thing} of the {place} is {COLOURS[number % len(COLOURS)]}. "
            f"As one sees from the {place}, it is so in the day and in the night, in the light and in the dark, for all of us.\n"
        )
        for number, (thing, place) in enumerate(pairs)
    }


def write_documents(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for name, text in documents(count).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"] if "messages" in body else body["prompt"]


def sized(body: dict[str, Any], text: str) -> dict[str, Any]:
    """A reply with its tokens counted as four characters each."""
    return {"body": completion(text, tokens=(len(prompt_of(body)) // 4, max(1, len(text) // 4)))}


def asks_and_answers(body: dict[str, Any], attempt: int = 1) -> dict[str, Any]:
    """A good question for each passage; the right answer from a passage, and none from memory."""
    last = prompt_of(body).rpartition("\n\n")[2]
    if last.endswith("Answer:"):
        return sized(body, answered(last))
    if last.endswith("Explanation:"):
        return sized(body, explained(last))
    facts = FACT.findall(last)
    return sized(body, asked(prompt_of(body), last, facts))


def asked(prompt: str, last: str, facts: list[tuple[str, str, str]]) -> str:
    thing, place, colour = facts[0]
    why = (
        f"\nExplanation: As one sees from the {place}, the {thing} of the {place} has a colour of its own in the day and in the "
        f"night. Of all the colours, in the light as in the dark, it has this one. So the {thing} of the {place} is {colour}."
    )
    others = [other for other in COLOURS if other not in [fact[2] for fact in facts]]
    if "three wrong" in prompt:
        wrong = "".join(f"\nWrong: {other}" for other in others[:3])
        return f" Which colour has the {thing} of the {place}?\nAnswer: {colour}{wrong}{why}"
    if "Wanted answer:" in last:
        said = colour if "Wanted answer: yes" in last else others[0]
        return f"Question: Has the {thing} of the {place} the colour {said}?{why}"
    if "compare" in prompt:
        other = facts[1]
        names = f"the {thing} of the {place} or the {other[0]} of the {other[1]}"
        return (
            f"Question: What is {colour}, {names}?\nAnswer: the {thing} of the {place}\n"
            f"Wrong: the {other[0]} of the {other[1]}{why}"
        )
    if "does not answer" in prompt:
        return f"How old is the {thing} of the {place}?"
    return f"Question: Of which colour is the {thing} of the {place}?\nAnswer: {colour}{why}"


def explained(last: str) -> str:
    thing, place = ASKED.findall(last)[-1]
    right = re.findall(r"Answer: (?:\([A-Z]\) )?(.*)", last)[-1]
    return f"{LATER} As one sees from the {place}, the {thing} has a colour of its own in the day. So the answer is {right}."


def answered(last: str) -> str:
    facts = {(thing, place): colour for thing, place, colour in FACT.findall(last)}
    question = re.findall(r"Question: (.*)", last)[-1]
    if not facts:
        return "not known"
    if "How old" in question:
        return "not told"
    colour = next((facts[pair] for pair in ASKED.findall(question) if pair in facts), "")
    choices = dict(re.findall(r"\(([A-Z])\) (.*)", last))
    if set(choices.values()) == {"yes", "no"}:
        right = "yes" if f"the colour {colour}?" in question else "no"
    elif question.startswith("What is "):
        said = question.split()[2].rstrip(",")
        right = next(f"the {thing} of the {place}" for (thing, place), own in facts.items() if own == said)
    else:
        right = colour
    return next((f"({letter})" for letter, choice in choices.items() if same_answer(choice, right)), right)


def instead(change: Callable[[str, str], str | None]) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    """The teacher, but for the replies that `change` makes of a prompt's last part and the good reply."""

    def answer(body: dict[str, Any], attempt: int) -> dict[str, Any]:
        good = asks_and_answers(body)["body"]["choices"][0]["message"]["content"]
        return sized(body, change(prompt_of(body).rpartition("\n\n")[2], good) or good)

    return answer
