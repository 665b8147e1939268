"""Users' files: what is right is read, and each thing that is wrong is one error with file and line."""

from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kard.data.normal import normalised
from kard.data.question import Question, check_asked, read_questions, write_questions
from kard.data.questions import load_splits
from kard.data.readers.jsonl import read_questions_jsonl, read_user_jsonl
from kard.errors import UserError
from kard.recipe.sections import QuestionsSection
from kard.tools.batch import asked_in

GOOD = '{"id": "g", "question": "Why?", "choices": ["a", "b"], "answer": 1}'


def row(**changes) -> str:
    """The good question with changes; None takes a key out."""
    content = {"id": "q", "question": "Which?", "choices": ["x", "y"], "answer": 0, **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None})


def read(path, content: str | bytes) -> list[Question]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_questions_jsonl(path)


def test_every_kind_of_question(tmp_path):
    lines = [
        {"id": "index", "question": "Wer?", "choices": ["ä", "b", "ä?"], "answer": 2},
        {"id": "text", "question": "Who?", "choices": ["a", "b"], "answer": "b", "unknown": 1},
        {"id": 3, "question": "Open?", "answer": "Zürich", "rationales": ["Because."], "gold_passages": ["p"]},
        {"id": "null", "question": "Null?", "choices": None, "answer": "yes", "rationales": None},
        {"id": "two", "question": "Sum?", "answer": "3", "gold_passages": ["p", "q"], "conclusion": "1 and 2 are 3."},
    ]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    expected = [
        Question("index", "Wer?", ("ä", "b", "ä?"), 2),
        Question("text", "Who?", ("a", "b"), 1),
        Question("3", "Open?", (), "Zürich", ("Because.",), ("p",)),
        Question("null", "Null?", (), "yes"),
        Question("two", "Sum?", (), "3", (), ("p", "q"), "1 and 2 are 3."),
    ]
    assert read(tmp_path / "q.jsonl", content) == expected
    assert [question.answer_text for question in expected] == ["ä?", "b", "Zürich", "yes", "3"]


@pytest.mark.parametrize("before", [b"", codecs.BOM_UTF8, b"\r\n\r\n", codecs.BOM_UTF8 + b"\n  \n"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\t\n"])
def test_marks_and_blank_lines_are_no_questions(tmp_path, before, end):
    assert [question.id for question in read(tmp_path / "q.jsonl", before + GOOD.encode() + end)] == ["g"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", r"not valid JSON \(.*column 2\)"),
        (GOOD[:-1], "not valid JSON"),
        ("[" * 100_000, "not readable JSON"),
        (row(conclusion=["so"]), "'conclusion' is no text"),
        ('{"id": ' + "9" * 5000 + "}", "not readable JSON"),
        (b'{"id": "caf\xe9"}', "not UTF-8"),
        (codecs.BOM_UTF16_LE + "{}".encode("utf-16-le"), "not UTF-8"),
        ("[1, 2]", r"a list, not an object"),
        ('"text"', r"a str, not an object"),
        ("null", r"a NoneType, not an object"),
        (row(id=None), "key 'id' is missing"),
        (row(id=""), "'id' is empty"),
        (row(id=1.5), "'id' is no text"),
        (row(id="g"), "id 'g' is already on line 1"),
        (row(question=None), "key 'question' is missing"),
        (row(question=""), "'question' is empty"),
        (row(question="\n\t"), "'question' is empty"),
        (row(question=7), r"'question' is no text \(found 7\)"),
        (row(choices=["only"]), "'choices' has one entry"),
        (row(choices=["a", ""]), "'choices' must be a list of non-empty texts"),
        (row(choices=["a", 2]), "'choices' must be a list of non-empty texts"),
        (row(choices="ab"), "'choices' must be a list of non-empty texts"),
        (row(choices={"A": "x"}), r"'choices' must be a list of non-empty texts \(found {'A': 'x'}\)"),
        (row(choices=False), "'choices' must be a list of non-empty texts"),
        (row(choices=["x", "y", "x"]), "the choice 'x' is there twice"),
        (row(answer=None), "key 'answer' is missing"),
        (row(answer=2), r"'answer' 2 is out of range. Do yours count from 1\? Give an index from 0 to 1"),
        (row(answer=-1), r"'answer' -1 is out of range"),
        (row(answer="z"), r"'answer' 'z' is none of the choices"),
        (row(answer=True), r"'answer' True is none of the choices"),
        (row(answer=1.0), r"'answer' 1.0 is none of the choices"),
        (row(choices=None, answer=0), "there are no choices to count"),
        (row(choices=None, answer=" "), "there are no choices to count"),
        (row(choices=["Iron", "Gold", "Iron "]), "the choice 'Iron ' is there twice"),
        (row(choices=["Gold", "Iron", "iron."], answer="Iron"), "the choice 'iron.' is there twice"),
        (row(choices=["Cafe\u0301", "Caf\u00e9"]), "is there twice"),
        (row(answer="B"), "letters are not read. Give the index 1, or 'y'"),
        (row(answer="1"), "Write an index without quotes"),
        (row(answer=None, label=0), "key 'label' is not read, and there is no 'answer'"),
        (
            row(answer="Rest", choices=None, options=["Rest", "Surgery"]),
            "key 'options' is not read, and there is no 'choic",
        ),
        (row(answer="Rest", choices=None, Choice=["Rest", "Surgery"]), "Name it 'choices', or remove it"),
        (row(rationale="So."), "key 'rationale' is not read, and there is no 'rationales'"),
        (row(choices=None, answer="5 + 5\n#### 10"), "holds its working too"),
        (row(rationales="because"), "'rationales' must be a list"),
        (row(rationales=[""]), "'rationales' must be a list"),
        (row(gold_passages=[3.5]), "'gold_passages' must be a list"),
    ],
)
def test_a_bad_line_is_one_error_with_file_and_line(tmp_path, line, complaint):
    line = line.encode("utf-8") if isinstance(line, str) else line
    with pytest.raises(UserError, match=complaint) as error:
        read(tmp_path / "my questions é.jsonl", GOOD.encode() + b"\n\n" + line + b"\n")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'my questions é.jsonl'}:3: ")
    assert message.endswith((".", '"'))
    assert "\n" not in message


