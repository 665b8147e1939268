"""A run's questions as people review them and as `kard questions export` writes them: the jsonl reader takes the file again."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from kard.cli.main import app
from kard.data.question import Question
from kard.data.readers.jsonl import read_questions_jsonl
from kard.data.reviews import Decisions
from kard.errors import UserError
from kard.reviews import export_questions, items_of
from kard.run import Run
from tests.data.test_reviews import row
from tests.reviewed_run import generated, make_run

ORDINARY = {
    "train": [Question("t1", "Why?", ("x", "y"), 1, gold_passages=("p1",)), Question("t2", "How?", answer="so")],
    "test": [Question("e1", "Who?", ("x", "y"), 0)],
}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, generated(8))


def decided(run, *rows) -> None:
    decisions = Decisions(run.parent / "reviewed.jsonl")
    for one in rows:
        decisions.add(one)


def test_items_are_generated_questions_of_any_status(run):
    items = items_of(Run.open(run))
    assert [item.status for item in items[:4]] == ["kept", "kept", "not_answered", "gives_itself_away"]
    assert (items[0].choices, items[0].answer, items[0].passages) == (("red", "green 0", "blue"), 1, ("p0",))
    assert items[7].answer is None


def test_items_of_a_run_that_generated_none_are_its_questions_with_rationales(tmp_path):
    items = items_of(Run.open(make_run(tmp_path, questions=ORDINARY)))
    found = [(item.id, item.kind, item.rationale, item.passages) for item in items]
    assert found == [("t1", "train", "Because 1.", ("p1",)), ("t2", "train", "", ()), ("e1", "test", "", ())]


def test_what_is_written_is_what_was_kept_accepted_or_mended(run, tmp_path):
    file = tmp_path / "q.jsonl"
    assert export_questions(run, file) == {"written": 4, "not_answered": 2, "gives_itself_away": 2}
    assert [question.id for question in read_questions_jsonl(file)] == [f"g/{n} ü" for n in (0, 1, 4, 5)]
    decided(
        run,
        row("g/0 ü", "reject"),
        row("g/2 ü", "accept"),
        row("g/1 ü", "mend", question="Which one?", choices=["pink", "green"], answer=1, rationale="So."),
        row("g/7 ü", "accept"),
        row("gone", "accept"),
    )
    counts = export_questions(run, tmp_path / "again.jsonl")
    assert counts.pop("written") == 4
    assert counts == {
        "rejected": 1,
        "gives_itself_away": 1,
        "not_answered": 1,
        "without an answer": 1,
        "decisions on questions that this run does not have": 1,
    }
    found = {question.id: question for question in read_questions_jsonl(tmp_path / "again.jsonl")}
    assert list(found) == [f"g/{n} ü" for n in (1, 2, 4, 5)]
    assert found["g/1 ü"] == Question("g/1 ü", "Which one?", ("pink", "green"), 1, ("So.",), ("p1",))
    assert found["g/2 ü"].rationales == ("Ship 2 was painted green 2.",)
    assert found["g/4 ü"].rationales == ()
    assert export_questions(run, tmp_path / "some.jsonl", reviewed=True)["written"] == 2


def test_a_split_may_be_written_alone(tmp_path):
    run = make_run(tmp_path, questions=ORDINARY)
    assert export_questions(run, tmp_path / "q.jsonl", split="test") == {"written": 1, "not in test": 2}
    decided(run, row("t1", "reject"))
    said = CliRunner().invoke(app, ["questions", "export", str(run), str(tmp_path / "t.jsonl"), "--split", "train"])
    assert (
        said.output
        == f"{tmp_path / 't.jsonl'}: 1 questions\n  not written: 1 rejected\n  not written: 1 not in train\n"
    )
    [question] = read_questions_jsonl(tmp_path / "t.jsonl")
    assert (question.id, question.answer) == ("t2", "so")


def test_what_cannot_be_written_is_said(run, tmp_path):
    file = tmp_path / "q.jsonl"
    for more, says in (
        ({"split": "all"}, "--split all: no such split. Choose of train, dev, test"),
        ({"reviewed": True}, r"reviewed\.jsonl: no such file\. Decide first: kard review"),
        ({"decisions": tmp_path / "none.jsonl"}, r"none\.jsonl: no such file"),
        ({"split": "dev"}, r"no question is left to write \(not in dev\)"),
    ):
        with pytest.raises(UserError, match=says):
            export_questions(run, file, **more)
        assert not file.exists()
    file.write_text("mine", encoding="utf-8")
    for path in (file, tmp_path / "nowhere" / "q.jsonl"):
        with pytest.raises(UserError, match="Name a new file in a folder that is there"):
            export_questions(run, path)
    assert file.read_text(encoding="utf-8") == "mine"
