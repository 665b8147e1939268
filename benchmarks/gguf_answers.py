"""What a student loses as a GGUF file: the same dev questions, answered by a run and through llama.cpp with f16, q8_0 and q4_k_m.

For each type the share of texts and answers that are the same, the accuracy with its 95 % Wilson interval beside the run's, how
many prompts the file's own tokenizer splits as the student's does, and the size on the disk. Passages are the same for all of
them, unless the student itself has a second look at them.

Usage: python benchmarks/gguf_answers.py RUN [--questions 100] [--split dev] [--method NAME] [--types f16 q8_0 q4_k_m]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kard.evaluation.statistics import wilson
from kard.kard import Kard
from kard.run import Run
from kard.student.generation import Student
from kard.student.llama_cpp import LlamaCpp
from kard.tools.gguf import TYPES, answered, check_gguf, compare, write_gguf

GOAL = 0.98  # of the answers of f16 are the same


def through(kard: Kard, path: Path) -> Kard:
    """The same run, its student computed by llama.cpp."""
    engine = LlamaCpp(path)
    student = Student(engine, kard.student.tokenizer, kard.student.settings, engine)
    look = kard.finder.query_likelihood
    finder = replace(kard.finder, query_likelihood=replace(look, student=student)) if look else kard.finder
    return replace(kard, student=student, finder=finder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--split", choices=["dev", "test"], default="dev")
    parser.add_argument("--method")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    options = parser.parse_args()
    kard = Kard.load(options.run, options.method)
    kard = replace(kard, calibrations={})  # what is withheld depends on a threshold, what is answered on the student
    check_gguf(options.types[0], kard.student)
    questions = Run.open(options.run).questions(options.split)[: options.questions]
    ours = answered(kard, questions, "answer without llama.cpp")
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        kard.student.model.save_pretrained(folder / "weights")
        kard.student.tokenizer.save_pretrained(folder / "weights")
        for kind in options.types:
            path = write_gguf(kard.student, kard.method.writes, folder / "weights", folder / "gguf", kind)
            found = compare(kard, through(kard, path), questions, ours)
            low, high = wilson(found.right, found.questions)
            rows[kind] = {**asdict(found), "bytes": path.stat().st_size, "ci95": [low, high]}
            print(
                f"{kind}, {path.stat().st_size / 1e6:,.1f} MB: {found.line()}; {found.same_tokens} prompts alike",
                flush=True,
            )
    n, first = len(questions), rows[options.types[0]]
    settings = {
        "run": options.run.name,
        "method": kard.method.name,
        "split": options.split,
        "questions": n,
        "types": rows,
    }
    last = {
        "benchmark": "gguf", "ours": first["same_answers"] / n, "peer": 1.0, "peer_name": "the run", "unit": "same answers",
        "ratio": first["same_answers"] / n, "goal": GOAL, "settings": settings,
    }  # fmt: skip
    print(json.dumps(last))


if __name__ == "__main__":
    main()
