"""Other knowledge bases: the same student and reranker over other documents, compared on the same questions."""

from __future__ import annotations

import json

import pytest

from kard.errors import UserError
from kard.evaluation.several import sweep_results
from kard.pipeline import run_recipe, states
from kard.recipe.file import load_recipe
from kard.report.sweep import render_sweep
from kard.tools.show import last_lines
from tests.conftest import project_rows, write_rows


def test_the_same_student_over_other_documents(project):
    _, passages = project_rows(48, 1)
    write_rows(project.parent / "half.jsonl", passages[:24])
    write_rows(project.parent / "other.jsonl", [{"id": "x", "text": "Nothing of the kind."}])
    settings = ["evaluation.methods=[kard_bm25, kard_reranker, distill, kard_silver]", "student.epochs=1"]
    settings.append("evaluation.split=dev")
    before = [step.name for step in states(load_recipe(str(project), settings), project.parent / "run")]
    other = "evaluation.knowledge={half: {kind: jsonl, path: half.jsonl}, other: {kind: jsonl, path: other.jsonl}}"
    recipe = load_recipe(str(project), [*settings, other])
    results = run_recipe(recipe, recipe.output)
    own, half, unrelated = results["knowledge_bases"]
    assert [(base["name"], base["passages"]) for base in results["knowledge_bases"]] == [
        ("own", 48),
        ("half", 24),
        ("other", 1),
    ]
    for base in (own, half, unrelated):
        assert [row["name"] for row in base["methods"]] == ["kard_bm25", "kard_reranker"]
    accuracies = {row["name"]: row["accuracy"] for row in results["methods"]}
    assert [row["accuracy"] for row in own["methods"]] == [accuracies["kard_bm25"], accuracies["kard_reranker"]]
    for row, over in zip(own["methods"], half["methods"], strict=True):
        assert over["difference"] == pytest.approx(over["accuracy"] - row["accuracy"])
        assert row["gold_read"] > 0
    assert unrelated["methods"][0]["gold_read"] is None
    page = (recipe.output / "report" / "index.html").read_text(encoding="utf-8")
    assert "How much it depends on the knowledge base" in page
    assert before == [step.name for step in states(recipe, recipe.output) if "over_" not in step.name]
    read = json.loads(
        (recipe.output / "predictions/rationales_silver_over_half/kard_bm25.jsonl").read_text("utf-8").split("\n")[0]
    )
    assert {passage["id"] for passage in read["passages"]} <= {row["id"] for row in passages[:24]}
    asked = read["prompt"].partition("Question: ")[2].partition("\n")[0]
    assert f"\nA question that no training has seen: {asked}" in last_lines(recipe.output)
    sweep = sweep_results({}, [recipe.seed], [({}, recipe.output)])
    [setting] = sweep["settings"]
    over = [(row["name"], row["method"], row["accuracy"], row["gold_read"]) for row in setting["knowledge_bases"]]
    bases = [(base["name"], row) for base in results["knowledge_bases"] for row in base["methods"]]
    assert over == [(name, row["name"], row["accuracy"], row["gold_read"]) for name, row in bases]
    assert '<th scope="row">half <span class="note">24 passages</span></th>' in render_sweep(
        {**sweep, "command": "kard sweep"}
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{own: {kind: wikivital}}", "'own' is the name of the run's own documents"),
        ("{Other name: {kind: wikivital}}", "evaluation.knowledge"),
        ("{other: {kind: jsonl}}", "take one"),
    ],
)
def test_names_and_sections_are_checked(project, value, message):
    with pytest.raises(UserError, match=message):
        load_recipe(str(project), [f"evaluation.knowledge={value}"])
