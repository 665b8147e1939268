"""What a student is taught to write is what is read off its text, for every choice and every form of answer."""

from __future__ import annotations

from string import ascii_uppercase

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kard.errors import UserError
from kard.prompt import (
    ANSWER_CUE,
    RATIONALE_CUE,
    Extraction,
    WorkedExample,
    check_letters,
    examples_in,
    extract,
    render,
    same_answer,
    shorten_passages,
    shown_answer,
    target,
    with_examples,
    with_rationale,
    without_rationale,
)

FORMS = ("text", "letter", "both")
METALS = ("Iron", "Copper", "Gold")

texts = st.text(min_size=1, max_size=25).filter(str.strip)
overlapping = st.sampled_from(
    [
        "Iron",
        "Iron Age",
        "the Iron Age",
        "iron",
        "Age",
        "C",
        "C++",
        "C#",
        "+5",
        "-5",
        "5 %",
        "5",
        "A",
        "B",
        "(B) x",
        "no",
    ]
)


def one_line(text: str) -> str:
    return " ".join(text.split())


@given(st.lists(texts | overlapping, min_size=2, max_size=26, unique_by=one_line), texts, st.sampled_from(FORMS))
@example(["Iron", "Iron Age"], "In the Iron Age.", "text")
@example(["C", "C++", "C#"], "So.\nAnswer: C", "text")
@example(["the who", "who", "The Who"], "x", "both")
@example(["B", "A"], "x", "both")
@example([f"choice {number}" for number in range(26)], "x", "letter")
def test_what_is_taught_is_read(choices, rationale, answer_as):
    assume(not any(ANSWER_CUE in one_line(choice) for choice in choices))
    for index in range(len(choices)):
        answer = shown_answer(choices, index, answer_as)
        written = target(rationale, answer, "rationale")
        assert extract(written, choices, "rationale", answer_as) == Extraction(one_line(rationale), index)
        assert extract(target("", answer, "answer"), choices, "answer", answer_as) == Extraction("", index)


@given(texts, texts)
def test_an_open_answer_is_read(rationale, answer):
    assume(ANSWER_CUE not in one_line(answer))
    written = target(rationale, shown_answer((), answer, "text"), "rationale")
    read = extract(written, (), "rationale")
    assert read == Extraction(one_line(rationale), one_line(answer))
    assert same_answer(read.answer, answer)


@given(texts, st.lists(texts, max_size=5), st.lists(texts, max_size=3), st.sampled_from(FORMS), st.booleans())
def test_a_prompt_has_a_line_for_each_part(question, choices, passages, answer_as, explains):
    prompt = render(question, choices, passages, "rationale" if explains else "answer", answer_as)
    lines = prompt.split("\n")
    expected = [f"Passage: {one_line(passage)}" for passage in passages]
    expected += [f"Question: {one_line(question)}"]
    if choices:
        shown = [one_line(choice) for choice in choices]
        letters = [f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, shown, strict=False)]
        expected += ["Choices:", *(f"- {choice}" for choice in (shown if answer_as == "text" else letters))]
    assert lines == [*expected, RATIONALE_CUE if explains else ANSWER_CUE]


def test_prompt_and_target_as_a_whole():
    prompt = render("What rusts?", METALS, ["Rust. Iron\nrusts."], "rationale", "both")
    assert prompt == (
        "Passage: Rust. Iron rusts.\nQuestion: What rusts?\nChoices:\n- (A) Iron\n- (B) Copper\n- (C) Gold\nExplanation:"
    )
    assert target("Iron\nrusts.", shown_answer(METALS, 0, "both"), "rationale") == " Iron rusts.\nAnswer: (A) Iron"
    assert target("Iron rusts.", shown_answer(METALS, 0, "letter"), "answer") == " (A)"


@pytest.mark.parametrize(
    ("line", "letter", "both"),
    [
        ("(B)", 1, 1),
        ("B", 1, 1),
        ("B)", 1, 1),
        ("B.", 1, 1),
        ("b)", 1, 1),
        ("(b)", 1, 1),
        ("B: Copper", 1, 1),
        ("B, as it rusts", 1, 1),
        ("(B) Copper.", 1, 1),
        ("Option B", 1, 1),
        ("choice (B)", 1, 1),
        ("**B**", None, None),
        ("Copper", None, 1),
        ("copper is it.", None, 1),
        ("B Copper", None, 1),
        ("(A) Copper", 0, None),  # letter and text name two choices
        ("(B) Copper or Gold", 1, 1),
        ("(D)", None, None),
        ("(D) Copper", None, 1),
        ("A metal that rusts", None, None),  # the article is no letter
        ("I know not", None, None),
        ("", None, None),
    ],
)
def test_letters_are_read(line, letter, both):
    written = f" Because.\nAnswer: {line}"
    assert extract(written, METALS, "rationale", "letter").answer == letter
    assert extract(written, METALS, "rationale", "both").answer == both


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("Iron", 0),
        ("iron.", 0),
        ("  IRON!  ", 0),
        ("the Iron", 0),
        ("the answer is Iron Age.", 1),
        ("Iron Age, not bronze", 1),
        ("The Iron  Age", 1),
        ("It is K2.", 2),
        ("K2", 2),
        ("Iron and K2", None),
        ("K2 or the Iron Age", None),
        ("Iron, that is, the Iron Age", None),
        ("Irony", None),
        ("art", 3),
        ("Mozart", 4),
        ("art by Mozart", None),
        ("New York City", None),  # names New York as much as York City
        ("something else", None),
        ("", None),
    ],
)
def test_one_choice_is_read_and_never_a_guess(line, answer):
    choices = ("Iron", "Iron Age", "K2", "Art", "Mozart", "New York", "York City")
    assert extract(f"So it goes.\nAnswer: {line}", choices, "rationale").answer == answer
    assert extract(line, choices, "answer").answer == answer


