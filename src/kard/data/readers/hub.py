"""The paper's datasets from the dataset hub: what all of them share. Nothing is downloaded unless a recipe asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kard.data.question import Question
from kard.data.readers.jsonl import sample
from kard.data.splits import SPLITS, split_by_text
from kard.errors import UserError
from kard.progress import say
from kard.recipe import QuestionsSection

Row = Mapping[str, Any]
# The hub's names of the splits, by ours.
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def read_from_hub(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Train, dev and test of the dataset that the recipe names, in the dataset's own split.

    A dataset with one split only is split by the seed, as one JSONL file is; one without dev gives ``dev_size`` training
    questions as dev, if the recipe asks for that.
    """
    from kard.data.readers import arc, medqa, openbookqa, pubmedqa, strategyqa

    readers = {
        "arc": arc.read,
        "medqa": medqa.read,
        "openbookqa": openbookqa.read,
        "pubmedqa": pubmedqa.read,
        "strategyqa": strategyqa.read,
    }
    splits = readers[section.kind]()
    if not splits["test"]:
        return split_by_text(splits["train"], section, seed)
    if not splits["dev"] and section.dev_size:
        splits["dev"] = sample(splits["train"], section.dev_size, seed)
        taken = {question.id for question in splits["dev"]}
        splits["train"] = [question for question in splits["train"] if question.id not in taken]
    sizes = {"train": section.train_size, "dev": section.dev_size, "test": section.test_size}
    return {name: sample(splits[name], sizes[name], seed) for name in SPLITS}


def read_dataset(
    name: str, question_of: Callable[[Row], Question], config: str | None = None
) -> dict[str, list[Question]]:
    """Questions of a dataset by split; a split that it lacks is empty.

    Args:
        name: The dataset's name on the hub.
        question_of: Makes a question of a row.
        config: Which of the dataset's configurations.

    Raises:
        UserError: The dataset cannot be loaded, or its rows are not what they were.
    """
    loaded = load(name, config)
    splits = {ours: _questions(name, ours, loaded.get(theirs, ()), question_of) for ours, theirs in _SPLITS.items()}
    if not splits["train"]:
        raise UserError(f"{name}: holds no training question. Give the questions as a file (kind jsonl).")
    return splits


def load(name: str, config: str | None = None, **options: Any) -> Any:
    """What ``datasets.load_dataset`` returns, or a UserError that says what to do."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(
            f"{name}: the package datasets is not installed. Run: pip install 'kard[hub]', or give "
            "files of your own (kind jsonl)."
        ) from error
    try:
        return load_dataset(name, config, **options)
    except (OSError, ValueError) as error:  # no network, offline mode, no such dataset or configuration
        raise UserError(
            f"{name}: cannot be loaded from the dataset hub ({type(error).__name__}: {error}). Run it once with a "
            "network (it stays in the cache), or give files of your own (kind jsonl)."
        ) from error


def _questions(name: str, split: str, rows: Iterable[Row], question_of: Callable[[Row], Question]) -> list[Question]:
    questions, unclear = [], 0
    for number, row in enumerate(rows):
        try:
            question = question_of(row)
        except (KeyError, ValueError, TypeError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{name}, {split} row {number}: {what}. Its columns are {', '.join(row)}. Give the questions as a file "
                "(kind jsonl)."
            ) from error
        if question.choices.count(question.answer_text) == 1:
            questions.append(replace(question, row=f"{split}/{number}"))
        else:
            unclear += 1
    if unclear:
        say(f"  {name}: {unclear} {split} questions left out, whose right choice is there twice")
    return questions


def text_in(row: Row, column: str) -> str:
    """A row's text; ValueError where it is none, or blank."""
    found = row[column]
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"'{column}' is {shown(found)}, and should be a text")
    return found


def fact_in(row: Row, column: str) -> tuple[str, ...]:
    """A row's text, or texts, as a rationale; none where it has none."""
    found = row[column]
    texts = [found] if isinstance(found, str) else [] if found is None else found
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"'{column}' is {shown(found)}, and should be a text or a list of texts")
    joined = " ".join(text for text in texts if text.strip())
    return (joined,) if joined else ()


def place_of(value: object, allowed: Sequence[object], column: str) -> int:
    """Which of the allowed values a column holds; ValueError where it is none of them (True is not 1 here)."""
    places = [place for place, one in enumerate(allowed) if type(one) is type(value) and one == value]
    if len(places) != 1:
        raise ValueError(f"'{column}' is {shown(value)}, and should be one of {', '.join(map(repr, allowed))}")
    return places[0]


def shown(value: object) -> str:
    """What was found, not longer than a message should be."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + " …"


def lettered(kind: str, row: Row, text: str, rationales: tuple[str, ...] = ()) -> Question:
    """A question of the Allen Institute's sets: choices with labels (letters, or digits in some), and the right one's label."""
    choices = row["choices"]
    texts, labels = (list(choices[key]) for key in ("text", "label")) if isinstance(choices, Mapping) else ([], [])
    if len(texts) != len(labels) or len(texts) < 2 or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(
            f"'choices' is {shown(choices)}, and should have a label and a text for each of several choices"
        )
    return Question(
        id=f"{kind}:{text_in(row, 'id')}",
        question=text,
        choices=tuple(texts),
        answer=place_of(row["answerKey"], labels, "answerKey"),
        rationales=rationales,
    )
