"""Replies as the paper's authors published theirs: joined by row, judged, counted, and refused where they are another set's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fault_server import no_passages
from pydantic import ValidationError

from kard.data.question import Question
from kard.errors import UserError
from kard.recipe.recipe import Recipe
from kard.recipe.teacher import TeacherSection
from kard.teacher.collect import collect_rationales

# Beside the checkout, where anybody has put them.
REAL = Path(__file__).parents[3] / "shared" / "data" / "authors-raw"
THINGS = ("amber", "basalt", "copper", "dolomite", "emerald", "feldspar", "garnet", "haematite", "iolite", "jasper")


def minerals(count, split="train"):
    names = [f"{THINGS[place % 10]}{place // 10 or ''}" for place in range(count)]
    choices = ("red", "green")
    return [
        Question(f"m:{place}", f"Which colour has {name}?", choices, place % 2, row=f"{split}/{place}")
        for place, name in enumerate(names)
    ]


def reply(*choices, **more):
    rows = [
        {"message": {"role": "assistant", "content": text}, "finish_reason": reason, "index": place}
        for place, (text, reason) in enumerate(choices)
    ]
    usage = {"prompt_tokens": 90, "completion_tokens": 30, "total_tokens": 120}
    return {"object": "chat.completion", "model": "gpt-3.5-turbo-0301", "usage": usage, "choices": rows} | more


def write(folder, questions, shift=0):
    folder.mkdir(parents=True, exist_ok=True)
    for place, question in enumerate(questions):
        name = question.question.split()[-1][:-1]
        texts = [
            (f"{name} is known as a stone. Its colour is {question.answer_text}.", "stop"),
            (f"{name} has been", "length"),
            ("I'm sorry, but I cannot answer.", "stop"),
            (f"{name} is another thing. So the answer is {question.choices[1 - question.answer]}.", "stop"),
        ]
        (folder / f"{place + shift:05}.json").write_text(json.dumps(reply(*texts)), encoding="utf-8")


def collect(questions, folder, tmp_path, **settings):
    section = TeacherSection(kind="recorded", replies=folder, **settings)
    return collect_rationales(questions, no_passages, section, 0, tmp_path / "t.sqlite")


def test_each_choice_of_a_reply_is_a_rationale_with_its_status(tmp_path):
    questions = minerals(3)
    write(tmp_path / "raw", questions)
    found = collect(questions, tmp_path / "raw", tmp_path)
    assert len(found) == 12
    by_id = {one.id: one for one in found}
    assert [by_id[f"m:1/{number}"].status for number in range(4)] == ["kept", "truncated", "refused", "wrong_answer"]
    assert by_id["m:1/0"].text == "basalt is known as a stone. Its colour is green."
    assert by_id["m:1/0"].usage == {"prompt_tokens": 90, "completion_tokens": 30}
    assert by_id["m:1/1"].usage == {}
    assert len(collect(questions, tmp_path / "raw", tmp_path, rationales=2)) == 6


def test_what_is_missing_broken_or_beyond_is_counted_and_said(tmp_path, capsys):
    questions = minerals(8)
    write(tmp_path / "raw", minerals(10))
    (tmp_path / "raw" / "00003.json").unlink()
    (tmp_path / "raw" / "00004.json").write_text('{"error": {"message": "overloaded"}}', encoding="utf-8")
    (tmp_path / "raw" / "notes.json").write_text("{}", encoding="utf-8")
    found = collect(questions, tmp_path / "raw", tmp_path)
    said = capsys.readouterr().err
    assert "7 recorded replies; 1 questions have no file (the first: train/3); 1 files hold no reply; 2 files" in said
    assert {one.question for one in found} == {f"m:{place}" for place in range(8) if place != 3}
    [broken] = [one for one in found if one.question == "m:4"]
    assert (broken.status, "00004.json" in broken.reason, "overloaded" in broken.reason) == ("error", True, True)


def test_folders_of_splits_are_told_apart(tmp_path):
    train, test = minerals(12)[:6], [replace(one, id=f"t{one.id}") for one in minerals(12, "test")[6:]]
    write(tmp_path / "raw" / "train", train)
    write(tmp_path / "raw" / "test", test, shift=6)
    found = collect([*train, *test], tmp_path / "raw", tmp_path)
    assert {one.question for one in found if one.status == "kept"} == {one.id for one in [*train, *test]}


@pytest.mark.parametrize("shift", [1, 30])
def test_replies_to_other_rows_are_refused_by_file_and_row(tmp_path, shift):
    questions = minerals(60)
    write(tmp_path / "raw", questions[:20])
    write(tmp_path / "raw", [*questions, *questions][20 + shift : 60 + shift], shift=20)  # right at first, then off
    with pytest.raises(
        UserError, match=r"raw/00020\.json: is not the reply to row train/20 \('Which colour has amber2\?'\)"
    ):
        collect(questions, tmp_path / "raw", tmp_path)


@pytest.mark.parametrize("content", [None, "notes"])
def test_a_folder_without_numbered_files_is_named(tmp_path, content):
    if content:
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "train.head.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"raw: (no such folder|0 replies, and none is of a row) .*teacher\.replies"):
        collect(minerals(2), tmp_path / "raw", tmp_path)


def test_only_questions_in_their_own_order_can_be_joined():
    knowledge = {"kind": "jsonl", "path": "p"}
    teacher = {"kind": "recorded", "replies": "raw"}
    for questions in ({"kind": "arc"}, {"kind": "medqa", "shuffle_choices": True}):
        with pytest.raises(ValidationError, match=r"teacher\.replies"):
            Recipe(questions=questions, knowledge=knowledge, teacher=teacher)
    with pytest.raises(ValidationError, match="reads no replies"):
        Recipe(questions={"kind": "medqa"}, knowledge=knowledge, teacher={"kind": "extractive", "replies": "raw"})


@pytest.mark.skipif(not REAL.exists(), reason="the authors' replies are not here")
@pytest.mark.parametrize("name", ["obqa", "strategyqa"])
def test_the_authors_own_files(tmp_path, name):
    def questions(name):
        rows = [json.loads(line) for line in (REAL / name / "train.head.json").open(encoding="utf-8")]
        choices = [tuple(row[f"ending{place}"] for place in range(4) if row[f"ending{place}"]) for row in rows]
        return [
            Question(row["id"], row["sent1"], some, row["label"], row=f"train/{place}")
            for place, (row, some) in enumerate(zip(rows, choices, strict=True))
        ]

    found = collect(questions(name), REAL / name, tmp_path)
    kept = sum(one.status == "kept" for one in found)
    assert len(found) >= 120
    assert kept > 0.6 * len(found)
    with pytest.raises(UserError, match="replies and questions are of different files"):
        collect(questions(name), REAL / ("medqa" if name == "obqa" else "obqa"), tmp_path)
