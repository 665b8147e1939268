"""Documents that have changed since a run was made: it is said, once, and only where they have."""

from __future__ import annotations

import os

import pytest
import yaml
from typer.testing import CliRunner

from kard.artifacts.files import read_json
from kard.cli.main import app
from kard.data.sources import SOURCES
from kard.pipeline import index_recipe, run_recipe
from kard.recipe.file import load_recipe


@pytest.fixture
def indexed(project):
    """A run with questions, passages and index."""
    loaded = load_recipe(str(project))
    index_recipe(loaded, project.parent / "run")
    run_recipe(loaded, project.parent / "run", "questions")
    return project.parent / "run"


def said(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result
    return " ".join(result.stderr.split())


def test_changed_documents_are_named(project, indexed):
    documents = project.parent / "passages.jsonl"
    assert "has changed" not in said("search", indexed, "stone") + said("status", indexed)
    os.utime(documents, ns=(1, 1))  # copied, or checked out again: the same text
    assert "has changed" not in said("search", indexed, "stone")
    text = documents.read_text(encoding="utf-8")
    documents.write_text(text.replace("red", "brown"), encoding="utf-8")
    line = (
        f"passages.jsonl has changed since {indexed / 'knowledge'} was made: answers come from what it was. "
        f"Run: kard run {indexed / 'recipe.yaml'} --output {indexed}"
    )
    assert said("search", indexed, "stone") == line
    questions = project.parent / "questions.jsonl"
    questions.write_text(questions.read_text(encoding="utf-8").replace("Which", "What"), encoding="utf-8")
    assert said("search", indexed, "stone") == line
    shown = said("status", indexed)
    assert line in shown
    assert f"questions.jsonl has changed since {indexed / 'questions'} was made" in shown
    run_recipe(load_recipe(str(indexed / "recipe.yaml")), indexed, "index")  # as the line says
    assert "has changed" not in said("search", indexed, "stone")
    documents.unlink()
    assert said("search", indexed, "stone") == ""  # a run that was moved has nothing to compare


def test_a_folder_of_documents_changes_by_any_file_of_it(project):
    folder = project.parent / "docs"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"The stone {name} is red.", encoding="utf-8")
    recipe = yaml.safe_load(project.read_text(encoding="utf-8"))
    recipe["knowledge"] = {"kind": "files", "path": "docs"}
    project.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run = project.parent / "run"
    index_recipe(load_recipe(str(project)), run)
    assert said("search", run, "stone") == ""
    (folder / "c.txt").write_text("The stone c is blue.", encoding="utf-8")
    assert "docs has changed since" in said("search", run, "stone")
    assert [row.keys() for row in read_json(run / "knowledge" / SOURCES)["files"]] == [{"looks", "content"}]
