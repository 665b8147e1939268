"""Documents with irrelevant ones behind them: how does the size of the knowledge base tell?

kard run quickstart --until knowledge --output runs/base
python experiments/distractors.py runs/base data/distractors --factors 0 1 3 10
kard sweep quickstart --set knowledge.kind=jsonl --vary knowledge.path=data/distractors/0.jsonl,data/distractors/1.jsonl

Reads the questions and passages of a run. The base is the documents that questions name as gold, the distractors are drawn
from the others; or, with --others FILE, the base is all documents and the distractors are drawn from that file. For each
factor a file FACTOR.jsonl is written with the base and so many times as many distractors; a larger factor holds the documents
of a smaller one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from kard import UserError
from kard.artifacts.files import write_jsonl
from kard.data.passage import read_passages
from kard.data.question import read_questions
from kard.data.textfile import json_rows

# In front of the ids of documents from elsewhere, so that none of them is taken for one that a question names.
MARK = "distractor:"
Row = dict[str, str]


def documents_of(run: Path) -> list[Row]:
    """A run's documents, put together from their passages."""
    found: dict[str, Row] = {}
    for passage in read_passages(run / "knowledge" / "passages.jsonl"):
        row = found.setdefault(passage.document, {"id": passage.document, "title": passage.title, "text": ""})
        row["text"] = f"{row['text']} {passage.text}".strip()
    return list(found.values())


def base_and_others(run: Path, others: Path | None) -> tuple[list[Row], list[Row]]:
    """The documents that stay, and those that distractors are drawn from.

    Raises:
        UserError: No question names a document of the run.
    """
    documents = documents_of(run)
    if others is not None:
        there = {row["text"] for row in documents}
        rows = ({key: str(row.get(key) or "") for key in ("id", "title", "text")} for _, row in json_rows(others))
        return documents, [row | {"id": MARK + row["id"]} for row in rows if row["text"] not in there]
    splits = (read_questions(path) for path in sorted((run / "questions").glob("*.jsonl")))
    gold = {name for split in splits for one in split for name in one.gold_passages}
    passages = read_passages(run / "knowledge" / "passages.jsonl")
    named = {passage.document for passage in passages if gold & {passage.id, passage.document}}
    base = [row for row in documents if row["id"] in named]
    if not base:
        raise UserError(f"{run}: no question names a document of it as gold. Name other documents by --others.")
    return base, [row for row in documents if row["id"] not in named]


def write_distractors(run: Path, output: Path, factors: Sequence[float], others: Path | None, seed: int) -> None:
    """Write a file for each factor.

    Raises:
        UserError: There is no base, or there are too few distractors.
    """
    base, rest = base_and_others(run, others)
    random.Random(seed).shuffle(rest)
    output.mkdir(parents=True, exist_ok=True)
    for factor in factors:
        wanted = round(factor * len(base))
        if wanted > len(rest):
            raise UserError(
                f"--factors {factor:g}: {factor:g} times {len(base):,} documents asked for, {len(rest):,} distractors there are. "
                f"At most {int(100 * len(rest) / len(base)) / 100:g} can be had."
            )
        write_jsonl(output / f"{factor:g}.jsonl", [*base, *rest[:wanted]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with the stages questions and knowledge")
    parser.add_argument("output", type=Path, help="folder of the files")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0], help="so many times as many distractors")
    parser.add_argument("--others", type=Path, help="JSONL of irrelevant documents: id, title, text")
    parser.add_argument("--seed", type=int, default=0, help="decides which are drawn")
    options = parser.parse_args(arguments)
    try:
        write_distractors(options.run, options.output, options.factors, options.others, options.seed)
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
