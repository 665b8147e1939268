"""Knowledge: passages cut from documents, each traceable to where it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts.files import read_json, write_json, write_jsonl
from kard.data.cutting import cut
from kard.data.document_table import DocumentRow, DocumentTable, documents_written, keep_passages
from kard.data.metadata import GROUPS
from kard.data.passage import Passage, Passages, names_of, read_passages, replace_passages, write_passages
from kard.data.readers.documents import Document, LeftOut, cleaned_document
from kard.data.readers.kinds import documents_of
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection


def make_passages(section: KnowledgeSection, folder: Path) -> dict[str, Any]:
    """Read the recipe's documents, cut them, and write what is no duplicate.

    Args:
        section: What to read and how.
        folder: Gets ``passages.jsonl``, ``documents.jsonl`` (a row a document, with its metadata), ``left_out.jsonl`` (broken
            files, empty documents, duplicates, each with its reason) and ``report.json``.

    Returns:
        The report: how many documents and passages there are, how much was left out for which reason.

    Raises:
        UserError: A file is missing or wrong (named with its line), two passages have one id, or nothing is left.
    """
    left_out = LeftOut()
    path = folder / "passages.jsonl"
    wanted = (one for one in documents_of(section, left_out) if one.id.startswith(section.id_prefix))
    replaced = cut_documents(wanted, section.passage_words, folder)
    stored = read_passages(path)
    if not stored:
        raise UserError(
            f"knowledge: no document in {section.path} has an id that begins with '{section.id_prefix}'. Mend id_prefix."
            if section.id_prefix
            else f"knowledge: no document in {section.path} has text{_why_empty(left_out)}. Mend knowledge.path."
        )
    check_ids(names_of(path)[:, 0], stored)
    if section.duplicates is not None:
        _drop_duplicates(path, section.duplicates, left_out)
    write_jsonl(folder / "left_out.jsonl", left_out.rows)
    report: dict[str, Any] = {"documents": len(DocumentTable(folder)), "left_out": dict(left_out.counts)}
    if left_out.rows:
        report["first_left_out"] = left_out.first
    if replaced:
        report["replaced"] = dict(replaced)
    report["passages"] = len(read_passages(path))
    write_json(folder / "report.json", report)
    return report


def cut_documents(documents: Iterable[Document], words: int, folder: Path) -> Counter[str]:
    """Write the passages of documents and a row for each document into a folder; returns which characters no text can hold, and
    how many were replaced."""
    replaced: Counter[str] = Counter()
    with documents_written(folder) as add:

        def passages() -> Iterator[Passage]:
            for document in documents:
                document = cleaned_document(document, replaced)
                pieces = list(passages_of(document, words))
                add(DocumentRow(document.id, document.title, document.source, len(pieces), document.metadata))
                yield from pieces

        write_passages(folder / "passages.jsonl", passages())
    return replaced


def _why_empty(left_out: LeftOut) -> str:
    """What was left out for lack of text, in words: scanned pages, above all."""
    first = left_out.first
    said = [first[reason] for reason in ("pages_without_text", "broken", "empty") if reason in first]
    return f" (left out: {said[0]})" if said else ""


def passages_of(document: Document, words: int) -> Iterator[Passage]:
    """Passages of at most so many words."""
    for number, (start, piece) in enumerate(cut(document.text, words), start=1):
        identity = document.id + (f"#{number}" if number > 1 else "")
        yield Passage(identity, document.title, piece, document.id, document.source_at(start))


def check_ids(digests: np.ndarray, passages: Passages) -> None:
    """Raise UserError where two passages have one id, which `digests` stand for."""
    order = np.argsort(digests, kind="stable")
    same = np.flatnonzero(digests[order][1:] == digests[order][:-1])
    if not len(same):
        return
    second = int(order[same + 1].min())
    first = int(np.flatnonzero(digests == digests[second])[0])
    passage = passages[second]
    raise UserError(
        f"{passage.source}: passage '{passage.id}' is in {passages[first].source} already. Give every document its own id."
    )


def _drop_duplicates(path: Path, similar: float, left_out: LeftOut) -> None:
    from kard.data.duplicates import compared, duplicates

    every = read_passages(path)
    original = duplicates(every, similar, path.parent)
    keep_for_readers(original, DocumentTable(path.parent))
    if not (original >= 0).any():
        return
    for position in (original >= 0).nonzero()[0].tolist():
        passage, kept = every[position], every[int(original[position])]
        reason = "duplicate" if compared(passage) == compared(kept) else "near_duplicate"
        left_out.add(reason, passage.source, f"of {kept.source}", id=passage.id, document=passage.document, of=kept.id)
    replace_passages(path, (passage for passage, place in zip(every, original, strict=True) if place < 0))
    keep_passages(path.parent, original < 0)


def keep_for_readers(original: np.ndarray, table: DocumentTable, positions: np.ndarray | None = None) -> None:
    """A passage is no duplicate of one that some of its readers may not read: −1 is put in its place.

    Args:
        original: See `duplicates`; of the passages at `positions`, or of all.
        table: Theirs.
        positions: Rising.
    """
    groups = {row: set(names) for row, names in table.values(GROUPS)} if GROUPS in table.keys else {}
    owners = (table.owners if positions is None else table.owners[positions]).tolist() if groups else []
    for position in np.flatnonzero(original >= 0).tolist() if groups else ():
        own, others = (groups.get(owners[place]) for place in (position, int(original[position])))
        if not covers(others, own):
            original[position] = -1


def covers(others: set[str] | None, own: set[str] | None) -> bool:
    """Whether all who may read one document may read the other one as well; None is everybody."""
    return others is None or (own is not None and own <= others)


def report_of(folder: Path) -> dict[str, Any]:
    """What `make_passages` returned."""
    report: dict[str, Any] = read_json(folder / "report.json")
    return report


def described(report: dict[str, Any]) -> Iterator[str]:
    """What was left out, with the first of each kind by name, and which characters were replaced, in lines."""
    for reason, count in report["left_out"].items():
        example = report["first_left_out"][reason]
        yield f"left out: {count:,} {reason.replace('_', ' ')}: {example}{' …' if count > 1 else ''}"
    for character, count in report.get("replaced", {}).items():
        yield f"replaced: {count:,} {character}, which no text can hold"
