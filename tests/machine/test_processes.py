"""Two processes on one recipe do what one does: same order of the data, same losses, same predictions."""

from __future__ import annotations

import contextlib
import json
import os
import sys

import pytest
import torch
from safetensors.torch import load_file

from kard.machine.processes import alone, process_count, rank
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from tests import forks

METHODS = "evaluation.methods=[distill,kard_bm25,kard_reranker]"


def test_alone_hides_the_other_processes(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with alone():
        assert (rank(), process_count()) == (0, 1)
        assert "ACCELERATE_USE_FSDP" not in os.environ
    assert (os.environ["WORLD_SIZE"], os.environ["ACCELERATE_USE_FSDP"]) == ("2", "true")


def test_a_batch_that_cannot_be_shared_is_an_error(decoder_folder, tmp_path, monkeypatch):
    from kard.errors import UserError
    from kard.recipe.sections import StudentSection
    from kard.student.training import Example, train_student

    monkeypatch.setenv("WORLD_SIZE", "3")
    section = StudentSection(model=str(decoder_folder), dtype="fp32", batch_size=8)
    with pytest.raises(UserError, match="multiple"):
        train_student([Example("a", "b")], str(decoder_folder), "x", section, 0, tmp_path, "train")


def one_student(model, folder, last):
    """Train a student; with `last`, end in disorder after so many steps."""
    import kard.models.training
    from kard.recipe.sections import StudentSection
    from kard.student.training import train_student
    from tests.student.test_training import lookup_task

    original, steps = kard.models.training._Watch.on_step_end, []

    def until_the_last(self, *args, **kwargs):
        original(self, *args, **kwargs)
        steps.append(1)
        if len(steps) == last:
            raise SystemExit(7)

    kard.models.training._Watch.on_step_end = until_the_last
    section = StudentSection(model=model, method="full", dtype="fp32", epochs=3, batch_size=8, lr=5e-3)
    train_student(lookup_task()[:17], model, model, section, 0, folder, "train", checkpoint_minutes=0.0)


def one_command(arguments, folder):
    """What a launcher starts: the program, which keeps apart what each process says."""
    from kard.__main__ import main

    sys.argv = ["kard", *arguments]
    out, err = ((folder / f"{name}-{rank()}").open("w", encoding="utf-8") for name in ("out", "err"))
    with out, err, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main()


@pytest.mark.parametrize("kind", ["decoder_folder", "t5_folder"])
def test_two_processes_train_alike_with_a_batch_of_one_and_after_being_killed(kind, request, tmp_path):
    """Of the last batch's one example the second process has nothing; the third epoch begins after the interruption."""
    model = str(request.getfixturevalue(kind))
    assert forks.run(one_student, model, tmp_path / "one", 0) == [0]
    assert forks.run(one_student, model, tmp_path / "two", 0, processes=2) == [0, 0]
    assert forks.run(one_student, model, tmp_path / "killed", 5, processes=2) == [7, 7]
    assert forks.run(one_student, model, tmp_path / "killed", 0, processes=2) == [0, 0]
    weights = [load_file(tmp_path / name / "weights" / "model.safetensors") for name in ("one", "two", "killed")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(weights[2][name], weights[1][name], atol=1e-6, rtol=1e-5)
    curves = [
        json.loads((tmp_path / name / "training.json").read_text(encoding="utf-8"))["loss"]
        for name in ("one", "two", "killed")
    ]
    assert [row["loss"] for row in curves[1]] == pytest.approx([row["loss"] for row in curves[0]], rel=1e-3)
    assert curves[2] == curves[1]


def test_two_processes_do_what_one_does(project):
    one, two = project.parent / "one", project.parent / "two"
    recipe = load_recipe(str(project), [METHODS])
    run_recipe(recipe, one)
    shown = project.parent / "shown"
    shown.mkdir()
    arguments = ("run", str(project), "--output", str(two), "--set", METHODS)
    assert forks.run(one_command, arguments, shown, processes=2) == [0, 0]
    said = {path.name: path.read_text(encoding="utf-8") for path in shown.iterdir()}
    assert [said[f"out-{number}"].count("Report:") for number in (0, 1)] == [1, 0]  # the first process alone speaks
    assert [said[f"err-{number}"].count("students/rationales took") for number in (0, 1)] == [1, 0]
    for name in ("rationales", "rationales_silver"):
        curves = [
            json.loads((run / "students" / name / "training.json").read_text(encoding="utf-8")) for run in (one, two)
        ]
        losses = [[row["loss"] for row in curve["loss"]] for curve in curves]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert [row["step"] for row in curves[0]["loss"]] == [row["step"] for row in curves[1]["loss"]]
        assert curves[0]["examples"] == curves[1]["examples"]
    for path in [path for method in recipe.evaluation.methods for path in one.glob(f"predictions/*/{method}.jsonl")]:
        assert texts(path) == texts(two / path.relative_to(one))
    shares = [two / "predictions" / "rationales_silver" / name for name in ("written.jsonl", "written-1.jsonl")]
    assert all(path.stat().st_size for path in shares)  # both wrote


def texts(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["question"], row["prompt"], row["text"], row["correct"]) for row in rows]
