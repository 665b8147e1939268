"""Questions from documents, tried on real text: a folder of Markdown files made of Wikipedia summaries, a teacher that asks about
them, the table of statuses, and how well the filters tell good questions from bad ones. Text: that of wikivital, CC BY-SA 4.0.

python experiments/generated.py documents data/summaries
python experiments/generated.py run data/summaries runs/generated --teacher models/qwen2.5-1.5b-instruct.gguf
python experiments/generated.py sample runs/generated/run to-label.jsonl
python experiments/generated.py filters tests/data/questions.labelled.jsonl
python experiments/generated.py quickstart data/summaries runs/generated/run

`run` makes questions, prints what became of them, and with --all goes on to the report. `sample` writes questions with the texts
of their passages, some of each status; put into `labels` what is wrong with each (statuses; an empty list where it is good).
`filters` prints precision and recall of each filter on such a file. `quickstart` asks a finished run the questions of the recipe
quickstart about the same articles, which of four titles a description describes, and prints what each method answers right.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from kard import Kard, UserError
from kard.artifacts.files import read_jsonl, write_jsonl
from kard.data.readers.wikivital import read_articles, read_wikivital
from kard.evaluation.statistics import paired_tests, wilson
from kard.methods import methods_named
from kard.pipeline import run_recipe
from kard.recipe.file import load_recipe
from kard.run import Run
from kard.teacher.generated import Generated
from kard.teacher.question_filters import faults, near_duplicates
from kard.teacher.rationale import counts_of
from kard.tools.init import write_project

ALONE = (
    "too_long",
    "not_self_contained",
    "copied_sentence",
    "two_right",
    "unsupported",
    "gives_itself_away",
    "near_duplicate",
)
ASKED = ("unparsable", "round_trip", "known_by_heart")
_FEWEST_WORDS = 40


def write_documents(folder: Path, count: int, seed: int) -> None:
    """Write so many summaries, drawn by the seed, as Markdown files in a folder for each topic."""
    articles = [article for article in read_articles() if len(article.extract.split()) >= _FEWEST_WORDS]
    for article in random.Random(seed).sample(articles, min(count, len(articles))):
        path = folder / re.sub(r"\W+", "-", article.topic) / f"{file_name(article.title)}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {article.title}\n\n{article.extract}\n", encoding="utf-8")


def file_name(title: str) -> str:
    """An article's title as the name of its file, without the suffix."""
    return re.sub(r"[^\w ()-]", "_", title)


def make_questions(documents: Path, folder: Path, teacher: str, settings: Sequence[str], everything: bool) -> str:
    """Start a project where there is none, run it, and return the table of statuses."""
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        write_project(folder, documents, teacher)
    loaded = load_recipe(str(recipe), list(settings))
    run = Run(loaded.output or folder / "run", loaded)
    run_recipe(loaded, run.folder, until=None if everything else "questions")
    return "\n".join(status_table(run.generated()))


def status_table(made: Sequence[Generated]) -> Iterator[str]:
    """A line a status, by kinds of questions."""
    kinds = sorted({one.kind for one in made})
    counts = Counter((one.status, one.kind) for one in made)
    yield f"| status | all | {' | '.join(kinds)} |"
    yield f"|---|{'--:|' * (len(kinds) + 1)}"
    for row in counts_of(made):
        cells = [counts[row["status"], kind] for kind in kinds]
        yield f"| {row['status']} | {row['count']} | {' | '.join(map(str, cells))} |"


def sample(run: Path, output: Path, count: int, seed: int) -> None:
    """Write questions to label: as many of each status as there are room and rows for."""
    opened = Run.open(run)
    by_id = {passage.id: passage.full_text for passage in opened.passages()}
    made = [one for one in opened.generated() if one.question]
    random.Random(seed).shuffle(made)
    turns: Counter[str] = Counter()
    order = {one.id: turns.update([one.status]) or turns[one.status] for one in made}
    chosen = sorted(made, key=lambda one: order[one.id])[:count]
    write_jsonl(
        output, ({**asdict(one), "texts": [by_id[name] for name in one.passages], "labels": None} for one in chosen)
    )


