"""The recipe's questions, read and split."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.kinds import questions_of
from kard.data.splits import shuffled
from kard.errors import UserError
from kard.recipe.sections import QuestionsSection


def load_splits(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Read the recipe's questions and split them.

    Args:
        section: The recipe's ``questions``.
        seed: Decides the split, the order and the shuffling of choices.

    Returns:
        The questions of ``train``, ``dev`` and ``test``; no question with the same choices is in more than one of them
        unless the dataset's own files say so.

    Raises:
        UserError: A file is missing or wrong, or there are too few questions for the sizes asked for.
    """
    splits = questions_of(section, seed)
    _check_sizes(splits, section)
    if section.shuffle_choices:
        splits = {name: [shuffled(question, seed) for question in splits[name]] for name in splits}
    return splits


def _check_sizes(splits: dict[str, list[Question]], section: QuestionsSection) -> None:
    for name, size in (("test", section.test_size), ("dev", section.dev_size), ("train", section.train_size)):
        if size is not None and len(splits[name]) < size:
            raise UserError(
                f"questions.{name}_size: {size} asked for, {len(splits[name])} there are. Lower it, or add questions."
            )
    for name in ("train", "test"):
        if not splits[name]:
            raise UserError(
                f"{section.path or section.train or section.kind}: no question is left for {name}. "
                "Add questions, or lower the other sizes."
            )
