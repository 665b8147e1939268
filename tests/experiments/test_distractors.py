"""Distractors stand behind the base, under ids of their own, and a larger share holds the smaller one."""

from __future__ import annotations

import pytest

from experiments.distractors import main
from kard.artifacts.files import read_jsonl
from kard.data.passage import Passage, write_passages
from kard.data.passages import make_passages
from kard.data.question import Question, write_questions
from kard.recipe.sections import KnowledgeSection
from tests.conftest import write_rows


@pytest.fixture
def run(tmp_path):
    """Twelve documents, one of them in two pieces; questions name two."""
    for stage in ("questions", "knowledge"):
        (tmp_path / "run" / stage).mkdir(parents=True)
    passages = [Passage(f"a{n}", "", f"Says number {n}.", f"a{n}", "f") for n in range(12)]
    passages.insert(4, Passage("a3#2", "", "And more.", "a3", "f"))
    write_passages(tmp_path / "run" / "knowledge" / "passages.jsonl", passages)
    questions = [Question("q", "What?", answer="x", gold_passages=("a3#2", "a7"))]
    write_questions(tmp_path / "run" / "questions" / "train.jsonl", questions)
    return tmp_path / "run"


def written(run, *options):
    main([str(run), str(run.parent / "out"), *options])
    return {path.stem: list(read_jsonl(path)) for path in (run.parent / "out").glob("*.jsonl")}


def test_the_base_is_what_questions_name_and_more_hold_the_fewer(run):
    found = written(run, "--factors", "0", "1.5", "5")
    assert [row["id"] for row in found["0"]] == ["a3", "a7"]
    assert found["0"][0]["text"] == "Says number 3. And more."
    assert [len(found[name]) for name in ("1.5", "5")] == [5, 12]
    assert found["5"][:5] == found["1.5"]
    assert found["1.5"] != written(run, "--factors", "1.5", "--seed", "1")["1.5"]


def test_others_have_ids_of_their_own_and_no_text_of_the_base(run):
    rows = [{"id": f"a{n}", "text": f"Says number {n}."} for n in range(2, 40)]
    write_rows(run.parent / "others.jsonl", rows)
    found = written(run, "--others", str(run.parent / "others.jsonl"))["1"]
    assert [row["id"] for row in found[:12]] == [f"a{n}" for n in range(12)]
    assert all(row["id"].startswith("distractor:a") for row in found[12:])
    assert len({row["text"] for row in found}) == 24
    make_passages(KnowledgeSection(path=run.parent / "out" / "1.jsonl"), run.parent)  # the ordinary reader takes it


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--factors", "6"], "6 times 2 documents asked for, 10 distractors there are. At most 5 can"),
        ([], "no question names a document"),
    ],
)
def test_what_cannot_be_had_is_said(run, options, says):
    if not options:
        write_questions(run / "questions" / "train.jsonl", [Question("q", "What?", answer="x")])
    with pytest.raises(SystemExit, match=says):
        main([str(run), str(run.parent / "out"), *options])