@pytest.mark.parametrize("name", ["nothing.jsonl", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match="no such file"):
        read_questions_jsonl(tmp_path / name)


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"q\.jsonl: holds no question"):
        read(tmp_path / "q.jsonl", codecs.BOM_UTF8 + b"\n")


def test_whole_pairs_are_characters(tmp_path):
    [question] = read(tmp_path / "q.jsonl", r'{"id": "\ud83d\ude00", "question": "\u00e9?", "answer": "x"}')
    assert (question.id, question.question) == ("😀", "é?")


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(content)
    said = f"{path}:"
    try:
        rows = list(read_user_jsonl(path))
    except UserError as error:
        rows, said = [], str(error)
    assert all(isinstance(item, dict) for _, item in rows)
    assert said.startswith(f"{path}:")


texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "N"]), min_size=1, max_size=20).filter(str.strip)
questions = st.builds(
    Question,
    id=texts,
    question=texts,
    choices=st.lists(texts, min_size=2, max_size=5, unique_by=normalised).map(tuple),
    answer=st.integers(0, 1),
    rationales=st.lists(texts, max_size=2).map(tuple),
    gold_passages=st.lists(texts, max_size=2).map(tuple),
) | st.builds(Question, id=texts, question=texts, answer=texts)


@settings(max_examples=40)
@given(st.lists(questions, min_size=1, max_size=5, unique_by=lambda question: question.id))
def test_what_is_written_is_read_by_both_readers(tmp_path_factory, items):
    path = tmp_path_factory.getbasetemp() / "questions.jsonl"
    write_questions(path, items)
    assert read_questions(path) == items
    assert read_questions_jsonl(path) == items


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (
            {"id": 1, "question": "?", "answer": "x", "options": {"A": "x", "B": "y"}, "answer_idx": "A"},
            "MedQA",
            "medqa",
        ),
        ({"qid": "a", "question": "?", "answer": True, "facts": [], "decomposition": []}, "StrategyQA", "strategyqa"),
        ({"_id": "a", "question": "?", "answer": "x", "supporting_facts": []}, "HotpotQA", "hotpotqa"),
        ({"version": "v2.0", "data": [{"title": "t", "paragraphs": []}]}, "SQuAD", "squad"),
        ({"id": "a", "title": "t", "context": "c", "question": "?", "answers": {"text": ["x"]}}, "SQuAD", "squad"),
        ({"_id": "q1", "text": "?", "metadata": {}}, "BEIR query", "beir"),
        ({"messages": [{"role": "user", "content": "?"}]}, r"chat fine-tuning \(OpenAI\)", "chat"),
        ({"id": "a", "question": {"stem": "?", "choices": []}, "answerKey": "A"}, "ARC", "arc"),
        ({"id": "a", "question": "?", "A": "x", "B": "y", "answer": "A"}, "one column a choice", "table"),
        ({"id": "a", "article": "?", "options": ["x"], "answer": "A"}, "RACE", None),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_foreign_format_is_named_with_the_kind_that_reads_it(tmp_path, content, name, kind, indent):
    write = f"Set questions.kind: {kind}, or write 'question'" if kind else "Write 'question', 'choices'"
    with pytest.raises(UserError, match=rf"q\.jsonl:[12]: looks like {name}'s own format .* {write}"):
        read(tmp_path / "q.jsonl", json.dumps([content, content], indent=indent))


def test_what_no_text_can_hold_is_replaced_and_counted(tmp_path, capsys):
    [question] = read(tmp_path / "q.jsonl", row(question="Wh\0y \ud83d?", topic="t"))
    assert question.question == "Why \ufffd?"
    assert "replaced: 1 NUL, which" in (said := capsys.readouterr().err)
    assert "replaced: 1 half surrogate pair, which" in said
    assert "keys that are not read: topic" in said
    with pytest.raises(UserError, match=r"holds half surrogate pair, which no text can hold"):
        check_asked(Question("q", "caf\udce9?"))
    check_asked(Question("q", "a\0b"))


