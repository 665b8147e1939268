"""`kard batch` before any model is loaded: what it reads, what it refuses, what it does not answer again."""

from __future__ import annotations

import json

import pytest

from kard.artifacts.folders import locked
from kard.data.passage import Passage
from kard.errors import UserError
from kard.kard import Answer, Found
from kard.tools.batch import Counts, answer_file, answer_row

QUESTIONS = (
    '{"question": "Why?"}\n\n{"id": "two", "question": "Which?", "choices": ["a", "b"]}\n{"id": 6, "question": "6?"}\n'
)


ASKED = {"1": ("Why?", []), "two": ("Which?", ["a", "b"]), "6": ("6?", []), "another": ("Who?", [])}
BY = {"method": "kard_bm25", "run": "5eed"}


def answered(*names: str, by=BY, asked=ASKED) -> str:
    rows = [
        {"id": name, "question": asked[name][0], "choices": asked[name][1]}
        | by
        | answer_row(Answer(name, "a", 0, "Because.", (), "prompt", "text", False, 0.1))
        for name in names
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr("kard.tools.batch.answerer", lambda run, method, engine: BY)
    source, output = tmp_path / "fragen é.jsonl", tmp_path / "out.jsonl"
    source.write_text(QUESTIONS, encoding="utf-8")
    return source, output


def complaint(run, source, output) -> str:
    with pytest.raises(UserError) as error:
        answer_file(run, source, output)
    return str(error.value)


def test_what_is_there_is_not_answered_again(tmp_path, files):
    """No model is needed where nothing is left to do, and ids are given or the number of the line."""
    source, output = files
    output.write_text(answered("6", "two", "1", "another"), encoding="utf-8")
    before = output.read_bytes()
    assert answer_file(tmp_path / "no run", source, output) == Counts(answered=0, there=3)
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (answered("1", by=BY | {"run": "other"}), "holds answers of another run, or of this one before it was changed"),
        (answered("another", by=BY | {"method": "distill"}), "by distill. Name another file."),
        (answered("1", asked={"1": ("Why not?", [])}), "holds the answer to another question of the id '1'"),
        (
            answered("two", asked={"two": ("Which?", ["b", "a"])}),
            "holds the answer to another question of the id 'two'",
        ),
    ],
)
def test_answers_to_other_questions_or_by_others_are_not_taken_for_these(tmp_path, files, there, says):
    source, output = files
    output.write_text(there, encoding="utf-8")
    message = complaint(tmp_path, source, output)
    assert message.startswith(f"{output}: ")
    assert says in message
    assert output.read_text(encoding="utf-8") == there


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "?", "choices": ["red", "red "]}, "the choice 'red ' is there twice"),
        ({"question": "?", "choices": ["red"]}, "'choices' has one entry"),
        ({"question": "?", "options": ["red", "blue"]}, "key 'options' is not read, and there is no 'choices'"),
        ({"question": "?", "options": {"A": "red", "B": "blue"}, "answer_idx": "A"}, "looks like MedQA's own format"),
        ({"query": "?"}, "key 'query' is not read, and there is no 'question'"),
    ],
)
def test_choices_are_never_left_unread(tmp_path, files, row, says):
    source, output = files
    source.write_text(json.dumps(row), encoding="utf-8")
    message = complaint(tmp_path, source, output)
    assert message.startswith(f"{source}:1: ")
    assert says in message


def test_two_commands_never_write_the_same_answers(tmp_path, files):
    source, output = files
    output.write_text(answered("6", "two", "1"), encoding="utf-8")
    with locked(output, beside=True):
        assert "another kard command is writing here" in complaint(tmp_path / "no run", source, output)
    assert answer_file(tmp_path / "no run", source, output) == Counts(answered=0, there=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fragen é.jsonl", "out.jsonl"]


def test_a_torn_last_answer_is_to_be_given_again(tmp_path, files):
    source, output = files
    output.write_text(answered("1", "two", "6")[:-9], encoding="utf-8")
    assert "not a kard run" in complaint(tmp_path / "no run", source, output)
    assert output.read_text(encoding="utf-8") == answered("1", "two")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "two", "question": "Again?"}', ":5: id 'two' is there twice"),
        ('{"id": "x"}', ":5: key 'question' is missing"),
        ('{"question": ""}', ":5: 'question' is empty"),
        ('{"id": "", "question": "x"}', ":5: 'id' is empty"),
        ('{"question": "x", "choices": "ab"}', ":5: 'choices' must be a list"),
        ("broken", ":5: not valid JSON"),
    ],
)
def test_a_bad_line_is_found_before_anything_is_answered(tmp_path, files, line, says):
    source, output = files
    source.write_text(QUESTIONS + line, encoding="utf-8")
    assert complaint(tmp_path, source, output).startswith(f"{source}{says}")
    assert not output.exists()


def test_a_question_that_is_too_long_is_found_before_anything_is_answered(tmp_path, answering_run):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        QUESTIONS + json.dumps({"id": "long", "question": "x x", "choices": ["y", "z " * 9000]}), encoding="utf-8"
    )
    message = complaint(answering_run, source, output)
    assert message.startswith(f"{source}: id 'long': question 'x x")
    assert "longer than student.max_input_tokens" in message
    assert not output.exists()


def test_no_question_makes_an_empty_file(tmp_path, files):
    source, output = files
    source.write_text("\n", encoding="utf-8")
    assert answer_file(tmp_path / "no run", source, output) == Counts(answered=0, there=0)
    assert output.read_bytes() == b""


def test_a_missing_file_is_named(tmp_path, files):
    assert complaint(tmp_path, tmp_path / "nothing.jsonl", files[1]).startswith(
        f"{tmp_path / 'nothing.jsonl'}: no such file"
    )


def test_an_output_that_is_something_else_is_left_alone(tmp_path, files):
    source, output = files
    questions = QUESTIONS.replace("\n\n", "\n")
    for text, says in (
        (questions, "holds something else than answers"),
        (questions.removesuffix("\n"), "holds something else than answers"),
        (questions.split("\n")[0], "holds something else than answers"),
        ("My diary", ":1: damaged, or not written by"),
    ):
        output.write_text(text, encoding="utf-8")
        assert says in complaint(tmp_path, source, output)
        assert output.read_text(encoding="utf-8") == text
    source.write_text(questions, encoding="utf-8")
    assert "holds something else" in complaint(tmp_path, source, source)


def test_an_output_that_cannot_be_written_is_found_at_once(tmp_path, files):
    for output in (tmp_path, tmp_path / "no folder" / "out.jsonl"):
        assert complaint(tmp_path, files[0], output).startswith(f"{output}: cannot be written")


def test_an_answer_as_json():
    passage = Passage("p#2", "Title", "Words.", "p", "p.jsonl:1")
    answer = Answer(
        "q", "Iron", 1, "It rusts.", (Found(passage, retriever=1.5),), "prompt", " It rusts.\nAnswer: Iron", False, 0.2
    )
    assert answer_row(answer) == {
        "id": "q",
        "answer": "Iron",
        "choice": 1,
        "confidence": None,
        "calibrated": False,
        "abstained": False,
        "question_cut": False,
        "rationale": "It rusts.",
        "passages": [
            {
                "id": "p#2",
                "title": "Title",
                "text": "Words.",
                "source": "p.jsonl:1",
                "retriever": 1.5,
                "reranker": None,
                "likelihood": None,
            }
        ],
        "documents": None,
        "text": " It rusts.\nAnswer: Iron",
    }
