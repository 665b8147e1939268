"""`kard init` leaves a project that every reader takes."""

from __future__ import annotations

import re

import pytest

from kard.data.questions import load_splits
from kard.errors import UserError
from kard.methods import methods_named
from kard.recipe.file import load_recipe
from kard.tools.init import write_project
from tests.conftest import load_passages


@pytest.fixture
def project(tmp_path):
    write_project(tmp_path / "neu" / "mein Projekt é")
    return tmp_path / "neu" / "mein Projekt é"


def test_the_recipe_loads_with_its_data(project):
    assert {item.name for item in project.iterdir()} == {"recipe.yaml", "questions.jsonl", "passages.jsonl"}
    recipe = load_recipe(str(project / "recipe.yaml"))
    assert (recipe.name, recipe.output) == ("mein Projekt é", project / "run")
    splits = load_splits(recipe.questions, recipe.seed)
    assert {name: len(splits[name]) for name in splits} == {"train": 10, "dev": 2, "test": 4}
    passages = {passage.id: passage for passage in load_passages(recipe.knowledge)}
    for question in [question for split in splits.values() for question in split]:
        [gold] = question.gold_passages
        assert passages[gold].title == question.answer_text
        assert len(set(question.choices)) == 4
        assert question.rationales == (passages[gold].text,)
    assert methods_named(recipe.evaluation.methods)


def test_every_setting_in_a_remark_is_one(project):
    """Lines such as `# train_size: 1000` can be taken in as they are."""
    section, overrides = "", []
    for line in (project / "recipe.yaml").read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"(\w+):", line):
            section = found[1]
        elif found := re.fullmatch(r"  # (\w+): ([^#]+).*", line):
            overrides.append(f"{section}.{found[1]}={found[2]}")
    recipe = load_recipe(str(project / "recipe.yaml"), overrides)
    assert len(overrides) == 10
    assert (recipe.questions.train_size, recipe.questions.shuffle_choices) == (1000, True)
    assert (recipe.teacher.kind, recipe.teacher.rationales, recipe.student.train_questions) == ("openai", 3, 500)


@pytest.mark.parametrize("name", ["recipe.yaml", "questions.jsonl", "passages.jsonl"])
def test_nothing_is_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=f"{name}: is there already"):
        write_project(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"file: is a file\. Name a new folder"):
        write_project(tmp_path / "file")


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    write_project(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
