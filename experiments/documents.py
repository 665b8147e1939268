"""Documents that come after training: how well a student reads what it has never seen, and whether it believes what it reads.

(a) The quickstart is trained on two thirds of the articles; the last third comes by `kard docs add`. Questions about old and new
articles are answered before and after it.
(b) A fact is changed in documents: the articles of 50 questions swap their texts with the article of a wrong choice. Answers that
follow the documents name the wrong choice, answers from the weights the right one.

python experiments/documents.py runs/documents

Prints one JSON object: right answers, n, and 95 % Wilson intervals. Text: Wikipedia, CC BY-SA 4.0 (the package of wikivital).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kard import Kard, Question
from kard.artifacts.files import write_jsonl
from kard.artifacts.versions import VERSIONS
from kard.data.readers.wikivital import Article, read_articles, read_wikivital
from kard.documents import files_to_read, put_documents, rollback
from kard.evaluation.statistics import wilson
from kard.pipeline import run_recipe
from kard.progress import say
from kard.recipe.file import load_recipe

METHODS = ("kard_bm25", "kard_reranker")
ASKED = 300
SWAPPED = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="gets data and run; what is there is gone on with")
    parser.add_argument("--seed", type=int, default=0, help="which articles are new, and which questions are asked")
    parser.add_argument(
        "--set", action="append", default=[], help="a key of the quickstart, as kard run --set takes it"
    )
    parser.add_argument("--asked", type=int, default=ASKED, help="questions of each kind")
    arguments = parser.parse_args()
    sys.stdout.write(
        json.dumps(measured(arguments.folder, arguments.seed, arguments.set, arguments.asked), indent=1) + "\n"
    )


def measured(folder: Path, seed: int, overrides: Sequence[str], asked: int) -> dict[str, Any]:
    """Train on the old articles, and ask before and after the documents change."""
    old, new, swapped = write_data(folder, seed, asked)
    files = {name: folder / f"questions.{name}.jsonl" for name in ("train", "dev", "test")}
    settings = ["questions.kind=jsonl", *(f"questions.{name}={path.resolve()}" for name, path in files.items())]
    settings += ["knowledge.kind=jsonl", f"knowledge.path={(folder / 'documents.jsonl').resolve()}", f"seed={seed}"]
    settings += ["evaluation.methods=[kard_bm25, kard_reranker]"]
    run = folder / "run"
    if (run / VERSIONS).exists():
        rollback(run, 0)
    run_recipe(load_recipe("quickstart", [*settings, *overrides]), run)
    found: dict[str, Any] = {"seed": seed, "before": answered(run, {"old": old, "new": new})}
    put_documents(run, files_to_read([folder / "new.jsonl"]))
    found["after"] = answered(run, {"old": old, "new": new})
    put_documents(run, files_to_read([folder / "swapped.jsonl"]), replace=True)
    kard = Kard.load(run, "kard_reranker")
    answers = [answer.answer for answer in kard.answer_many([question for question, _ in swapped])]
    documents = sum(answer == other for answer, (_, other) in zip(answers, swapped, strict=True))
    weights = sum(answer == question.answer_text for answer, (question, _) in zip(answers, swapped, strict=True))
    return {
        **found,
        "swapped": {
            "n": len(swapped),
            "as_documents": share(documents, len(swapped)),
            "as_before": share(weights, len(swapped)),
        },
    }


def answered(run: Path, questions: dict[str, list[Question]]) -> dict[str, Any]:
    """Accuracies by method and kind of question."""
    found: dict[str, Any] = {}
    for method in METHODS:
        kard = Kard.load(run, method)
        for name, asked in questions.items():
            say(
                f"{method}, {len(asked)} questions about {name} articles, version {kard.finder.documents} of the documents"
            )
            right = sum(answer.choice == q.answer for answer, q in zip(kard.answer_many(asked), asked, strict=True))
            say(f"  {right} right")
            found.setdefault(method, {})[name] = share(right, len(asked))
    return found


def share(right: int, n: int) -> dict[str, Any]:
    return {
        "right": right,
        "n": n,
        "share": round(right / n, 4),
        "ci95": [round(bound, 4) for bound in wilson(right, n)],
    }


def write_data(
    folder: Path, seed: int, asked: int
) -> tuple[list[Question], list[Question], list[tuple[Question, str]]]:
    """Write documents and questions; returns questions about old and new articles, and old ones with the title that their text
    will have after the swap."""
    folder.mkdir(parents=True, exist_ok=True)
    articles = {article.title: article for article in read_articles()}
    titles = sorted(articles)
    random.Random(f"articles {seed}").shuffle(titles)
    new_titles = set(titles[: len(titles) // 3])
    write_jsonl(folder / "documents.jsonl", (document(articles[title]) for title in sorted(set(titles) - new_titles)))
    write_jsonl(folder / "new.jsonl", (document(articles[title]) for title in sorted(new_titles)))
    questions = read_wikivital(seed)
    random.Random(f"questions {seed}").shuffle(questions)
    of_new = [question for question in questions if question.gold_passages[0] in new_titles]
    of_old = [question for question in questions if question.gold_passages[0] not in new_titles]
    test, dev, train = of_old[:asked], of_old[asked : asked + 100], of_old[asked + 100 : asked + 400]
    for name, part in {"train": train, "dev": dev, "test": test}.items():
        write_jsonl(folder / f"questions.{name}.jsonl", map(row, part))
    swapped = swaps(test, new_titles)
    write_jsonl(folder / "swapped.jsonl", (other for pair in swapped for other in exchanged(articles, *pair)))
    return test, of_new[:asked], swapped


def document(article: Article) -> dict[str, str]:
    return {"id": article.title, "title": article.title, "text": article.extract}


def row(question: Question) -> dict[str, Any]:
    named = asdict(question)
    return {key: named[key] for key in ("id", "question", "choices", "answer", "gold_passages")}


def swaps(questions: Sequence[Question], new_titles: set[str]) -> list[tuple[Question, str]]:
    """Questions, each with a wrong choice that no other one has; both articles are old."""
    taken: set[str] = set()
    found: list[tuple[Question, str]] = []
    for question in questions:
        wrong = [c for c in question.choices if c != question.answer_text and c not in new_titles and c not in taken]
        if wrong and question.gold_passages[0] not in taken and len(found) < SWAPPED:
            found.append((question, wrong[0]))
            taken |= {wrong[0], question.gold_passages[0]}
    return found


def exchanged(articles: dict[str, Article], question: Question, other: str) -> list[dict[str, str]]:
    """Two documents that have each other's text, under their own titles and with their own names in it."""
    right = question.gold_passages[0]
    pairs = ((right, other), (other, right))
    return [{"id": own, "title": own, "text": articles[from_].extract.replace(from_, own)} for own, from_ in pairs]


if __name__ == "__main__":
    main()