def test_numbers_that_may_be_places_or_choices_are_asked_about(tmp_path):
    unclear = row(choices=["2", "3", "1"], answer=1)
    with pytest.raises(UserError, match=r"q\.jsonl:1: 'answer' 1 may be the choice '1' or the index of '3'"):
        read(tmp_path / "q.jsonl", unclear)
    assert [q.answer for q in read(tmp_path / "q.jsonl", f"{unclear}\n{GOOD}")] == [1, 1]  # the other one tells
    assert read(tmp_path / "q.jsonl", row(choices=["2", "3", "1"], answer="1"))[0].answer == 2


@pytest.mark.parametrize(
    ("answers", "warned"), [([1, 2, 1, 2, 1, 2], True), ([1, 2, 1, 2, 0, 2], False), ([1, 2], False)]
)
def test_answers_that_seem_to_count_from_1_are_pointed_at(tmp_path, capsys, answers, warned):
    rows = (row(id=f"q{n}", choices=["x", "y", "z"], answer=answer) for n, answer in enumerate(answers))
    assert len(read(tmp_path / "q.jsonl", "\n".join(rows))) == len(answers)
    assert ("no answer is 0" in capsys.readouterr().err) == warned


def test_choices_that_differ_only_to_the_machine_are_the_same(tmp_path):
    for pair in (["red", "red "], ["Iron", "iron."], ["x\u200by", "xy"]):
        with pytest.raises(UserError, match="is there twice"):
            check_asked(Question("q", "?", tuple(pair)))
    for pair in (["mm", "Mm"], ["C++", "C#"], ["5", "-5"], ["x²", "x2"], ["कि", "की"], ["½", "12"]):
        check_asked(Question("q", "?", tuple(pair)))
    assert read(tmp_path / "q.jsonl", row(choices=["a", "b", "b"]))[0].answer == 0  # the right one is there once


def test_ids_of_gold_passages_may_be_numbers(tmp_path):
    assert read(tmp_path / "q.jsonl", row(gold_passages=[1, "p2"]))[0].gold_passages == ("1", "p2")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
keys = st.sampled_from(
    ["id", "question", "choices", "answer", "rationales", "gold_passages", "conclusion", "options", "label"]
)
lines = st.dictionaries(keys | st.text(max_size=5), json_values, max_size=6) | json_values


@settings(max_examples=500, derandomize=True, deadline=None)
@given(
    st.lists(lines, max_size=3), st.sampled_from([None, 1]), st.booleans(), st.integers(0, 60), st.binary(max_size=3)
)
def test_no_question_file_is_more_than_an_error(tmp_path_factory, values, indent, array, place, noise):
    """Any JSON values, as lines or as an array, with some bytes replaced: questions, or one message."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    text = (
        json.dumps(values, indent=indent) if array else "\n".join(json.dumps(value, indent=indent) for value in values)
    )
    content = text.encode()
    for changed in (content, content[:place] + noise + content[place + len(noise) :]):
        path.write_bytes(changed)
        for read_file in (read_questions_jsonl, asked_in):
            try:
                read_file(path)
            except UserError as error:
                assert str(error).startswith(f"{path}")  # noqa: PT017 - most files are right for neither


def write(path, prefix: str, count: int):
    path.write_text("".join(row(id=f"{prefix}{n}", question=f"{prefix} {n}?") + "\n" for n in range(count)))
    return path


def test_separate_files_keep_their_questions_and_order(tmp_path):
    names = ("train", "dev", "test")
    files = {name: write(tmp_path / f"{name}.jsonl", name, 6) for name in names}
    splits = load_splits(QuestionsSection(**files), seed=0)
    assert {name: [question.id for question in splits[name]] for name in names} == {
        name: [f"{name}{n}" for n in range(6)] for name in names
    }
    some = load_splits(QuestionsSection(**files, train_size=3), seed=0)
    assert (len(some["train"]), some["dev"], some["test"]) == (3, splits["dev"], splits["test"])
    assert some["train"] == [question for question in splits["train"] if question in some["train"]]
    assert some == load_splits(QuestionsSection(**files, train_size=3), seed=0)
    assert any(some != load_splits(QuestionsSection(**files, train_size=3), seed=seed) for seed in range(1, 5))


def test_separate_files_share_no_id(tmp_path):
    files = {name: write(tmp_path / f"{name}.jsonl", "same", 2) for name in ("train", "test")}
    with pytest.raises(UserError, match=r"test\.jsonl: id 'same0' is in .*train\.jsonl too"):
        load_splits(QuestionsSection(**files), seed=0)


def test_sizes_of_separate_files_are_checked(tmp_path):
    files = {name: write(tmp_path / f"{name}.jsonl", name, 3) for name in ("train", "test")}
    for size in ({"train_size": 4}, {"test_size": 4}, {"dev_size": 1}):
        [(key, value)] = size.items()
        with pytest.raises(UserError, match=rf"questions\.{key}: {value} asked for, . there are"):
            load_splits(QuestionsSection(**files, **size), seed=0)
