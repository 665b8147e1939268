"""Kinds of rationales, and the sentences that lead to the answer."""

import pytest

from kard.data.question import Question
from kard.teacher.kinds import kind_of, leading_to_answer

QUESTION = Question("q", "Which is a gas at room temperature?", ("iron", "oxygen", "salt water", "wood"), 1)
YES_NO = Question("y", "Can a penguin fly?", ("yes", "no"), 1)
OPEN = Question("o", "Where was Chopin born?", (), "Poland")

FACTS = "Oxygen boils at -183 degrees. So at room temperature it is oxygen that is a gas."
ELIMINATING = (
    "This question requires knowledge of states of matter. Oxygen boils far below zero. Option (A) is incorrect because iron is "
    "a metal. Option (C) is a liquid. Option (D) is incorrect because wood is solid."
)


@pytest.mark.parametrize(
    ("text", "question", "kind"),
    [
        (FACTS, QUESTION, "constructive"),
        ("It boils at -183 degrees, far below room temperature. So the answer is (B).", QUESTION, "constructive"),
        (ELIMINATING, QUESTION, "eliminating"),
        ("Iron is not a gas. Wood is not a gas. So it is oxygen.", QUESTION, "eliminating"),
        ("Oxygen boils early. None of the other options does.", QUESTION, "eliminating"),
        ("The answer is (B). It boils at -183 degrees.", QUESTION, "other"),
        ("Things boil at different temperatures.", QUESTION, "other"),
        ("Iron boils late. Wood burns before it boils. Water boils at 100 degrees. So oxygen is left.", QUESTION, "constructive"),
        ("Penguins have wings that are flippers. They do not lift the bird.", YES_NO, "constructive"),
        ("Chopin was born near Warsaw. Warsaw lies in Poland.", OPEN, "constructive"),
        ("Chopin was born near Warsaw.", OPEN, "other"),
        ("", QUESTION, "other"),
    ],
)  # fmt: skip
def test_kinds(text, question, kind):
    assert kind_of(text, question) == kind


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (FACTS, FACTS),
        (ELIMINATING, "Oxygen boils far below zero."),
        ("The answer is (B). Oxygen boils early.", "Oxygen boils early."),
        ("Option (B) is correct because oxygen boils early. Option (A) is not.", "Oxygen boils early."),
        ("Option (B) is correct because it boils early.", "oxygen boils early."),
        ("Oxygen boils early. That was found in 1877.", "Oxygen boils early."),
        ("Iron is no gas.", ""),
    ],
)
def test_what_leads_to_the_answer_is_kept(text, kept):
    assert leading_to_answer(text, QUESTION).lower() == kept.lower()


def test_choices_that_hold_pattern_characters_break_nothing():
    question = Question("q", "Which?", ("C++ (ISO)", "[a-z]*", "\\d", "none"), 1)
    for text in ("(A) is wrong. [a-z]* is right.", "C++ (ISO) is not it.", "Not (D)."):
        assert kind_of(text, question) in ("constructive", "eliminating", "other")
        leading_to_answer(text, question)
