"""The paper's datasets from the dataset hub: what all of them share. Nothing is downloaded unless a recipe asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from kard.data.question import Question
from kard.data.readers import arc, medqa, openbookqa, pubmedqa, strategyqa
from kard.data.readers.rows import Row
from kard.data.splits import as_published
from kard.errors import UserError
from kard.progress import say
from kard.recipe.sections import QuestionsSection

# Of each kind: the dataset's name on the hub, the configurations that are put together, and what makes a question of a row.
DATASETS: dict[str, tuple[str, tuple[str | None, ...], Callable[[Row], Question]]] = {
    "arc": ("allenai/ai2_arc", ("ARC-Easy", "ARC-Challenge"), arc.question),
    "medqa": ("GBaker/MedQA-USMLE-4-options-hf", (None,), medqa.question),
    "openbookqa": ("allenai/openbookqa", ("additional",), openbookqa.question),
    "pubmedqa": ("qiaojin/PubMedQA", ("pqa_labeled",), pubmedqa.question),
    "strategyqa": ("ChilleD/StrategyQA", (None,), strategyqa.question),
}
# The hub's names of the splits, by ours.
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def read_from_hub(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Train, dev and test of the dataset that the recipe names, in the dataset's own split (`as_published`).

    Raises:
        UserError: The dataset cannot be loaded, or its rows are not what they were.
    """
    name, configs, question_of = DATASETS[section.kind]
    parts = [load(name, config) for config in configs]
    splits = {
        ours: [one for part in parts for one in _questions(name, ours, part.get(theirs, ()), question_of)]
        for ours, theirs in _SPLITS.items()
    }
    return as_published(splits, section, seed, name)


def load(name: str, config: str | None = None, **options: Any) -> Any:
    """What ``datasets.load_dataset`` returns, or a UserError that says what to do."""
    try:
        from datasets import load_dataset
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of the HTTP client, no OSError
    except ImportError as error:
        raise UserError(
            f"{name}: the package datasets is not installed. Run: pip install 'kard[hub]', or give "
            "files of your own (kind jsonl)."
        ) from error
    try:
        return load_dataset(name, config, **options)
    except (OSError, ValueError, HTTPError) as error:  # no network, offline mode, no such dataset or configuration
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
