"""Decisions: what of them stands, how they are kept, what they change, and how far two reviewers agree."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kard.data import reviews
from kard.data.reviews import Decisions, Item, agreement, check_mended, final, mended, read_decisions, standing
from kard.errors import UserError

ITEM = Item("q", "choice", "Which?", ("red", "blue"), 1, ("p1",), rationale="Blue it is.")


def row(name: str, decision: str, reviewer: str = "Anna", **more) -> dict:
    return {"id": name, "decision": decision, **more, "reviewer": reviewer, "time": "2026-01-01T00:00:00+00:00"}


def test_the_last_decision_that_is_not_undone_stands():
    rows = [
        row("a", "accept"),
        row("a", "reject"),
        row("b", "reject"),
        row("a", "undo"),
        row("b", "undo"),
        row("b", "undo"),
    ]
    assert standing(rows) == {"a": {"Anna": rows[0]}}
    others = [*rows, row("a", "reject", "Ben"), row("c", "mend", "Ben")]
    assert {name: found["decision"] for name, found in final(others).items()} == {"a": "reject", "c": "mend"}
    assert final([*others, row("a", "undo", "Ben")])["a"] == rows[0]
    assert final([*others, row("a", "accept")])["a"]["reviewer"] == "Anna"  # the newest counts, whoever made it


def test_decisions_are_appended_and_come_back(tmp_path):
    path = tmp_path / "reviewed.jsonl"
    decisions = Decisions(path)
    decisions.add(row("a", "accept"))
    decisions.add(row("ü", "mend", question="Why\0 \ud83d?"))
    assert read_decisions(path) == Decisions(path).rows == decisions.rows
    assert decisions.rows[1]["question"] == "Why \ufffd?"


def test_a_torn_line_is_cut_off_and_one_without_an_end_is_kept(tmp_path):
    path = tmp_path / "reviewed.jsonl"
    Decisions(path).add(row("a", "accept"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "b", "deci')
    assert len(Decisions(path).rows) == 1
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    decisions = Decisions(path)
    decisions.add(row("b", "reject"))
    assert [one["id"] for one in read_decisions(path)] == ["a", "b"]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "reviewed.jsonl"
    decisions = Decisions(path)
    decisions.add(row("a", "accept"))
    before = path.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        decisions.add(row("b", "accept"))
    assert path.read_bytes() == before
    assert len(decisions.rows) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"decision": "accept", "reviewer": "Anna"}', r"r\.jsonl:2: 'id' is missing"),
        (
            '{"id": "a", "decision": "maybe", "reviewer": "Anna"}',
            r"jsonl:2: 'decision' is 'maybe'\. Write one of accept, mend",
        ),
        (
            '{"id": "a", "decision": "mend", "reviewer": "Anna", "answer": true}',
            r"r\.jsonl:2: 'answer' is missing, or not what",
        ),
        (
            '{"id": "a", "decision": "mend", "reviewer": "Anna", "choices": "x"}',
            r"r\.jsonl:2: 'choices' is missing, or not what",
        ),
        ("nonsense", r"r\.jsonl:2: "),
    ],
)
def test_a_line_that_is_no_decision_is_named(tmp_path, line, says):
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"id": "a", "decision": "accept", "reviewer": "A"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=says):
        Decisions(path)
    assert line in path.read_text(encoding="utf-8")


def test_a_mended_item_has_what_was_changed_and_the_rest_as_it_was():
    changed = mended(ITEM, row("q", "mend", question="Which one?", choices=["red", "green"], answer=0))
    assert changed == replace(ITEM, question="Which one?", choices=("red", "green"), answer=0)
    assert mended(ITEM, row("q", "accept", question="?")) == ITEM


@pytest.mark.parametrize(
    ("item", "changes", "says"),
    [
        (ITEM, {"question": " "}, "a question needs a text"),
        (ITEM, {"choices": ["red", ""], "answer": 0}, "a question needs a text"),
        (ITEM, {"choices": ["red"], "answer": 0}, "two choices or none"),
        (ITEM, {"choices": ["red", "blue"], "answer": None}, "none of the choices is marked"),
        (ITEM, {"choices": ["red", "blue"], "answer": 2}, "none of the choices is marked"),
        (ITEM, {"choices": ["red", "Red "], "answer": 0}, None),
        (ITEM, {"choices": ["blue", "blue."], "answer": 0}, "is there twice"),
        (replace(ITEM, choices=(), answer="blue"), {"answer": ""}, "the answer is empty"),
        (replace(ITEM, choices=(), answer=None), {"answer": None, "rationale": ""}, None),
        (ITEM, {}, None),
    ],
)
def test_what_is_no_question_any_more_is_refused(item, changes, says):
    if says is None:
        check_mended(item, row("q", "mend", **changes))
    else:
        with pytest.raises(UserError, match=says):
            check_mended(item, row("q", "mend", **changes))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(reviews.DECISIONS), st.sampled_from(reviews.DECISIONS)), min_size=1, max_size=20)
)
def test_agreement_is_cohens_kappa_over_what_both_decided(pairs):
    rows = [
        row(f"q{n}", one, who) for n, pair in enumerate(pairs) for who, one in zip(("Ben", "Anna"), pair, strict=True)
    ]
    rows += [row("alone", "accept"), row("q0", "undo", "Carl")]
    [found] = agreement(rows)
    assert found["reviewers"] == ["Anna", "Ben"]
    assert (found["both"], found["same"]) == (len(pairs), sum(one == other for one, other in pairs))
    if len({name for pair in pairs for name in pair}) < 2:
        assert found["kappa"] is None
    else:
        from sklearn.metrics import cohen_kappa_score

        assert found["kappa"] == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))


def test_who_has_nothing_in_common_agrees_on_nothing():
    [found] = agreement([row("a", "accept"), row("b", "accept", "Ben")])
    assert found == {"reviewers": ["Anna", "Ben"], "both": 0, "same": 0, "kappa": None}
    assert agreement([row("a", "accept")]) == []
