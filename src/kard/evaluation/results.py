"""results.json: every number of a run, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np

from kard.artifacts.files import read_json
from kard.artifacts.folders import Artifact, manifest_of
from kard.data.passages import report_of
from kard.evaluation.cost import costs
from kard.evaluation.diagnosis import diagnose
from kard.evaluation.knowledge import knowledge_results
from kard.evaluation.leaks import find_leaks
from kard.evaluation.selective import selective_results
from kard.evaluation.statistics import paired_tests, wilson
from kard.methods import METHODS, Method, methods_named
from kard.progress import progress, say
from kard.prompt import examples_in
from kard.recipe.recipe import Recipe
from kard.run import Run

PACKAGES = ("kard", "torch", "transformers", "peft", "sentence-transformers", "bm25s", "numpy")


def build_results(run: Run, done: Sequence[Artifact]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Collect the numbers of a finished run.

    Args:
        run: With the predictions of every method.
        done: Its stages, for their times.

    Returns:
        The content of results.json: accuracies and differences are fractions, intervals are 95 % (Wilson for accuracies,
        paired bootstrap for differences), p values are exact McNemar, Holm-corrected over all comparisons; and what
        `diagnose` says of each mistake.
    """
    recipe = run.recipe
    methods = methods_named(recipe.evaluation.methods)
    answered = {method.name: rows for method in methods if (rows := run.predictions(method.name))}
    right = {name: [row["correct"] for row in rows] for name, rows in answered.items()}
    found = run.rankings() if "kard_reranker" in answered else []
    file = recipe.questions.path or recipe.questions.test
    diagnosis, mistakes = diagnose(run, answered)
    results = {
        "recipe": recipe.name,
        "dataset": f"{file.parent.name}/{file.name}" if file else _source_of(recipe),
        "split": recipe.evaluation.split,
        "seed": recipe.seed,
        "environment": environment(recipe),
        "knowledge": report_of(run.folder / "knowledge"),
        **({"generated": generated_of(run)} if recipe.questions.kind == "generated" else {}),
        "methods": [_method_row(run, METHODS[name], rows) for name, rows in answered.items()],
        "skipped_methods": [
            {"name": method.name, "why": why_skipped(method)} for method in methods if method.name not in answered
        ],
        "retrieval": sorted(found, key=lambda row: str(row["against"])),  # gold first
        "comparisons": paired_tests(right, pairs_to_compare(list(right)), recipe.seed),
        "knowledge_bases": knowledge_results(run, answered),
        **({"confidence": selective} if (selective := selective_results(run, answered)) else {}),
        "diagnosis": diagnosis,
        "leaks": leaks_of(run, answered),
        "costs": costs(run, answered),
        "stages": [{"name": a.name, "seconds": round(a.seconds, 2), "skipped": a.skipped} for a in done],
    }
    return results, mistakes


def _source_of(recipe: Recipe) -> str:
    """What questions without a file of their own come from."""
    section = recipe.knowledge
    made_from = section.path.name if section.path else section.kind
    return f"generated from {made_from}" if recipe.questions.kind == "generated" else recipe.questions.kind


def generated_of(run: Run) -> dict[str, Any]:
    """What became of the questions that the teacher was asked for, how they were split, how many of those that are evaluated
    nobody has read (``unread``), and what to say of that wherever an accuracy is shown (``warning``)."""
    reviewer = {one.id: one.reviewer for one in run.generated()}
    evaluated = run.evaluated()
    unread = sum(not reviewer[question.id] for question in evaluated)
    warning = (
        f"{unread:,} of {len(evaluated):,} {run.recipe.evaluation.split} questions were made by a machine and read by nobody: an "
        "accuracy on them says how often the teacher's answer is met. Read them with kard review."
    )
    found: dict[str, Any] = read_json(run.folder / "questions" / "generated.json")
    return {**found, "unread": unread, "warning": warning if unread else ""}


def leaks_of(run: Run, predictions: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """What `find_leaks` finds in a run, of passages in those that the retriever finds for its questions.

    It is said aloud where it is loud, with each method's accuracy without leaked questions (``clean``: ``name, n,
    accuracy``; none where a training question collides with none or with all of them).
    """
    recipe, test = run.recipe, run.evaluated()
    passages = run.passages().texts
    # A passage that no search for a question finds gives nothing away, and there may be millions of them.
    queries = [question.query("question_and_choices") for question in test]
    hits = run.retriever().search(queries, recipe.retriever.candidates)
    looked_at = np.unique(np.concatenate([hit.positions for hit in hits])).tolist()
    with progress("look for leaks", len(looked_at), "passages") as advance:
        found = find_leaks(test, run.questions("train"), (passages[place] for place in looked_at), advance)
    for kind, text in (("train", "a training question"), ("passages", "a passage")):
        if found[kind]["loud"]:
            count = f"{len(found[kind]['questions']):,} of {len(test):,} {recipe.evaluation.split} questions"
            advice = "Where questions are made from one template, that may be all they share: the report has examples."
            say(f"  {count} share {found['n']} words in a row with {text}, and may be answered from memory. {advice}")
    leaked = set(found["train"]["questions"])
    clean = []
    for name, rows in predictions.items():
        right = [row["correct"] for row in rows if row["question"] not in leaked]
        if leaked and right:
            clean.append({"name": name, "n": len(right), "accuracy": sum(right) / len(right)})
    return found | {"clean": clean}


def why_skipped(method: Method) -> str:
    """Why an oracle method has no predictions."""
    if method.reads == "gold":
        return "no question names gold passages that are in the knowledge base"
    if method.reads == "teacher_rationale":
        return "no question has a rationale"
    return "no question has a rationale, so there are no silver passages for it"


def pairs_to_compare(names: Sequence[str]) -> list[tuple[str, str]]:
    """kard_plus, kard_reranker and distill each against all; all pairs where none of them is there."""
    hubs = [name for name in ("kard_plus", "kard_reranker", "distill") if name in names]
    if not hubs:
        return list(combinations(names, 2))
    return [(hub, name) for place, hub in enumerate(hubs) for name in names if name not in hubs[: place + 1]]


def environment(recipe: Recipe) -> dict[str, Any]:
    """Versions and machine that the numbers were made with."""
    import platform

    import torch

    from kard.models.precision import compute_dtype
    from kard.models.weights import model_config

    config = model_config(recipe.student.model)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "dtype": str(compute_dtype(recipe.student.dtype, config.model_type if config else "")).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
        "threads": torch.get_num_threads(),
        "batch_size": {"train": recipe.student.batch_size, "predict": recipe.evaluation.resources.batch_size},
    }


def _method_row(run: Run, method: Method, rows: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = manifest_of(run.folder / "students" / method.trained_on) if method.trained_on != "nothing" else None
    given = "rationale" if method.reads == "teacher_rationale" else "passages"
    correct = sum(row["correct"] for row in rows)
    shown = [examples_in(row["prompt"]) for row in rows]
    return {
        "name": method.name,
        "n": len(rows),
        "accuracy": correct / len(rows),
        "ci95": list(wilson(correct, len(rows))),
        "unparsed": sum(not row["parsed"] for row in rows),
        "cut": sum(row["cut"] for row in rows),
        "without_passages": sum(not row[given] for row in rows) if method.reads != "nothing" else 0,
        "shots": sum(shown) / len(rows),
        "without_shots": shown.count(0) if method.trained_on == "nothing" else 0,
        "questions_cut": sum(row.get("question_cut", False) for row in rows),
        "train_seconds": float(manifest["seconds"]) if manifest else 0.0,
        "predict_seconds": round(sum(row["seconds"] for row in rows), 2),
    }
