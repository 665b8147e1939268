"""The split of questions into train, dev and test."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kard.data.normal import normalised
from kard.data.question import Question
from kard.errors import UserError
from kard.recipe.sections import QuestionsSection

SPLITS = ("train", "dev", "test")
DEV_SHARE, TEST_SHARE = 0.1, 0.2


def split_by_text(questions: Sequence[Question], section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Split so that a question stays on one side; test is drawn first, so that other sizes never change it.

    Questions are the same if text and choices are, whatever their case, punctuation and order of choices.
    """
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        same = (normalised(question.question), *sorted(map(normalised, question.choices)))
        groups.setdefault(same, []).append(question)
    order = sorted(groups.values(), key=lambda group: min(map(_whole_text, group)))
    random.Random(seed).shuffle(order)
    wanted = {
        "test": section.test_size or round(TEST_SHARE * len(questions)),
        "dev": section.dev_size or round(DEV_SHARE * len(questions)),
        "train": section.train_size or len(questions),
    }
    splits: dict[str, list[Question]] = {name: [] for name in SPLITS}
    rest = iter(order)
    for name, size in wanted.items():
        while len(splits[name]) < size and (group := next(rest, None)) is not None:
            splits[name] += group[: size - len(splits[name])]
    return splits


def as_published(
    splits: dict[str, list[Question]], section: QuestionsSection, seed: int, name: str
) -> dict[str, list[Question]]:
    """A dataset in its own split.

    One without test questions is tested on its dev questions, and one with a single split is split by the seed, as one JSONL file
    is. One without dev gives ``dev_size`` training questions as dev, if the recipe asks for that.

    Raises:
        UserError: There is no question.
    """
    if not splits["test"]:
        splits = {"train": splits["train"], "dev": [], "test": splits["dev"]}
    given = [questions for questions in splits.values() if questions]
    if not given:
        raise UserError(f"{name}: holds no question. Give the questions as a file (kind jsonl).")
    if len(given) == 1:
        return split_by_text(given[0], section, seed)
    if not splits["dev"] and section.dev_size:
        splits["dev"] = sample(splits["train"], section.dev_size, seed)
        taken = {question.id for question in splits["dev"]}
        splits["train"] = [question for question in splits["train"] if question.id not in taken]
    return sampled(splits, section, seed)


def numbered(questions: Iterable[Question], split: str) -> list[Question]:
    """The questions with their places in a split's rows."""
    return [replace(question, row=f"{split}/{number}") for number, question in enumerate(questions)]


def sampled(splits: dict[str, list[Question]], section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """So many of each split as the recipe says, in their order."""
    return {name: sample(splits[name], section.sizes[name], seed) for name in SPLITS}


def sample(questions: list[Question], size: int | None, seed: int) -> list[Question]:
    """So many of the questions, drawn by the seed, in their order; None: all."""
    if size is None or size >= len(questions):
        return questions
    kept = set(random.Random(seed).sample(range(len(questions)), size))
    return [question for index, question in enumerate(questions) if index in kept]


def shuffled(question: Question, seed: int) -> Question:
    """The question with its choices in an order that depends on the seed and its id only."""
    if not question.choices:
        return question
    order = list(range(len(question.choices)))
    random.Random(f"{seed}:{question.id}").shuffle(order)
    answer = order.index(question.answer) if isinstance(question.answer, int) else question.answer
    return replace(question, choices=tuple(question.choices[i] for i in order), answer=answer)


def _whole_text(question: Question) -> str:
    return normalised(question.query("question_and_choices"))
