"""`kard init` leaves a project that every reader takes."""

from __future__ import annotations

import re

import pytest

from kard.data.questions import load_splits
from kard.errors import UserError
from kard.methods import methods_named
from kard.recipe.file import load_recipe
from kard.tools.init import teacher_of, write_project
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


@pytest.fixture
def handbook(tmp_path):
    (tmp_path / "hand book" / "deep").mkdir(parents=True)
    for name in ("a.md", "deep/b.PDF", "c.csv"):
        (tmp_path / "hand book" / name).write_text("text", encoding="utf-8")
    return tmp_path / "hand book"


def test_a_recipe_for_documents(tmp_path, handbook):
    assert write_project(tmp_path / "model", handbook, "qwen@http://localhost:1/v1") == ["recipe.yaml"]
    recipe = load_recipe(str(tmp_path / "model" / "recipe.yaml"))
    assert (recipe.name, recipe.questions.kind, recipe.output) == ("model", "generated", tmp_path / "model" / "run")
    assert (recipe.knowledge.kind, recipe.knowledge.path.resolve()) == ("files", handbook)
    assert (recipe.teacher.model, recipe.teacher.base_url) == ("qwen", "http://localhost:1/v1")
    overrides, section = [], ""
    for line in (tmp_path / "model" / "recipe.yaml").read_text(encoding="utf-8").splitlines():
        section = found[1] if (found := re.fullmatch(r"(\w+):", line)) else section
        if found := re.fullmatch(r"  (  )?# (\w+): ([^#]+).*", line):
            overrides.append(f"{section}.{'resources.' if found[1] else ''}{found[2]}={found[3]}")
    assert len(overrides) == 5
    assert load_recipe(str(tmp_path / "model" / "recipe.yaml"), overrides).questions.keep_known


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("a.jsonl", "jsonl"),
        ("a.tsv", "csv"),
        ("a.parquet", "parquet"),
        ("wiki.xml.bz2", "mediawiki"),
        ("a.html", "files"),
    ],
)
def test_one_file_of_any_format(tmp_path, file, kind):
    (tmp_path / file).write_text("x", encoding="utf-8")
    write_project(tmp_path / "model", tmp_path / file, "gpt")
    assert load_recipe(str(tmp_path / "model" / "recipe.yaml")).knowledge.kind == kind


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("a/b@https://x.example/v1", {"kind": "openai", "model": "a/b", "base_url": "https://x.example/v1"}),
        ("gpt-6-luna", {"kind": "openai", "model": "gpt-6-luna", "temperature": None}),
        ("Qwen/Qwen2.5-1.5B-Instruct", {"kind": "transformers", "model": "Qwen/Qwen2.5-1.5B-Instruct"}),
        ("package:tiny", {"kind": "transformers", "model": "package:tiny"}),
        ("/models/x.GGUF", {"kind": "llama_cpp", "model": "/models/x.GGUF"}),
    ],
)
def test_teachers_by_name(name, section):
    assert teacher_of(name) == section


def test_a_folder_is_a_model(tmp_path):
    assert teacher_of(str(tmp_path)) == {"kind": "transformers", "model": str(tmp_path)}


@pytest.mark.parametrize(
    ("documents", "teacher", "says"),
    [
        ("hand book", None, "--documents and --teacher: the teacher asks about the documents"),
        (None, "gpt", "--documents and --teacher: the teacher asks about the documents"),
        ("nowhere", "gpt", r"nowhere: no such file or folder \(--documents\)"),
        ("empty", "gpt", r"empty: holds 0 files, none that can be read \(\.txt, .*\.parquet\)"),
        ("pictures", "gpt", "pictures: holds 1 files, none that can be read"),
        ("hand book", "http://localhost:1/v1", r"names no model\. Write MODEL@http://localhost:1/v1"),
    ],
)
def test_what_no_recipe_can_be_written_for(tmp_path, handbook, documents, teacher, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=says):
        write_project(tmp_path / "model", documents and tmp_path / documents, teacher)
    assert not (tmp_path / "model").exists()
