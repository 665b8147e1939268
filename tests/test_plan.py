"""Keys: a stage reads nothing of the recipe that its key does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kard.artifacts.folders import build, open_run
from kard.recipe.base import Section
from kard.recipe.file import load_recipe
from kard.recipe.recipe import Recipe
from kard.stages.plan import Step, plan

# What a key holds as something that was worked out from the recipe, and what only decides whether there is an error.
WORKED_OUT = {
    "questions": {"evaluation.split", "student.long_questions", "evaluation.abstain"},  # errors
    "rationales": {"evaluation.split", "student.early_stopping", "student.train_questions", "reranker.train_questions"},
    "candidates": {"student.passages", "evaluation.passages"},  # as `depth`
    # As `asks`; held where it is set.
    "students": {"evaluation.methods", "student.early_stopping", "reranker.likelihood_weight", "student.quantized"},
    # As `methods`; a line on the screen; how many passages of none; a step for each; as `calibrated`, and a line; held where set.
    "predictions": {
        "evaluation.methods",
        "evaluation.shots",
        "evaluation.passages",
        "evaluation.knowledge",
        "evaluation.abstain",
        "evaluation.vllm",
    },
}
METHODS = (
    "[few_shot, ka_few_shot_cot, finetune, ka_finetune, distill, kard_bm25, kard_reranker, kard_silver, teacher_cot]"
)


def held(step: Step, steps: dict[str, Step]) -> set[str]:
    """The recipe's keys in a step's key, and in those of the steps that it reads."""
    found = set(step.key["recipe"])
    for name in step.key["inputs"]:
        found |= held(steps[name], steps)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        [f"evaluation.methods={METHODS}", "evaluation.shots=2"],
        [
            "evaluation.methods=[few_shot, finetune, distill, kard_reranker]",
            "reranker.likelihood_weight=1",
            "evaluation.samples=2",
            "evaluation.abstain.risk=0.6",
        ],
        [
            "evaluation.methods=[finetune, kard_reranker]",
            "retriever.kind=hybrid",
            "reranker.title_weight=0.1",
            "student.trim_vocabulary=false",
        ],
    ],
)
def test_a_stage_reads_no_key_that_is_not_in_its_own(project, encoder_folder, monkeypatch, changes):
    recipe = load_recipe(str(project), [*changes, f"retriever.encoder={encoder_folder}"])
    sections = {id(value): name for name, value in recipe if isinstance(value, Section)}
    read: set[str] = set()

    def recording(self: Section, name: str) -> Any:
        if id(self) in sections and name in type(self).model_fields:
            read.add(f"{sections[id(self)]}.{name}")
        return object.__getattribute__(self, name)

    folder: Path = recipe.output
    open_run(folder)
    steps = {step.name: step for step in plan(recipe, folder)}
    monkeypatch.setattr(Section, "__getattribute__", recording)
    unknown: dict[str, set[str]] = {}
    for step in steps.values():
        read.clear()
        build(step.name, folder / step.name, step.key, step.make)
        known = held(step, steps) | WORKED_OUT.get(step.stage, set())
        left = {name for name in read if not name.endswith(".resources")}
        unknown[step.name] = {name for name in left - known if name.split(".")[0] not in known}
    left_over = [f"{name}: {sorted(keys)}" for name, keys in unknown.items() if keys]
    assert not left_over, "\n".join(left_over)


def test_every_key_of_the_recipe_is_in_some_key(project):
    everything = [
        f"evaluation.methods={METHODS}",
        "retriever.kind=hybrid",
        "evaluation.samples=2",
    ]
    model = load_recipe(str(project)).reranker.model
    recipe = load_recipe(str(project), [*everything, f"retriever.encoder={model}"])
    known = {name for step in plan(recipe, recipe.output) for name in step.key["recipe"]}
    keys = {
        f"{name}.{key}"
        for name, section in Recipe.model_validate(recipe.model_dump())
        if isinstance(section, Section)
        for key in type(section).model_fields
    }
    missing = {key for key in keys - known if key.split(".")[0] not in known and not key.endswith(".resources")}
    assert missing <= set().union(*WORKED_OUT.values()) | {"retriever.milvus"}  # with it alone


def test_what_resources_say_is_in_no_key(project, tmp_path):
    prompt = tmp_path / "p.txt"
    prompt.write_text("$question", encoding="utf-8")
    asking = ["teacher.kind=openai", "teacher.model=m", "teacher.base_url=http://127.0.0.1:9/v1"]

    def keys(*changes: str) -> dict[str, str]:
        recipe = load_recipe(str(project), [*asking, *changes])
        return {step.name: step.hash for step in plan(recipe, recipe.output)}

    plain = keys()
    spent = [
        f"teacher.resources.{key}" for key in ("concurrency=2", "max_total_tokens=5", "timeout=1", "input_price=1.0")
    ]
    assert keys(*spent, "teacher.resources.api_key_env=KEY", "student.resources.compile=true") == plain
    assert keys("teacher.temperature=0.1")["rationales"] != plain["rationales"]
    own = keys(f"teacher.prompt={prompt}")["rationales"]
    prompt.write_text("$question?", encoding="utf-8")
    assert keys(f"teacher.prompt={prompt}")["rationales"] != own