def measured(path: Path) -> list[dict[str, Any]]:
    """Precision and recall of each filter.

    Args:
        path: Rows of ``generated.jsonl`` with ``texts`` and ``labels``. Filters of words are applied anew; what the teacher's
            answers showed is read off ``status``.

    Returns:
        ``filter, found, right, precision, labelled, caught, recall`` for each, and for ``any``: whether anything is wrong.
    """
    rows = list(read_jsonl(path))
    names = {field.name for field in fields(Generated)}
    made = [
        Generated(**{"id": str(n), "split": ""} | {k: v for k, v in row.items() if k in names})
        for n, row in enumerate(rows)
    ]
    found: list[set[str]] = [
        {status for status, _ in faults(one, row["texts"])} for one, row in zip(made, rows, strict=True)
    ]
    for place, _ in near_duplicates(made, []):
        found[place].add("near_duplicate")
    for one, statuses in zip(made, found, strict=True):
        statuses |= {one.status} & set(ASKED)
    labels = [set(row["labels"]) for row in rows]
    table = [_row(name, [name in one for one in found], [name in one for one in labels]) for name in (*ALONE, *ASKED)]
    return [row for row in table if row["found"] or row["labelled"]] + [
        _row("any", list(map(bool, found)), list(map(bool, labels)))
    ]


def quickstart(documents: Path, run: Path, seed: int) -> Iterator[str]:
    """The accuracy of the run's methods on the quickstart's questions about articles of the folder, and paired tests."""
    there = {path.stem for path in documents.rglob("*.md")}
    questions = [one for one in read_wikivital(seed) if file_name(one.gold_passages[0]) in there]
    names = [one.name for one in methods_named(Run.open(run).recipe.evaluation.methods) if not one.is_oracle]
    right = {}
    for name in names:
        answers = Kard.load(run, name).answer_many(questions)
        right[name] = [one.choice == question.answer for one, question in zip(answers, questions, strict=True)]
    yield "| method | n | accuracy | 95 % interval |"
    yield "|---|--:|--:|--:|"
    for name in names:
        low, high = wilson(sum(right[name]), len(questions))
        share = sum(right[name]) / len(questions)
        yield f"| {name} | {len(questions)} | {100 * share:.1f} % | {100 * low:.1f}–{100 * high:.1f} % |"
    for row in paired_tests(right, list(combinations(reversed(names), 2)), seed):
        low, high = row["ci95"]
        points = f"{100 * row['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        yield f"{row['a']} − {row['b']}: {points}, p (Holm) = {row['p_value']:.3g}"


def _row(name: str, found: Sequence[bool], labelled: Sequence[bool]) -> dict[str, Any]:
    both = sum(a and b for a, b in zip(found, labelled, strict=True))
    return {
        "filter": name,
        "found": sum(found),
        "precision": both / sum(found) if any(found) else None,
        "labelled": sum(labelled),
        "recall": both / sum(labelled) if any(labelled) else None,
    }


def filter_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What `measured` returns, as Markdown."""
    yield "| filter | found | precision | labelled | recall |"
    yield "|---|--:|--:|--:|--:|"
    for row in rows:
        shares = ["–" if row[key] is None else f"{100 * row[key]:.0f} %" for key in ("precision", "recall")]
        yield f"| {row['filter']} | {row['found']} | {shares[0]} | {row['labelled']} | {shares[1]} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    documents = commands.add_parser("documents")
    documents.add_argument("folder", type=Path)
    documents.add_argument("--count", type=int, default=150)
    run = commands.add_parser("run")
    run.add_argument("documents", type=Path)
    run.add_argument("folder", type=Path)
    run.add_argument("--teacher", required=True, help="as of kard init")
    run.add_argument("--set", action="append", default=[], help="keys of the recipe")
    run.add_argument("--all", action="store_true", help="go on to the report")
    to_label = commands.add_parser("sample")
    to_label.add_argument("run", type=Path)
    to_label.add_argument("output", type=Path)
    to_label.add_argument("--count", type=int, default=200)
    filters = commands.add_parser("filters")
    filters.add_argument("labelled", type=Path)
    asked = commands.add_parser("quickstart")
    asked.add_argument("documents", type=Path)
    asked.add_argument("run", type=Path)
    for each in (documents, to_label, asked):
        each.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.command == "documents":
            write_documents(options.folder, options.count, options.seed)
        elif options.command == "run":
            table = make_questions(options.documents, options.folder, options.teacher, options.set, options.all)
            sys.stdout.write(f"{table}\n")
        elif options.command == "sample":
            sample(options.run, options.output, options.count, options.seed)
        elif options.command == "quickstart":
            sys.stdout.write("\n".join(quickstart(options.documents, options.run, options.seed)) + "\n")
        else:
            sys.stdout.write("\n".join(filter_table(measured(options.labelled))) + "\n")
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
