"""Prompts that fit into what a student reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from transformers import PreTrainedTokenizerFast

from kard.errors import UserError
from kard.methods import Writes
from kard.prompt import AnswerAs, render, shorten_passages, shorten_question, with_examples


class PromptSettings(Protocol):
    """What decides how a prompt fits; the recipe's ``student`` and a student's settings have it."""

    @property
    def answer_as(self) -> AnswerAs:
        """How the answer is written."""
        ...

    @property
    def max_input_tokens(self) -> int:
        """Longest prompt."""
        ...

    @property
    def long_questions(self) -> Literal["cut", "stop"]:
        """Whether a question that does not fit is cut or an error."""
        ...


def fitting_prompt(
    tokenizer: PreTrainedTokenizerFast,
    settings: PromptSettings,
    question: str,
    choices: Sequence[str],
    passages: Sequence[str],
    writes: Writes,
    examples: Sequence[str] = (),
) -> str:
    """`prompt.render` with as many worked examples as there is room for, then as many words of the passages; of a question
    that does not fit alone, as many of its last words.

    Raises:
        UserError: The question is too long and must not be cut, or its choices alone are too long.
    """
    limit, answer_as = settings.max_input_tokens, settings.answer_as

    def fits(text: str) -> bool:
        # No tokenizer makes more tokens than bytes (and a few special ones): most prompts need no counting.
        return len(text.encode("utf-8")) + 2 <= limit or len(tokenizer(text).input_ids) <= limit

    def most(rendered: Callable[[int], str], least: int, words: int) -> str:
        low, high = least, words  # rendered(low) always fits
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(rendered(middle)) else (low, middle)
        return rendered(low)

    def with_words(words: int) -> str:
        return render(question, choices, shorten_passages(passages, words), writes, answer_as)

    def with_end(words: int) -> str:
        return render(shorten_question(question, words), choices, (), writes, answer_as)

    whole = render(question, choices, passages, writes, answer_as)
    for shown in range(len(examples), -1, -1):
        if fits(text := with_examples(examples[:shown], whole)):
            return text
    if fits(with_words(0)):
        return most(with_words, 0, sum(len(passage.split()) for passage in passages))
    if settings.long_questions == "stop" or not fits(with_end(1)):
        which, mend = ("what the model reads", "Take another model")
        if not examples:
            which, mend = "student.max_input_tokens", "Raise student.max_input_tokens"
        raise UserError(
            f"question '{question[:60]}…': longer than {which} ({limit}) even without passages. "
            f"{mend}, shorten the question, or set student.long_questions: cut."
        )
    return most(with_end, 1, len(question.split()))