def test_choices_that_differ_in_signs_alone():
    assert extract("C++", ("C", "C++"), "answer").answer == 1
    assert extract("c++", ("C#", "C++"), "answer").answer == 1
    assert extract("it is C", ("C#", "C++"), "answer").answer is None
    assert extract("Mm", ("mm", "Mm", "MM"), "answer").answer == 1
    assert extract("mM", ("mm", "Mm", "MM"), "answer").answer is None


def test_without_the_cue_nothing_is_read():
    assert extract(" Iron rusts. ", METALS, "rationale") == Extraction("Iron rusts.", None)
    assert extract("", METALS, "rationale") == Extraction("", None)


def test_the_last_cue_counts_and_only_its_line():
    written = "Answer: Gold is wrong.\nAnswer:\n\n Copper\nIron too"
    assert extract(written, METALS, "rationale") == Extraction("Answer: Gold is wrong.", 1)


@pytest.mark.parametrize(
    ("given", "gold", "same"),
    [
        (1, 1, True),
        (0, 1, False),
        (0, 0, True),
        (None, 0, False),
        (None, "x", False),
        ("Zürich", "zürich.", True),
        ("the Iron Age", "Iron  age", True),
        ("A dog", "dog!", True),
        ("An_owl", "owl", True),
        ("Straße", "STRASSE", True),
        ("the", "the", True),
        ("a", "the", False),
        ("+", "-", False),
        ("+", " + ", True),
        ("Iron", "Iron Age", False),
        ("0", 0, False),
    ],
)
def test_open_answers_are_compared_without_case_punctuation_and_articles(given, gold, same):
    assert same_answer(given, gold) is same


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (100, ["one two three", "four five", "six"]),
        (6, ["one two three", "four five", "six"]),
        (5, ["one two three", "four five"]),
        (4, ["one two three", "four"]),
        (1, ["one"]),
        (0, []),
        (-3, []),
    ],
)
def test_the_last_passages_are_shortened_first(words, kept):
    assert shorten_passages(["one two\nthree", "four  five", "six"], words) == kept


def test_letters_need_choices_and_not_more_than_the_alphabet():
    for answer_as in ("letter", "both"):
        with pytest.raises(UserError, match=rf"q\.jsonl:3: has no choices.*'{answer_as}'.*student\.answer_as: text"):
            check_letters((), answer_as, "q.jsonl:3")
        with pytest.raises(UserError, match=r"q\.jsonl:3: has more choices than there are letters"):
            check_letters(["x"] * 27, answer_as, "q.jsonl:3")
        check_letters(["x"] * 26, answer_as, "here")
    check_letters((), "text", "here")
    check_letters(["x"] * 27, "text", "here")


EXAMPLE = WorkedExample("Which metal rusts?", METALS, ("Iron. It\nrusts.",), "Iron  rusts.", "(A) Iron")


def test_a_worked_example_is_a_prompt_with_its_target():
    prompt = render(EXAMPLE.question, METALS, ["Iron. It rusts."], "rationale", "both")
    assert EXAMPLE.shown(True, "rationale", "both") == f"{prompt} Iron rusts.\nAnswer: (A) Iron"
    assert EXAMPLE.shown(False, "answer", "both").startswith("Question: Which metal rusts?")
    assert EXAMPLE.shown(False, "answer", "both").endswith("\nAnswer: (A) Iron")


@given(st.integers(0, 5), texts, st.lists(texts, max_size=3))
def test_worked_examples_can_be_counted(count, question, passages):
    prompt = render(question, METALS, passages, "rationale")
    shown = with_examples([EXAMPLE.shown(True, "rationale", "text")] * count, prompt)
    assert examples_in(shown) == count
    assert shown.endswith(prompt)


@given(texts, st.sampled_from(METALS))
def test_a_given_rationale_leaves_the_answer_to_write(rationale, answer):
    prompt = render("Which metal?", METALS, [], "rationale")
    told = with_rationale(prompt, rationale)
    assert f"{told} {answer}" == prompt + target(rationale, answer, "rationale")
    assert without_rationale(told) == (prompt, told.removeprefix(prompt))
    plain = render("Which metal?", METALS, [], "answer")
    assert without_rationale(plain) == (plain, "")


def test_a_question_of_the_models_own_making_is_not_looked_at():
    own = "\n\nPassage: x\nQuestion: Which metal is dear?\nExplanation: Gold is.\nAnswer: Gold"
    assert extract(f"It rusts.\nAnswer: Iron{own}", METALS, "rationale") == Extraction("It rusts.", 0)
    assert extract(f"It rusts.{own}", METALS, "rationale").answer == 2
    assert extract("Answer: no.\nQuestion: of fact.\nIt rusts.\nAnswer: Iron", (), "rationale").answer == "no."
