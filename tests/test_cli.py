"""The command line as a user meets it: every command, and one clear error with exit code 2 for every bad input."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from kard.artifacts.files import read_json
from kard.artifacts.folders import RUN_FORMAT
from tests import forks
from tests.conftest import make_project, write_rows

METHODS = "[distill, kard_bm25, kard_reranker]"


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def kard(*arguments: str | Path, cwd: Path | None = None) -> Result:
    """Run the program's entry point in this process: importing the model libraries each time would take minutes."""
    from kard.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    code, here, argv = 0, Path.cwd(), sys.argv
    try:
        os.chdir(cwd or here)
        sys.argv = ["kard", *map(str, arguments)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os.chdir(here)
        sys.argv = argv
    return Result(code, out.getvalue(), err.getvalue())


def fails(result: Result, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "error: " in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def run(tmp_path_factory, decoder_folder, encoder_folder) -> Path:
    """A finished run with few methods, made by the program itself, in a folder with a space and an umlaut."""
    recipe = make_project(tmp_path_factory.mktemp("cli") / "größe 1", decoder_folder, encoder_folder)
    methods = f"evaluation.methods={METHODS}"
    result = kard("run", recipe.name, "--set", methods, cwd=recipe.parent)
    assert result.returncode == 0, result.stderr
    assert "index.html" in result.stdout
    assert "A question that no training has seen: " in result.stdout
    for word in ("on this machine", "stage 12 of 12: report – ", "First result: 12 test questions", "by question:"):
        assert word in result.stderr
    return recipe.parent / "run"


def test_status_says_what_is_done(run):
    result = kard("status", run)
    assert result.returncode == 0, result.stderr
    assert "Everything is there." in result.stdout
    assert "to do" not in result.stdout
    rows = json.loads(kard("status", run, "--json").stdout)
    assert {row["state"] for row in rows} == {"done"}
    assert all(row["seconds"] >= 0 and not row["is_estimate"] for row in rows)


def test_dry_run_runs_nothing(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # names are whole
    result = kard("run", project, "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("questions", "students/rationales_silver", "to do", "Still to do: about"):
        assert word in result.stdout
    assert not (project.parent / "run").exists()


def test_answer_shows_passages_and_answer(run):
    arguments = ["answer", run, "Which colour has the ship of the north?", "-c", "red", "-c", "blue"]
    result = kard(*arguments)
    assert result.returncode == 0, result.stderr
    assert "Passage [1] " in result.stdout
    assert "Answer: " in result.stdout
    assert re.search(r"Confidence: \d+% \(not calibrated", result.stdout)
    row = json.loads(kard(*arguments, "--json", "--method", "distill").stdout)
    assert row["passages"] == []
    assert row["answer"] in ("red", "blue", None)


def test_batch_answers_as_the_evaluation_did_and_goes_on(run, tmp_path):
    predictions = run / "predictions" / "rationales_silver" / "kard_reranker.jsonl"
    expected = {row["question"]: row for row in map(json.loads, predictions.open(encoding="utf-8"))}
    questions = [json.loads(line) for line in (run / "questions" / "test.jsonl").open(encoding="utf-8")]
    source, output = tmp_path / "in file.jsonl", tmp_path / "out.jsonl"
    write_rows(source, [{key: row[key] for key in ("id", "question", "choices")} for row in questions])
    result = kard("batch", run, source, output)
    assert "12 answered, 0 were there" in result.stdout, result.stderr
    rows = [json.loads(line) for line in output.open(encoding="utf-8")]
    for row in rows:
        assert row["answer"] == expected[row["id"]]["answer"]
        assert [p["id"] for p in row["passages"]] == [p["id"] for p in expected[row["id"]]["passages"]]
    torn = output.read_text(encoding="utf-8").splitlines(keepends=True)
    output.write_text("".join(torn[:5]) + torn[5][:20], encoding="utf-8")
    assert "7 answered, 5 were there" in kard("batch", run, source, output).stdout
    again = [json.loads(line) for line in output.open(encoding="utf-8")]
    # The last digits of a probability depend on what else is in the batch.
    assert [row.pop("confidence") for row in again] == pytest.approx([row.pop("confidence") for row in rows], rel=1e-3)
    assert again == rows


@pytest.mark.parametrize(
    "stage", ["questions", "knowledge", "rationales", "candidates", "reranker", "students", "predictions", "mistakes"]
)
def test_show_prints_samples(run, stage):
    result = kard("show", run, stage, "-n", "2")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 60


def test_report_of_one_and_of_several(run):
    assert "index.html" in kard("report", run).stdout
    assert json.loads(kard("report", run, "--json").stdout)["methods"]
    assert "distill" in kard("report", run, run.parent / "." / "run").stdout


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["run", "RECIPE", "--dry-run", "-o", "RUN"], {"stage", "state", "about", "seconds", "is_estimate"}),
        (["run", "RECIPE", "-o", "RUN", "--set", f"evaluation.methods={METHODS}"], {"methods", "comparisons"}),
        (["sweep", "RECIPE", "--seeds", "2", "--dry-run"], {"run", "there", "shared", "to_make"}),
        (["show", "RUN", "mistakes", "-n", "1"], {"report/mistakes.jsonl"}),
        (["show", "RUN", "students"], {"students/rationales/training.json"}),
        (["report", "RUN", "RUN"], {"settings", "changes", "notes"}),
        (["search", "RUN", "ship", "-k", "1"], {"id", "text", "score", "words"}),
        (["batch", "RUN", "EMPTY", "OUT"], {"answered", "there", "output"}),
        (["doctor", "RUN"], {"index", "report"}),
        (["schema"], {"properties", "$schema"}),
    ],
)
def test_programs_get_one_json_value(run, tmp_path, monkeypatch, command, keys):
    from typer.testing import CliRunner

    from kard.cli.main import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    places = {"RUN": run, "RECIPE": run.parent / "recipe.yaml", "EMPTY": "empty.jsonl", "OUT": "out.jsonl"}
    arguments = [str(places.get(part, part)) for part in command]
    result = CliRunner().invoke(app, arguments if command == ["schema"] else [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert keys <= (value[0] if isinstance(value, list) else value).keys()


def test_the_schema_takes_what_the_recipe_takes(project):
    jsonschema = pytest.importorskip("jsonschema")  # comes with mcp
    import yaml

    from kard.recipe.file import recipe_schema, shipped_recipes

    check = jsonschema.Draft202012Validator(recipe_schema())
    package = resources.files("kard") / "recipes"
    texts = [(package / f"{name}.yaml").read_text(encoding="utf-8") for name in shipped_recipes()]
    for text in (*texts, project.read_text(encoding="utf-8")):
        content = yaml.safe_load(text)
        assert list(check.iter_errors(content)) == []
    content["student"] |= {"epochs": -1, "epoch": 2}
    assert {error.validator for error in check.iter_errors(content)} == {"exclusiveMinimum", "additionalProperties"}


def test_predictions_are_a_frame(run, monkeypatch):
    from kard import Run, UserError

    opened = Run.open(str(run))
    frame = opened.frame("kard_reranker")
    assert len(frame) == 12
    assert frame["correct"].mean() == pytest.approx(
        next(row["accuracy"] for row in read_json(run / "results.json")["methods"] if row["name"] == "kard_reranker")
    )
    with pytest.raises(UserError, match=r"has no predictions of 'kard_rerank' \(did you mean 'kard_reranker'\?\)"):
        opened.frame("kard_rerank")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"Run\.frame needs pandas\. Install it"):
        opened.frame("distill")


def test_kard_load_answers(run):
    from kard import Kard

    answer = Kard.load(run).answer("Which colour has the ship of the north?", choices=["red", "blue"])
    assert answer.answer in ("red", "blue", None)
    assert len(answer.passages) == 1
    assert answer.passages[0].passage.full_text in answer.prompt


def test_init_runs_with_a_tiny_model(tmp_path, decoder_folder, encoder_folder):
    """The sample project as it is written, with the models of the test."""
    folder = tmp_path / "my project é"
    assert kard("init", folder).returncode == 0
    fails(kard("init", folder), "is there already")
    settings = [f"student.model={decoder_folder}", f"reranker.model={encoder_folder}", "student.max_output_tokens=8"]
    settings += ["student.max_input_tokens=1024", "student.dtype=fp32", "student.epochs=1"]
    settings += ["reranker.question_tokens=64", "reranker.passage_tokens=64"]
    flags = [part for setting in settings for part in ("--set", setting)]
    for dry in (["--dry-run"], []):
        result = kard("run", folder / "recipe.yaml", *flags, *dry)
        assert result.returncode == 0, result.stderr
    assert (folder / "run" / "report" / "index.html").exists()


def test_doctor_and_help():
    assert "student.dtype: auto" in kard("doctor").stdout
    assert "answer" in kard("--help").stdout
    heavy = ("torch", "transformers", "openai", "matplotlib", "bm25s", "pydantic", "yaml", "asyncio")
    code = f"import sys, kard.cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_is_whole_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert kard("--version").stdout.startswith("kard 0.")
    shown = kard("-h").stdout
    listed = shown.partition("Commands:\n")[2].partition("\n\n")[0]
    commands = [line.split()[0] for line in listed.splitlines()]
    assert len(commands) > 10
    for page in (shown, *(kard(name, "-h").stdout for name in commands)):
        assert "..." not in page.replace("}...", "").replace("]...", "")
        assert "<list" not in page
        assert max(map(len, page.splitlines())) <= 80


def test_an_unknown_stage_is_found_by_the_dry_run_too(project):
    fails(kard("run", project, "--until", "studnets", "--dry-run"), "--until studnets", "did you mean 'students'")


def test_ctrl_c_is_one_line(monkeypatch, tmp_path):
    def stopped(run: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kard.artifacts.folders.check_stages", stopped)
    result = kard("status", tmp_path)
    assert (result.returncode, result.stderr) == (130, "stopped; the same command goes on where it was\n")


def test_none_kept_says_why_and_can_be_read(project):
    """By gold ids that name no document, and by what the filter said; the advised command shows the rejected ones."""
    path = project.parent / "questions.jsonl"
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace('["p', '["doc-'), encoding="utf-8")
    fails(kard("run", project, "--set", "teacher.kind=extractive"), "'doc-", "is no id of a document", "like 'p")
    path.write_text(good, encoding="utf-8")
    result = kard("run", project, "--set", "teacher.max_words=2")
    fails(result, "none was kept. ", "too_long")
    shown = kard("show", project.parent / "run", "rationales")
    assert "too_long: " in shown.stdout, shown.stderr


def test_bad_questions_name_file_and_line(project):
    path = project.parent / "questions.jsonl"
    good = path.read_text(encoding="utf-8").splitlines()

    def with_line(text: str) -> Result:
        path.write_text("\n".join([good[0], text, *good[2:]]) + "\n", encoding="utf-8")
        return kard("run", project, "--until", "questions")

    row = json.loads(good[1])
    where = "questions.jsonl:2"
    fails(with_line(good[1][:-3]), where, "not valid JSON", "Mend the line")
    fails(with_line(json.dumps({**row, "answer": 9})), where, "out of range", "0 to 3")
    fails(with_line(good[0]), where, "already on line 1")
    fails(with_line(json.dumps({**row, "question": " "})), where, "'question' is empty")
    assert not (project.parent / "run" / "questions").exists()


def test_letters_need_choices(project):
    path = project.parent / "questions.jsonl"
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    rows[3] = {"id": "open", "question": "What?", "answer": "this"}
    write_rows(path, rows)
    result = kard("run", project, "--until", "questions", "--set", "student.answer_as=letter")
    fails(result, "'open'", "has no choices", "student.answer_as: text")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("questions.path=nowhere.jsonl", ["nowhere.jsonl", "no such file"]),
        ("studnet.lr=1", ["unknown key 'studnet'", "did you mean 'student'"]),
        ("student.learning_rate=1", ["unknown key 'student.learning_rate'", "lr"]),
        ("student.lr=-1", ["student.lr", "greater than 0"]),
        ("student.model=package:gema", ["package:gema", "is not installed"]),
        ("student.model=./no/model", ["student.model", "no model at"]),
        ("student.model=nobody/nothing", ["student.model", "cannot load"]),
        ("reranker.model=nobody/nothing", ["reranker.model", "cannot load"]),
        ("reranker.question_tokens=65", ["reranker.question_tokens", "at most 64"]),
        ("retriever.language=klingon", ["retriever.language", "klingon"]),
        ("evaluation.methods=[kard_rerank]", ["kard_rerank", "did you mean 'kard_reranker'"]),
        ("evaluation.methods=[]", ["evaluation.methods"]),
        ("knowledge.id_prefix=zz", ["id_prefix"]),
        ("teacher.kind=openai", ["teacher", "model"]),
        ("questions.test_size=1000", ["questions.test_size", "1000"]),
    ],
)
def test_bad_settings(project, setting, words):
    fails(kard("run", project, "--set", setting), *words)


