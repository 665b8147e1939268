"""How often student and reranker choose right, each alone and together, by how much the reranker counts.

python experiments/choices.py runs/arc

The run has the method `kard_plus` and questions of the split. Prints one JSON object: how many questions there are, and the share
that is right by the student alone, by the reranker alone, and by both with each weight of the reranker (`kard_plus` has 2).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kard.errors import UserError
from kard.kard import Kard
from kard.run import Run

WEIGHTS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(json.dumps(measured(options.run, options.split), indent=1) + "\n")
    except UserError as error:
        raise SystemExit(str(error)) from error


def measured(folder: Path, split: str) -> dict[str, Any]:
    """Shares of the questions with choices that each way of answering gets right.

    Raises:
        UserError: The run has no such method, or no such questions.
    """
    from kard.student.generation import Writing

    kard = Kard.load(folder, "kard_plus")
    questions = [one for one in Run.open(folder).questions(split) if one.choices and one.answer is not None]
    if not questions:
        raise UserError(f"{folder}: no {split} question has choices. Give questions.{split}, or take another --split.")
    considered = kard.finder.candidates(kard.method, questions, {})
    read = kard.recipe.evaluation.passages
    prompts = [kard.prompt(one, kard.method, row[:read]) for one, row in zip(questions, considered, strict=True)]
    how = Writing("answer", kard.recipe.evaluation.resources.batch_size, ranks_choices=True)
    asked = {prompt: one.choices for prompt, one in zip(prompts, questions, strict=True)}
    written = kard.student.write(asked, how)
    student = [np.array(written[prompt].likelihoods) for prompt in prompts]
    reranker = [kard.finder.support(row) for row in considered]

    def right(of_student: float, of_reranker: float) -> float:
        both = (of_student * one + of_reranker * other for one, other in zip(student, reranker, strict=True))
        return float(np.mean([scores.argmax() == one.answer for scores, one in zip(both, questions, strict=True)]))

    together = {f"{weight:g}": right(1.0, weight) for weight in WEIGHTS}
    return {"n": len(questions), "student": right(1.0, 0.0), "reranker": right(0.0, 1.0), "together": together}


if __name__ == "__main__":
    main()
