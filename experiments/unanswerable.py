"""Questions whose document is gone: how many are refused, and how many right answers are withheld for that?

kard run quickstart --set evaluation.abstain.risk=0.1 --output runs/abstain
python experiments/unanswerable.py runs/abstain

Takes test questions of a finished run with evaluation.abstain, removes the documents of their gold passages in steps, as `kard
docs remove` does, and asks all of them after each step; the choices stay, so that each question can still be guessed. In the end
the run reads the documents that it read before.

Prints one JSON object with 95 % Wilson intervals: for each step how many of the questions whose document is gone are refused, of
the others how many are answered right, and how many of these answers are withheld; and by threshold how many of the questions
are refused when all documents are gone, at how many withheld right answers when all are there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kard import Kard, Question, Run, UserError
from kard.artifacts.versions import current_version
from kard.documents import remove_documents, rollback
from kard.evaluation.statistics import wilson
from kard.progress import say
from kard.prompt import same_answer

ASKED = 300
WITHHELD = (0.02, 0.05, 0.1, 0.15, 0.2)  # shares of the right answers


@dataclass(frozen=True)
class Asked:
    """What a method says to some questions: how sure it is (0 where no answer can be read off), and whether it is right, (n,)."""

    sure: np.ndarray
    right: np.ndarray


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run with evaluation.abstain")
    parser.add_argument("--method", help="one of the run's; by default its best one that is no oracle")
    parser.add_argument("--asked", type=int, default=ASKED, help="questions, at most")
    parser.add_argument("--steps", type=int, default=2, help="steps in which their documents are removed")
    parser.add_argument("--seed", type=int, default=0, help="which questions, and whose documents are removed first")
    options = parser.parse_args(arguments)
    try:
        found = measured(options.run, options.method, options.asked, options.steps, options.seed)
    except UserError as error:
        raise SystemExit(str(error)) from error
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def measured(folder: Path, method: str | None, asked: int, steps: int, seed: int) -> dict[str, Any]:
    """Remove documents in steps, ask after each, and go back to the documents that were there.

    Raises:
        UserError: The run calibrates nothing, no question names a document that is there, or the method reads none.
    """
    run, before = Run.open(folder), current_version(folder)
    risk = run.recipe.evaluation.abstain.risk
    if risk is None:
        raise UserError(
            f"{folder}: was made without evaluation.abstain. Run its recipe with --set evaluation.abstain.risk=0.1."
        )
    named = documents_named(run)
    questions = random.Random(seed).sample(list(named), min(asked, len(named)))
    kard = Kard.load(folder, method)
    if not kard.method.reads_passages or not questions:
        why = (
            "its test questions name no document of it"
            if kard.method.reads_passages
            else f"{kard.method.name} reads none"
        )
        raise UserError(f"{folder}: {why}. Name another run or --method.")
    threshold = kard.calibrations[kard.method.name].threshold.confidence
    said, rows, gone = [answered(kard, questions)], [], set[str]()
    rows.append(counted(said[0], np.ones(len(questions), dtype=bool), threshold))
    try:
        for step in range(1, steps + 1):
            wanted = set().union(*(named[one] for one in questions[: len(questions) * step // steps]))
            remove_documents(folder, sorted(wanted - gone))
            gone = wanted
            say(f"{len(gone):,} documents removed, {len(questions):,} questions")
            said.append(answered(Kard.load(folder, method), questions))
            there = np.array([named[one].isdisjoint(gone) for one in questions])
            rows.append({"removed": len(gone), **counted(said[-1], there, threshold)})
    finally:
        if gone:
            rollback(folder, before)
    shares = by_threshold(said[0], said[-1])
    head = {"method": kard.method.name, "risk": risk, "threshold": threshold if threshold <= 1 else None}
    return {**head, "steps": rows, "by_threshold": shares}


def documents_named(run: Run) -> dict[Question, set[str]]:
    """The test questions that name gold passages that are there, and the documents of these."""
    questions, passages = run.questions("test"), run.passages()
    positions = run.named(questions)
    found = {
        question: {passages[place].document for name in question.gold_passages for place in positions.get(name, ())}
        for question in questions
    }
    return {question: documents for question, documents in found.items() if documents}


def answered(kard: Kard, questions: Sequence[Question]) -> Asked:
    """What is said to the questions, withheld or not."""
    calibration, gives_all = kard.calibrations[kard.method.name], replace(kard, calibrations={})
    answers = gives_all.answer_many(questions)
    sure = [calibration.confidence(kard.signals(one)) if one.answer is not None else 0.0 for one in answers]
    said = [
        answer.choice if question.choices else answer.answer
        for question, answer in zip(questions, answers, strict=True)
    ]
    right = [q.answer is not None and same_answer(one, q.answer) for q, one in zip(questions, said, strict=True)]
    return Asked(np.array(sure), np.array(right, dtype=bool))


def counted(asked: Asked, there: np.ndarray, threshold: float) -> dict[str, Any]:
    """Of the questions whose document is gone the refused ones; of the others the right answers, and those of them withheld."""
    withheld, right = asked.sure < threshold, asked.right & there
    shares: dict[str, Any] = {} if there.all() else {"refused": share(withheld & ~there, ~there)}
    if there.any():
        shares |= {"right": share(right, there), "withheld": share(withheld & there, there)}
    return shares | ({"right_withheld": share(withheld & right, right)} if right.any() else {})


def by_threshold(before: Asked, after: Asked) -> list[dict[str, Any]]:
    """How many questions are refused without their documents, by the share of right answers that is withheld with them."""
    sure, rows = np.sort(before.sure[before.right]), []
    for wanted in WITHHELD if len(sure) else ():
        threshold = sure[int(wanted * len(sure))]
        withheld = share(before.right & (before.sure < threshold), before.right)
        rows.append(
            {
                "threshold": float(threshold),
                "right_withheld": withheld,
                "refused": share(after.sure < threshold, np.ones(len(after.sure), dtype=bool)),
            }
        )
    return rows


def share(which: np.ndarray, of: np.ndarray) -> dict[str, Any]:
    """How many, of how many, and the share with its interval."""
    count, n = int(which.sum()), int(of.sum())
    return {
        "count": count,
        "n": n,
        "share": round(count / n, 4),
        "ci95": [round(bound, 4) for bound in wilson(count, n)],
    }


if __name__ == "__main__":
    main()
