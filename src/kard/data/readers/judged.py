"""Queries with judgments of documents: folders as BEIR and MS MARCO have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from kard.data.cutting import sentences
from kard.data.question import Question
from kard.data.readers.documents import Document, LeftOut
from kard.data.readers.jsonl import read_user_jsonl, text_of
from kard.data.readers.tables import jsonl_documents
from kard.data.splits import as_published, numbered
from kard.data.textfile import numbered_lines
from kard.errors import UserError
from kard.progress import say
from kard.recipe.sections import QuestionsSection

_CORPORA = {"beir": ["corpus.jsonl*"], "msmarco": ["collection.tsv*", "msmarco-docs.tsv*"]}
_QUERIES = {"beir": ["queries.jsonl*"], "msmarco": ["*queries*.tsv*"]}
_JUDGMENTS = {"beir": ["qrels/*.tsv*"], "msmarco": ["*qrels*.tsv*", "*qrels*.txt*"]}
Relevant = dict[str, dict[str, int]]  # grades of documents by query


def read_judged(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Queries that have a relevant document, which is a gold passage; the split is that of the judgments' files.

    The answer is the query's own (``metadata.answer``, as in BEIR's HotpotQA). Where there is none, the title of the document
    judged best stands for it, or its first sentence where it has no title; how often is said.

    Raises:
        UserError: A file is missing, or a line is wrong.
    """
    assert section.path is not None
    kind, folder = section.kind, section.path
    judged: dict[str, Relevant] = {"train": {}, "dev": {}, "test": {}}
    for file in _files(folder, _JUDGMENTS[kind]):
        split = next((name for name in ("train", "dev") if name in file.name), "test")
        for query, document, grade in _judgments(file):
            judged[split].setdefault(query, {})[document] = grade
    asked = dict(chain.from_iterable(_queries(kind, file) for file in _files(folder, _QUERIES[kind])))
    best = {query: max(found, key=found.__getitem__) for part in judged.values() for query, found in part.items()}
    named = _named(kind, folder, {best[query] for query, (_, answer) in asked.items() if query in best and not answer})
    left: Counter[str] = Counter()

    def questions(split: str) -> Iterator[Question]:
        for query, found in judged[split].items():
            text, own = asked.get(query, ("", ""))
            answer = own or named.get(best[query], "")
            if text and answer:
                left["answers are the title or first sentence of the document judged best"] += not own
                gold = sorted(found, key=found.__getitem__, reverse=True)
                yield Question(query, text, answer=answer, gold_passages=tuple(gold))
            else:
                left["judged queries left out: their text or their document is not there"] += 1

    splits = {split: numbered(questions(split), split) for split in judged}
    for what, count in left.items():
        say(f"  {folder}: {count:,} {what}")
    return as_published(splits, section, seed, str(folder))


def judged_documents(path: Path, left_out: LeftOut, kind: str) -> Iterator[Document]:
    """The documents of such a folder, or of its file alone; a line of MS MARCO is id and text, or id, address, title, text."""
    file = path if path.is_file() else _files(path, _CORPORA[kind])[0]
    if kind == "beir":
        yield from jsonl_documents(file, left_out, {"id": "_id"})
        return
    for number, line in numbered_lines(file):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) not in (2, 4):
            raise UserError(f"{file}:{number}: {len(cells)} cells, and there should be 2 or 4. Mend the line.")
        yield Document(cells[0], cells[2] if len(cells) == 4 else "", cells[-1], f"{file.name}:{number}")


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
    if not found:
        raise UserError(f"{folder}: no {' or '.join(patterns)} in this folder. Name the folder that has it.")
    return found


def _queries(kind: str, file: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Ids with texts and answers, where there are any."""
    if kind == "beir":
        for number, row in read_user_jsonl(file):
            where, more = f"{file}:{number}", row.get("metadata")
            answer = more.get("answer") if isinstance(more, dict) else ""
            query = text_of(row | {"id": row.get("_id")}, "id", where)
            yield query, (text_of(row, "text", where), answer if isinstance(answer, str) else "")
        return
    for number, line in numbered_lines(file):
        query, tab, text = line.strip().partition("\t")
        if not tab:
            raise UserError(f"{file}:{number}: no tab between id and query. Mend the line.")
        yield query, (text, "")


def _judgments(file: Path) -> Iterator[tuple[str, str, int]]:
    """Query, document and grade of what is relevant; of three columns, or of TREC's four, with or without a line of names."""
    for number, line in numbered_lines(file):
        cells = line.strip().split("\t" if "\t" in line else None)
        if number == 1 and cells[-1] == "score":
            continue
        if len(cells) not in (3, 4) or not cells[-1].lstrip("-").isdecimal():
            raise UserError(f"{file}:{number}: should be query, document and a whole number. Mend the line.")
        if int(cells[-1]) > 0:
            yield cells[0], cells[-2], int(cells[-1])


def _named(kind: str, folder: Path, wanted: set[str]) -> dict[str, str]:
    """Title or first sentence of the documents that are wanted."""
    documents = judged_documents(folder, LeftOut(), kind) if wanted else ()
    found = (document for document in documents if document.id in wanted)
    return {document.id: document.title.strip() or next(iter(sentences(document.text)), "") for document in found}
