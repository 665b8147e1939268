"""Questions are read off whatever form a reply has, and what cannot be read says why."""

from __future__ import annotations

import pytest

from kard.data.draw import Drawn
from kard.teacher.generated import as_asked, from_reply, read_generated, used, write_generated
from kard.teacher.question_filters import judged_by_answer
from kard.teacher.rationale import counts_of

PAGE = "p"


def read(text, passage, kind="multiple_choice", wanted=""):
    return from_reply(text, Drawn("train", kind, (0,), (), wanted), [passage("A text.", identity=PAGE)])


WRONG = "Wrong: the Rhine\nWrong: the Elbe\nWrong: the Oder"
PLAIN = f"Which river is it?\nAnswer: the Danube\n{WRONG}\nExplanation: It is. So it is."


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"Question: {PLAIN}",
        f"Sure!\n\n**Question:** {PLAIN}".replace("Sure!\n\n", ""),
        "**Question:** Which river is it?\n\n**Answer:** the Danube.\n**Wrong 1:** the Rhine\n**Wrong 2:** the Elbe\n"
        "**Wrong 3:** the Oder\n\n**Explanation:** It is.\nSo it is.",
        "1. Question: Which river is it?\n2. Correct answer: (A) the Danube\n3. Wrong answers:\n- the Rhine\n- b) the Elbe\n"
        "- C) the Oder\nRationale: It is. So it is.",
        f"{PLAIN}\n\nPassage: another one\nQuestion: Another one?\nAnswer: no",
        f"{PLAIN}\nQuestion: Another one?",
    ],
)
def test_a_question_is_read_off_any_form(text, passage):
    one = read(text, passage)
    assert (one.status, one.question, one.right) == ("kept", "Which river is it?", "the Danube")
    assert one.wrong == ("the Rhine", "the Elbe", "the Oder")
    assert one.rationale == "It is. So it is."
    assert (one.passages, one.documents) == ((PAGE,), (PAGE,))


def test_what_yes_no_open_and_unanswerable_questions_hold(passage):
    yes = read("Is it blue?\nExplanation: It is.", passage, "yes_no", "yes")
    assert (yes.choices, yes.right) == (("yes", "no"), "yes")
    assert read("Is it blue?\nAnswer: No, it is red.", passage, "yes_no", "yes").right == "no"
    short = read("Which colour has it?\nAnswer: dark blue", passage, "short")
    assert (short.choices, short.answer) == ((), "dark blue")
    none = read("Who painted it?\nAnswer: nobody", passage, "unanswerable")
    assert (none.answer, none.status) == (None, "kept")


def test_its_teacher_answers_a_yes_or_no_question_with_no_in_front(passage):
    yes, which = read("Is it blue?", passage, "yes_no", "yes"), read(PLAIN, passage)
    asked = as_asked(yes)
    assert (asked.choices, asked.right, asked.id) == (("no", "yes"), "yes", yes.id)
    assert judged_by_answer(asked, "(B)") is None
    assert judged_by_answer(asked, "(A) no") is not None
    assert as_asked(which) == which


def test_a_wrong_answer_that_is_the_right_one_does_not_count(passage):
    assert read("Which?\nAnswer: Rhine\nWrong: rhine\nWrong: Elbe", passage).choices == ("Rhine", "Elbe")


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", "short", "no question in “”"),
        ("Answer: blue", "short", "no question in “Answer: blue”"),
        ("I like rivers.", "short", "no question in “I like rivers.”"),
        ("Which river?", "short", "no answer in “Which river?”"),
        ("Is it blue?\nAnswer: maybe", "yes_no", "no answer"),
        ("Which?\nWrong: Rhine", "multiple_choice", "no answer"),
    ],
)
def test_what_cannot_be_read_says_what_is_missing(text, kind, says, passage):
    one = read(text, passage, kind)
    assert one.status == "unparsable"
    assert says in one.reason


def test_a_passage_that_is_repeated_in_front_is_passed_over_where_it_is_the_right_one(passage):
    echo = "Passage: A text.\nWanted answer: no\nQuestion: Is it blue?\nExplanation: It is red."
    one = read(echo, passage, "yes_no", "no")
    assert (one.status, one.question, one.right, one.rationale) == ("kept", "Is it blue?", "no", "It is red.")
    other = read(echo.replace("A text", "The Danube is a river of ten countries"), passage, "yes_no", "no")
    assert other.status == "unparsable"
    assert other.reason.startswith("no question about this passage in")
    assert read("Passage: A text.", passage, "short").status == "unparsable"


def test_yes_or_no_answers_no_question_for_more(passage):
    one = read("What is its name?", passage, "yes_no", "no")
    assert (one.status, one.reason) == ("unparsable", "no question for yes or no in “What is its name?”")
    assert read("Is what it says true?", passage, "yes_no", "no").status == "kept"
    assert read("What is its name?\nAnswer: Danube", passage, "short").status == "kept"


def test_numbers_of_a_list_of_wrong_answers_are_no_part_of_them(passage):
    listed = "Which?\nAnswer: Rhine\nWrong: 1. Elbe\nWrong: 2. Oder"
    assert read(listed, passage).choices == ("Rhine", "Elbe", "Oder")
    assert read(listed.replace("2. ", ""), passage).choices == ("Rhine", "1. Elbe", "Oder")


def test_the_same_question_has_the_same_id_and_another_one_another(passage):
    first, again, other = read(PLAIN, passage), read(PLAIN, passage), read(PLAIN.replace("Elbe", "Seine"), passage)
    assert first.id == again.id != other.id
    assert first.id.startswith("multiple_choice-")
    assert read("nothing", passage, "short").id != read("nothing else", passage, "short").id


def test_questions_survive_the_file_and_become_what_students_read(tmp_path, passage):
    made = [read(PLAIN, passage), read("", passage, "short")]
    write_generated(tmp_path / "generated.jsonl", made)
    assert read_generated(tmp_path / "generated.jsonl") == made
    question = made[0].as_question()
    assert (question.answer_text, question.gold_passages) == ("the Danube", ("p#1",))
    assert question.rationales == ("It is. So it is.",)
    assert [row["status"] for row in counts_of(made)] == ["kept", "unparsable"]


def test_the_requests_of_a_question_are_added_up():
    first = used([{"prompt_tokens": 10, "completion_tokens": 2, "seconds": 0.5}, {}])
    assert used([first, {"prompt_tokens": 5, "completion_tokens": None}]) == {
        "requests": 2,
        "prompt_tokens": 15,
        "completion_tokens": 2,
        "seconds": 0.5,
    }
    assert used([{}, {}]) == {}
