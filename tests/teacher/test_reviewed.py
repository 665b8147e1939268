"""What people decided holds, whatever the filters found; what is no decision is named by its line."""

from __future__ import annotations

import pytest

from kard.errors import UserError
from kard.teacher.generated import Generated
from kard.teacher.reviewed import reviewed
from tests.conftest import write_rows

ONE = Generated(
    "a", "multiple_choice", "test", "Which?", ("x", "y"), 0, status="two_right", reason="both", rationale="Since."
)
NONE = Generated("b", "short", "test", status="unparsable", reason="no question")
OPEN = Generated("c", "unanswerable", "test", "Who?")


@pytest.fixture
def decided(tmp_path):
    def decide(*rows):
        write_rows(tmp_path / "reviewed.jsonl", [{"reviewer": "Ada", "time": 1} | row for row in rows])
        return reviewed([ONE, NONE, OPEN], tmp_path / "reviewed.jsonl")

    return decide


def test_accepted_mended_and_rejected(decided):
    one, none, open_one = decided(
        {"id": "a", "decision": "accept"},
        {"id": "b", "decision": "mend", "question": "Which one?", "answer": "this", "rationale": "It is this."},
        {"id": "c", "decision": "reject"},
    )
    assert (one.status, one.reason, one.reviewer, one.rationale) == ("kept", "", "Ada", "Since.")
    assert (none.status, none.question, none.right, none.rationale) == ("kept", "Which one?", "this", "It is this.")
    assert (open_one.status, open_one.reason, open_one.reviewer) == ("rejected", "rejected by Ada", "Ada")


def test_the_last_decision_counts_and_others_stay_unread(decided):
    one, none, _ = decided({"id": "a", "decision": "accept"}, {"id": "a", "decision": "reject", "reviewer": "Ben"})
    assert (one.status, one.reviewer) == ("rejected", "Ben")
    assert (none.status, none.reviewer) == ("unparsable", "")


def test_what_was_taken_back_does_not_count(decided):
    one, _, _ = decided({"id": "a", "decision": "reject"}, {"id": "a", "decision": "undo"})
    assert (one.status, one.reviewer) == ("two_right", "")


def test_an_unanswerable_question_is_accepted_without_an_answer(decided):
    assert decided({"id": "c", "decision": "accept"})[2].reviewer == "Ada"


def test_decisions_about_other_questions_are_counted(decided, capsys):
    decided({"id": "gone", "decision": "accept"}, {"id": "a", "decision": "accept"})
    assert "1 of 2 decisions are about questions that are not asked for any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "a", "decision": "maybe"}, r"reviewed\.jsonl:1: 'decision' is 'maybe'\. Write one of accept, mend"),
        ({"id": "a"}, r"reviewed\.jsonl:1: 'decision' is missing"),
        ({"id": "a", "decision": "accept", "reviewer": ""}, r"reviewed\.jsonl:1: 'reviewer' is missing"),
        ({"id": "b", "decision": "accept"}, r"reviewed\.jsonl, id 'b': key 'answer' is missing"),
        ({"id": "a", "decision": "mend", "answer": 5}, r"reviewed\.jsonl, id 'a': 'answer' 5 is out of range"),
        ({"id": "a", "decision": "mend", "choices": ["x", "x"]}, r"reviewed\.jsonl, id 'a': the choice 'x' is there"),
    ],
)
def test_what_is_no_decision_is_named_by_its_line_or_id(decided, row, says):
    with pytest.raises(UserError, match=says):
        decided(row)
