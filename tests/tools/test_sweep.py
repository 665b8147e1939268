"""Sweeps: a grid in one folder, what agrees is made once, and every run is what it would be alone."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path

import pytest

from kard.errors import UserError
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.tools.sweep import plan_sweep, read_sweep, run_name, run_sweep, sweep_states
from tests.conftest import make_project
from tests.test_cli import fails, kard
from tests.test_pipeline import numbers

VARY = ("--vary", "evaluation.passages=1,2", "--seeds", "2", "--set", "evaluation.methods=[distill, kard_bm25]")


@pytest.fixture(scope="module")
def project(tmp_path_factory, decoder_folder, encoder_folder) -> Path:
    return make_project(tmp_path_factory.mktemp("sweep") / "größe 3", decoder_folder, encoder_folder)


@pytest.fixture(scope="module")
def swept(project) -> Path:
    """The folder of a sweep of two settings and two seeds, made by the program itself."""
    folder = project.parent / "sweep"
    result = kard("sweep", project, *VARY, "-o", folder)
    assert result.returncode == 0, result.stderr
    assert "from other runs: questions, knowledge, index, rationales, candidates" in result.stderr
    assert "± " in result.stdout
    assert result.stderr.count("evaluation.passages (2) is more than student.passages (1)") == 2, "one a run of it"
    return folder


def name(passages: int, seed: int) -> str:
    return run_name({"evaluation.passages": passages}, seed)


def same_file(one: Path, other: Path) -> bool:
    return one.stat().st_ino == other.stat().st_ino


def test_shared_stages_are_made_once(swept):
    def shared(part: str, a: tuple[int, int], b: tuple[int, int]) -> bool:
        return same_file(swept / name(*a) / part, swept / name(*b) / part)

    for part in ("questions", "knowledge", "index", "rationales", "candidates", "students/base"):
        for other in ((1, 1), (2, 0), (2, 1)):
            assert shared(f"{part}/manifest.json", (1, 0), other), part
    for student in ("students/rationales", "students/rationales_silver", "predictions/rationales"):
        assert shared(f"{student}/manifest.json", (1, 0), (2, 0)), student
        assert not shared(f"{student}/manifest.json", (1, 0), (1, 1)), student
    assert not shared("predictions/rationales_silver/manifest.json", (1, 0), (2, 0))


def test_seeds_answer_the_same_questions_with_other_students(swept):
    runs = [swept / name(1, seed) for seed in (0, 1)]
    results = [json.loads((run / "results.json").read_text(encoding="utf-8")) for run in runs]
    assert [row["seed"] for row in results] == [0, 1]
    [weights, other] = (next((run / "students/rationales").rglob("*.safetensors")).read_bytes() for run in runs)
    assert weights != other


def test_a_run_of_a_sweep_is_what_it_is_alone(swept, project):
    cell = plan_sweep(str(project), [VARY[1]], 2, [VARY[5]], swept).cells[-1]
    run_recipe(cell.recipe, project.parent / "alone")
    assert numbers(project.parent / "alone") == numbers(cell.folder)


def test_results_hold_every_setting_and_seed(swept):
    results = read_sweep(swept)
    assert results["axes"] == {"evaluation.passages": [1, 2]}
    assert [setting["values"] for setting in results["settings"]] == [{"evaluation.passages": k} for k in (1, 2)]
    for setting in results["settings"]:
        assert setting["seeds"] == [0, 1]
        assert {row["name"]: len(row["by_seed"]) for row in setting["methods"]} == {"distill": 2, "kard_bm25": 2}
    changes = {row["method"]: row for row in results["changes"]}
    assert changes["distill"]["difference"] == 0  # it reads no passages
    assert changes["distill"]["p_value"] == 1
    assert "kard sweep" in results["command"]
    page = (swept / "index.html").read_text(encoding="utf-8")
    assert "evaluation.passages" in page


def test_the_docs_get_its_tables(swept):
    writer = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "fill_results.py"))
    results = read_sweep(swept)
    assert writer["sweep_block"](results) == "recipe-sweep-passages"
    text = "\n".join(writer["sweep"](results))
    for setting in results["settings"]:
        for row in setting["methods"]:
            assert f"{100 * row['accuracy']:.1f} ± {100 * row['sd']:.1f} (" in text
    assert "| `distill` | `evaluation.passages` 2 | +0.0 | +0.0 to +0.0 | 0 of 2 | tie, 1.000 |" in text
    assert "Seeds 0, 1, seed of the data 0" in text
    assert "torch" in text


def test_a_finished_sweep_does_nothing_again(swept, project):
    def times() -> dict[Path, int]:
        files = (path for path in swept.glob("*/**/*") if path.is_file() and path.name != "recipe.yaml")
        return {path: path.stat().st_mtime_ns for path in files}

    before, results = times(), read_sweep(swept)
    assert run_sweep(plan_sweep(str(project), [VARY[1]], 2, [VARY[5]], swept, results["command"])) == results
    assert times() == before
    assert "± " in kard("report", swept).stdout


def test_a_stopped_sweep_goes_on(swept, project, tmp_path, monkeypatch):
    """Stopped before its last run, in which nothing but links is left to do."""
    copy = tmp_path / "copy"
    shutil.copytree(swept, copy, copy_function=os.link)
    results = read_sweep(swept)
    sweep = plan_sweep(str(project), [VARY[1]], 2, [VARY[5]], copy, results["command"])
    shutil.rmtree(sweep.cells[-1].folder / "students")
    shutil.rmtree(sweep.cells[-1].folder / "report")
    (copy / "sweep.json").unlink()
    (copy / "sweep.json").write_text('{"format": 1}', encoding="utf-8")
    fails(kard("report", copy), "not finished")
    made = []
    monkeypatch.setattr("kard.stages.plan.make_student", lambda *arguments: made.append(arguments))
    assert run_sweep(sweep) == results
    assert made == []


def test_dry_run_counts_what_is_shared(project):
    sweep = plan_sweep(str(project), ["evaluation.passages=1,2"], 2, [VARY[5]], project.parent / "later")
    rows = list(sweep_states(sweep))
    assert [len(row.to_make) for row in rows] == [10, 4, 1, 1]
    assert [len(row.shared) for row in rows] == [0, 6, 9, 9]
    shown = kard("sweep", project, *VARY, "--dry-run", "-o", project.parent / "later").stdout
    assert "4 runs in" in shown
    assert "Still to do: about" in shown
    assert not (project.parent / "later").exists()


ALL = "evaluation.methods=[finetune, ka_finetune, distill, kard_bm25, kard_reranker, kard_silver]"
DATA = {"questions", "knowledge", "index", "rationales", "candidates", "students/base"}


@pytest.mark.parametrize(
    ("axis", "shared"),
    [
        ("student.rationales=1,2", {"reranker", "students/answers", "students/answers_passages"}),
        ("retriever.candidates=5,10", {"students/answers", "students/answers_passages", "students/rationales"}),
        ("evaluation.passages=1,2", {"reranker", "students/rationales_silver", "predictions/answers"}),
        ("student.train_questions=4,20", {"reranker"}),
        ("student.model={decoder},{t5}", {"reranker", "candidates"}),
        ("knowledge.passage_words=50,100", {"students/answers", "-knowledge", "-index"}),
        ("retriever.kind=bm25,dense,hybrid", {"students/answers", "students/rationales", "-index", "-candidates"}),
    ],
)
def test_every_axis_of_the_paper_shares_what_does_not_depend_on_it(
    axis, shared, project, tmp_path, decoder_folder, t5_folder, encoder_folder
):
    axis = axis.format(decoder=decoder_folder, t5=t5_folder)
    settings = [ALL, f"retriever.encoder={encoder_folder}", "student.trim_vocabulary=false"]
    rows = list(sweep_states(plan_sweep(str(project), [axis], 1, settings, tmp_path / "sweep")))
    assert len(rows) >= 2
    for row in rows[1:]:
        names = {step.name for step in row.shared}
        assert {part for part in shared if not part.startswith("-")} <= names
        assert not {part.removeprefix("-") for part in shared if part.startswith("-")} & names


def test_a_grid_has_every_combination_in_order(project):
    sweep = plan_sweep(str(project), ["student.rationales=1,null", "student.lr=1.0e-4, 0.5"], 1)
    assert [tuple(cell.values.values()) for cell in sweep.cells] == [(1, 1e-4), (1, 0.5), (None, 1e-4), (None, 0.5)]
    assert [cell.recipe.student.rationales for cell in sweep.cells] == [1, 1, None, None]
    assert len({cell.folder for cell in sweep.cells}) == 4
    assert sweep.folder == Path("sweeps/recipe")


def test_keys_with_commas_between_them_have_one_value(project):
    sweep = plan_sweep(str(project), ["student.passages, evaluation.passages=1,2", "student.rationales=1"], 1)
    assert [(cell.recipe.student.passages, cell.recipe.evaluation.passages) for cell in sweep.cells] == [(1, 1), (2, 2)]
    assert sweep.axes == {"student.passages,evaluation.passages": [1, 2], "student.rationales": [1]}
    assert sweep.cells[1].folder.name == "student.passages+evaluation.passages-2_student.rationales-1_seed-0"
    with pytest.raises(UserError, match="twice"):
        plan_sweep(str(project), ["student.passages,evaluation.passages=1", "student.passages=2"], 1)
    with pytest.raises(UserError, match="seed is not varied"):
        plan_sweep(str(project), ["student.passages,seed=1"], 1)


def test_without_an_axis_seeds_alone_differ(project):
    sweep = plan_sweep(str(project), [], 3, ["seed=5"])
    assert [(cell.recipe.seed, cell.recipe.data_seed) for cell in sweep.cells] == [(5, 5), (6, 5), (7, 5)]
    own = plan_sweep(str(project), [], 2, ["data_seed=1"])
    assert [(cell.recipe.seed, cell.recipe.data_seed) for cell in own.cells] == [(0, 1), (1, 1)]


def test_folders_of_odd_values_differ():
    odd = ["a/b", "a b", "a-b", "package:x", "x" * 99 + "1", "x" * 99 + "2", None, "null", True]
    names = [run_name({"k.v": value}, 0) for value in odd]
    assert len(set(names)) == len(names)
    assert all("/" not in one and " " not in one and len(one) < 80 for one in names)


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("rationales.per_question=1", "unknown key 'rationales'"),
        ("student.rationales", "write it as section.key=value,value"),
        ("student.rationales=", "write it as section.key=value,value"),
        ("student.rationales=1,x", "student.rationales"),
        ("student.rationales=1,1", "a value is there twice"),
        ("student.rationales=[1", "not valid YAML"),
        ("seed=1,2", "use --seeds"),
        ("data_seed=1,2", "same questions"),
    ],
)
def test_axes_that_make_no_sense(project, axis, words):
    with pytest.raises(UserError, match=words):
        plan_sweep(str(project), [axis], 1)


def test_a_key_twice_and_a_folder_of_something_else(project, tmp_path):
    fails(kard("sweep", project, "--vary", "student.lr=1", "--vary", "student.lr=2"), "twice")
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    fails(kard("sweep", project, "-o", tmp_path), "no kard sweep")


def test_an_error_names_the_run(project, tmp_path):
    with pytest.raises(UserError, match=r"^questions.test_size-1000_seed-0: .*1000 asked for"):
        run_sweep(plan_sweep(str(project), ["questions.test_size=1000"], 1, [], tmp_path / "s"))


def test_paid_replies_and_the_budget_are_one_for_all_runs(project, tmp_path, monkeypatch):
    """The link is there before the run asks, so that SQLite makes the file that it leads to."""
    from kard.teacher.cache import ReplyCache

    monkeypatch.setattr("kard.teacher.endpoint.check_endpoint", lambda section: None)
    settings = ["teacher.kind=openai", "teacher.model=m", "questions.test_size=1000"]
    sweep = plan_sweep(str(project), ["teacher.rationales=1,2"], 1, settings, tmp_path / "s")
    with pytest.raises(UserError, match="1000 asked for"):
        run_sweep(sweep)
    ReplyCache(sweep.cells[0].folder / "teacher.sqlite").close()
    assert (tmp_path / "s" / "teacher.sqlite").is_file()


def test_data_seed_keeps_questions_and_rationales(project):
    keys = [
        {step.name: step.hash for step in run.to_make}
        for changes in ([], ["seed=1"], ["seed=1", "data_seed=0"])
        for run in sweep_states(plan_sweep(str(project), [], 1, changes, project.parent / "none"))
    ]
    assert all(keys[0][name] == keys[2][name] for name in DATA)
    assert keys[0]["students/rationales"] != keys[2]["students/rationales"]
    assert keys[0]["questions"] != keys[1]["questions"]
    assert load_recipe(str(project), ["seed=4"]).seed_of_data == 4
