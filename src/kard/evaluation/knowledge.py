"""How much the answers depend on the knowledge base: the same students and reranker over others (``evaluation.knowledge``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kard.calibration import read_calibrations
from kard.data.passages import report_of
from kard.data.question import Question
from kard.evaluation.statistics import paired_tests, wilson
from kard.methods import METHODS
from kard.recipe.sections import OWN
from kard.run import Run

Rows = Sequence[Mapping[str, Any]]


def knowledge_results(run: Run, answered: Iterable[str]) -> list[dict[str, Any]]:
    """Accuracies by knowledge base, each compared with the run's own.

    Args:
        run: With the predictions over all of them.
        answered: The methods that it has predictions of.

    Returns:
        One object a knowledge base, the run's own first: ``name, documents, passages, methods``; a method has ``name, n,
        accuracy, ci95, gold_read`` (share of the questions of which a gold passage was read, of those that name one that is
        there; null without any), ``given`` and ``wrong`` (how many answers were not withheld, and how many of these are wrong;
        where confidences are calibrated) and, for the others, ``difference, difference_ci95, p_value`` against the run's own:
        exact McNemar, Holm-corrected over all. Empty where the recipe names no other.
    """
    others = run.recipe.evaluation.knowledge
    if not others:
        return []
    names = [name for name in answered if METHODS[name].reads_passages and not METHODS[name].is_oracle]
    bases = {OWN: run, **{name: replace(run, over=name) for name in others}}
    rows = {(base, name): one.predictions(name) for base, one in bases.items() for name in names}
    right = {f"{name} {base}": [row["correct"] for row in found] for (base, name), found in rows.items()}
    pairs = [(f"{name} {base}", f"{name} {OWN}") for base in others for name in names]
    tests = {row["a"]: row for row in paired_tests(right, pairs, run.recipe.seed)}
    found = []
    for base, one in bases.items():
        report = report_of(one.searched("knowledge"))
        methods = [_measured(one, name, rows[base, name], tests.get(f"{name} {base}")) for name in names]
        found.append(
            {"name": base, "documents": report["documents"], "passages": report["passages"], "methods": methods}
        )
    return found


def _measured(run: Run, name: str, rows: Rows, test: Mapping[str, Any] | None) -> dict[str, Any]:
    right = sum(row["correct"] for row in rows)
    own = {"name": name, "n": len(rows), "accuracy": right / len(rows), "ci95": list(wilson(right, len(rows)))}
    own |= {"gold_read": _gold_read(run, run.evaluated(), rows), **_given(run, name, rows)}
    if test is None:
        return own
    return {**own, "difference": test["difference"], "difference_ci95": test["ci95"], "p_value": test["p_value"]}


def _given(run: Run, name: str, rows: Rows) -> dict[str, int]:
    risk = run.recipe.evaluation.abstain.risk
    if risk is None:
        return {}
    calibrations = read_calibrations(run.finished(f"predictions/{METHODS[name].trained_on}"), risk)
    given = [row for row in rows if (row["calibrated_confidence"] or 0.0) >= calibrations[name].threshold.confidence]
    return {"given": len(given), "wrong": sum(not row["correct"] for row in given)}


def _gold_read(run: Run, questions: Sequence[Question], rows: Rows) -> float | None:
    positions, passages = run.named(questions), run.passages()
    there = {name: {passages[place].id for place in places} for name, places in positions.items()}
    read = {row["question"]: {passage["id"] for passage in row["passages"]} for row in rows}
    gold = {q.id: set[str]().union(*(there.get(name, set()) for name in q.gold_passages)) for q in questions}
    named = [name for name, ids in gold.items() if ids]
    return sum(not gold[name].isdisjoint(read[name]) for name in named) / len(named) if named else None
