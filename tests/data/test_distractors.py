"""Distractors stand behind the base, under ids of their own, and a larger share holds the smaller one."""

from __future__ import annotations

import pytest

from kard.artifacts import read_json
from kard.data.passage import positions_of, read_passages
from kard.data.passages import make_passages
from kard.errors import UserError
from kard.pipeline import index_recipe, run_recipe
from kard.plan import plan
from kard.recipe import KnowledgeSection
from kard.recipe_file import load_recipe
from tests.conftest import write_rows


def rows(prefix, count, first=0):
    return [{"id": f"{prefix}{n}", "title": "", "text": f"{prefix} says number {n}."} for n in range(first, count)]


def made(folder, gold=(), seed=0, **settings):
    folder.mkdir()
    make_passages(KnowledgeSection(duplicates=1, **settings), folder, gold, seed)
    return list(read_passages(folder / "passages.jsonl"))


@pytest.fixture
def files(tmp_path):
    write_rows(tmp_path / "base.jsonl", rows("a", 4))
    # One id and one text are those of the base.
    write_rows(tmp_path / "other.jsonl", [*rows("b", 20), *rows("a", 4, 2)])
    return {"path": tmp_path / "base.jsonl", "distractors": tmp_path / "other.jsonl"}


def test_distractors_come_last_with_ids_of_their_own(tmp_path, files):
    found = made(tmp_path / "x", **files, distractor_factor=2)
    assert [passage.id for passage in found[:4]] == ["a0", "a1", "a2", "a3"]
    assert len(found) == 12
    assert {passage.id.split(":")[0] for passage in found[4:]} == {"distractor"}
    texts = [passage.text for passage in found]
    assert len(set(texts)) == 12  # a text of the base is no distractor
    assert positions_of(tmp_path / "x", ["a2", "b1"]) == {"a2": [2]}
    assert read_json(tmp_path / "x" / "report.json")["distractors"] == {"base": 4, "drawn": 8, "of": 20}


def test_more_hold_the_fewer_of_the_same_seed(tmp_path, files):
    one, three, other = (
        [p.id for p in made(tmp_path / f"{factor}-{seed}", seed=seed, **files, distractor_factor=factor)]
        for factor, seed in ((1, 0), (3, 0), (3, 1))
    )
    assert three[: len(one)] == one
    assert set(three) != set(other)


def test_rest_keeps_what_questions_name_and_draws_from_the_others(tmp_path, files):
    settings = {"path": files["distractors"], "distractors": "rest"}
    found = made(tmp_path / "x", gold=["b3", "b7"], **settings, distractor_factor=1.5)
    assert [passage.id for passage in found[:2]] == ["b3", "b7"]
    assert len(found) == 5
    assert [p.id for p in made(tmp_path / "y", gold=["b3"], **settings, distractor_factor=0)] == ["b3"]


def test_too_few_distractors_say_how_many_can_be_had(tmp_path, files):
    with pytest.raises(UserError, match=r"6 times 4 passages asked for, 20 distractors there are. At most 5 can"):
        made(tmp_path / "x", **files, distractor_factor=6)


def test_rest_without_gold_passages_is_an_error(tmp_path, files):
    with pytest.raises(UserError, match="have to name gold passages"):
        made(tmp_path / "x", path=files["path"], distractors="rest")


def test_a_missing_file_is_named(project):
    recipe = load_recipe(str(project), ["knowledge.distractors=nowhere.jsonl"])
    with pytest.raises(UserError, match=r"nowhere.jsonl: no such file \(knowledge.distractors\)"):
        plan(recipe, recipe.output)


def test_a_run_and_an_index_alone_have_the_same_base(project):
    """All 48 questions name their own passage: without the questions there is no base, so they are read first."""
    write_rows(project.parent / "more.jsonl", [*map(dict, rows("c", 200))])
    text = (project.parent / "passages.jsonl").read_text(encoding="utf-8")
    with open(project.parent / "passages.jsonl", "a", encoding="utf-8") as file:
        file.write((project.parent / "more.jsonl").read_text(encoding="utf-8"))
    recipe = load_recipe(str(project), ["knowledge.distractors=rest", "knowledge.distractor_factor=3"])
    index_recipe(recipe, project.parent / "index")
    run_recipe(recipe, project.parent / "run", until="index")
    alone, whole = (
        list(read_passages(project.parent / name / "knowledge" / "passages.jsonl")) for name in ("index", "run")
    )
    assert alone == whole
    assert len(whole) == 4 * len(text.splitlines()) == 192


def test_without_distractors_the_key_is_what_it_was(project):
    """Folders of runs that were made before stay right."""
    recipe = load_recipe(str(project))
    keys = {step.name: step.key for step in plan(recipe, recipe.output)}
    assert "distractor" not in str(keys["knowledge"])
    other = load_recipe(str(project), ["knowledge.distractor_factor=3"])
    assert keys == {step.name: step.key for step in plan(other, other.output)}