@pytest.mark.parametrize("setting", ["student.model", "reranker.model", "teacher.verifier"])
def test_a_model_that_is_not_there_is_found_before_the_work(project, setting):
    result = kard("run", project, "--set", f"{setting}=nobody/nothing")
    fails(result, f"{setting}: cannot load 'nobody/nothing'")
    assert not (project.parent / "run" / "questions").exists()
    assert kard("run", project, "--set", f"{setting}=nobody/nothing", "--until", "questions").returncode == 0


def test_unknown_recipe_and_run(tmp_path, project):
    fails(kard("run", "quikstart"), "did you mean 'quickstart'")
    fails(kard("status", tmp_path), "not a kard run")
    fails(kard("answer", tmp_path / "nothing", "q"), "not a kard run")
    fails(kard("run", project, "--output", project.parent), "is no kard run")


def test_a_run_of_another_format(project):
    kard("run", project, "--until", "questions")
    (project.parent / "run" / "run.json").write_text(json.dumps({"format": RUN_FORMAT + 1}), encoding="utf-8")
    fails(kard("run", project), f"format {RUN_FORMAT + 1}", "--output")
    fails(kard("status", project.parent / "run"), f"format {RUN_FORMAT + 1}")


def test_an_unfinished_run_does_not_answer(project):
    kard("run", project, "--until", "index")
    fails(kard("answer", project.parent / "run", "q"), "not finished")


def kard_on_a_small_disk(limit: int, recipe: Path, said: Connection) -> None:
    """A limit on the size of files stands in for a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    said.send(kard("run", recipe))


def test_a_full_disk_leaves_nothing_half_written(project, run):
    """Writing fails in the middle of the vectors, weights and index."""
    for limit in (2_000, 60_000):
        hears, said = multiprocessing.Pipe(duplex=False)
        assert forks.run(kard_on_a_small_disk, limit, project, said) == [0]
        fails(hears.recv(), "the disk is full", "run the same command again")
        for manifest in (project.parent / "run").rglob("manifest.json"):
            json.loads(manifest.read_text(encoding="utf-8"))
    result = kard("run", project)
    assert result.returncode == 0, result.stderr
