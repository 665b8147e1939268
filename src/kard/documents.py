"""Documents come and go while the student stays: new versions of a run's passages and index, beside the one that is read.

Nothing is trained. Passages of unchanged documents are copied, their postings and vectors taken over (`kard.retrieval`,
`kard.reranker.vectors`); only what is new is read, cut, indexed and encoded.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts.files import hash_of, hash_of_file, read_json, read_jsonl, write_json, write_jsonl
from kard.artifacts.folders import build, check_run, disk_full_explained, locked, manifest_of
from kard.artifacts.versions import (
    ABOUT,
    VERSIONS,
    about,
    base_key,
    current_version,
    make_current,
    version_folder,
    versions,
)
from kard.data.document_table import DocumentTable, merge_documents
from kard.data.duplicates import compared, duplicates, similarity
from kard.data.metadata import GROUPS
from kard.data.passage import Passage, Passages, digests, digests_of, merge_passages, names_of, read_passages
from kard.data.passages import check_ids, covers, cut_documents, keep_for_readers
from kard.data.readers.documents import Document, LeftOut
from kard.data.readers.kinds import documents_at
from kard.errors import UserError, nearest
from kard.progress import progress
from kard.recipe.sections import KnowledgeSection
from kard.retrieval.index import build_retriever
from kard.retrieval.milvus import delete_rows
from kard.retrieval.retriever import Earlier, Retriever
from kard.run import Run

_FORMAT = 1
_INCOMING, _PASSAGES = "incoming", "passages.jsonl"
_AT_ONCE = 64  # passages whose duplicates are looked for
_SHORTER = 0.8  # stretches that a text has twice count once
_LIKELY = 3  # the passages that a duplicate is among


class UnknownDocument(UserError):
    """A document that is not there was to be removed."""


Read = Callable[[KnowledgeSection, LeftOut], Iterator[Document]]


@dataclass(frozen=True)
class Change:
    """What a command did, or would do.

    Attributes:
        version: The version that is read now; that before the command where nothing changed.
        added, replaced, removed, unchanged: Ids of documents.
        left_out: How many documents, files and passages were left out, by reason; `first_left_out` is one of each.
        passages: How many there are now.
    """

    version: int
    added: list[str]
    replaced: list[str]
    removed: list[str]
    unchanged: list[str]
    left_out: dict[str, int]
    first_left_out: dict[str, str]
    passages: int

    @property
    def changes(self) -> bool:
        """Whether anything is another than before."""
        return bool(self.added or self.replaced or self.removed)


def documents_of_run(run: Path, version: int | None = None) -> DocumentTable:
    """The documents of a version (None: the current one), in the order of their passages."""
    return DocumentTable(Run.open(run, version).searched("knowledge"))


def files_to_read(paths: Sequence[Path]) -> Read:
    """Reads documents of files and folders, in any format that a recipe reads."""

    def read(section: KnowledgeSection, left_out: LeftOut) -> Iterator[Document]:
        for path in paths:
            yield from documents_at(section, path, left_out)

    return read


def put_documents(run: Path, read: Read, replace: bool = False, dry_run: bool = False) -> Change:
    """Add documents to a run or an export, as the next version.

    Args:
        run: The folder.
        read: Gives the documents.
        replace: A document whose id is there already takes the other one's place; without it, that is an error.
        dry_run: Say what would change, and change nothing.

    Raises:
        UserError: A document is there already, has no text, or the disk is full; nothing has changed then.
    """
    return _change(run, "replace" if replace else "add", read, (), replace, dry_run)


def remove_documents(run: Path, ids: Sequence[str], dry_run: bool = False) -> Change:
    """Remove documents by their ids, as the next version.

    Raises:
        UserError: There is no such document, or none would be left; nothing has changed then.
    """
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"document '{twice[0]}' is named twice. Name each once.")
    return _change(run, "remove", lambda section, left_out: iter(()), ids, False, dry_run)


def rollback(run: Path, version: int) -> None:
    """Read an earlier version (0: the recipe's own documents), or a later one, from now on.

    Raises:
        UserError: There is no such version.
    """
    check_run(run)
    with locked(run / VERSIONS):
        if version and about(run, version)["base"] != base_key(run):
            raise UserError(f"{run}: version {version} was made from other documents than the recipe's now. Choose 0.")
        make_current(run, version)


def prune(run: Path, keep: int) -> list[int]:
    """Delete old versions for good, but for the current one and the newest `keep`; returns those that are gone."""
    check_run(run)
    with locked(run / VERSIONS):
        there = versions(run)
        kept = {current_version(run), *there[len(there) - keep :]} if keep else {current_version(run)}
        gone = [version for version in there if version not in kept]
        retriever = Run.open(run).recipe.retriever
        if gone and retriever.milvus is not None:
            delete_rows(retriever, _indexes(run, gone), _indexes(run, [0, *kept - {0}]))
        for version in gone:
            shutil.rmtree(run / VERSIONS / str(version))
    return gone


def _indexes(run: Path, some: Sequence[int]) -> list[Path]:
    return [run / VERSIONS / str(version) / "index" if version else run / "index" for version in some]


def history(run: Path) -> list[dict[str, Any]]:
    """What is noted of each version, oldest first, and whether it is the ``current`` one."""
    check_run(run)
    current = current_version(run)
    first = {"version": 0, "parent": None, "command": "the recipe's", "time": None}
    first |= {"passages": len(Run.open(run, 0).passages()), "added": 0, "replaced": 0, "removed": 0}
    rows = [first, *(about(run, version) for version in versions(run))]
    return [{**row, "current": row["version"] == current} for row in rows]


def _change(run: Path, command: str, read: Read, remove: Sequence[str], replace: bool, dry_run: bool) -> Change:
    check_run(run)
    with locked(run / VERSIONS), disk_full_explained(run):
        incoming = run / VERSIONS / _INCOMING
        shutil.rmtree(incoming, ignore_errors=True)  # a killed command's
        incoming.mkdir()
        try:
            draft = _draft(Run.open(run), incoming, read, remove, replace)
            if draft.change.changes and not dry_run:
                return _built(draft, command)
            return draft.change
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


@dataclass(frozen=True)
class _Draft:
    """What the next version will hold.

    Attributes:
        run: With the version that it is made from.
        incoming: The folder of all passages that were read.
        kept: Rising positions of the passages that stay.
        new: Rising positions of those in `incoming` that come behind them.
        left_out: Passages that are duplicates, and what could not be read.
    """

    run: Run
    incoming: Path
    kept: np.ndarray
    new: np.ndarray
    left_out: LeftOut
    change: Change


def _draft(run: Run, incoming: Path, read: Read, remove: Sequence[str], replace: bool) -> _Draft:
    earlier, left_out = run.passages(), LeftOut()
    table = DocumentTable(run.searched("knowledge"))
    rows = {row.id: number for number, row in enumerate(table)}
    _check_there(run.folder, rows, remove)
    sources = _read(run.recipe.knowledge, read, incoming, left_out)
    if not sources and not remove:
        why = "; ".join(left_out.first.values()) or "no document was given"
        raise UserError(f"{run.folder}: nothing to add: {why}. Name a file or folder with text.")
    there = [name for name in sources if name in rows]
    same = _unchanged(earlier, table, rows, incoming, there)
    clash = [name for name in there if name not in same]
    if clash and not replace:
        raise UserError(
            f"{sources[clash[0]]}: document '{clash[0]}' is there already, and is another one. Give it another id, or use "
            "'kard docs replace'."
        )
    kept = np.flatnonzero(~np.isin(table.owners, [rows[name] for name in (*remove, *clash)]))
    new = np.flatnonzero(~np.isin(names_of(incoming / _PASSAGES)[:, 1], digests(same)))
    new = _without_duplicates(run, kept, new, incoming, left_out)
    _check_passage_ids(names_of(earlier.path)[kept, 0], incoming, new)
    if not len(kept) + len(new):
        raise UserError(f"{run.folder}: no passage would be left. Keep one document at least.")
    added = [name for name in sources if name not in rows]
    counts = (dict(left_out.counts), left_out.first, len(kept) + len(new))
    return _Draft(
        run, incoming, kept, new, left_out, Change(run.documents, added, clash, list(remove), sorted(same), *counts)
    )


def _check_there(run: Path, known: Mapping[str, int], ids: Sequence[str]) -> None:
    unknown = next((name for name in ids if name not in known), None)
    if unknown is not None:
        raise UnknownDocument(
            f"{run}: has no document '{unknown}'{nearest(unknown, known)}. See 'kard docs list {run}'."
        )


def _read(section: KnowledgeSection, read: Read, incoming: Path, left_out: LeftOut) -> dict[str, str]:
    """Write the passages of what is to be added into a folder, and its table; returns the documents: id and source."""
    sources: dict[str, str] = {}

    def noted() -> Iterator[Document]:
        for document in read(section, left_out):
            if document.id in sources:
                raise UserError(
                    f"{document.source}: document '{document.id}' is in {sources[document.id]} already. Give every document its "
                    "own id."
                )
            sources[document.id] = document.source
            yield document

    replaced = cut_documents(noted(), section.passage_words, incoming)
    for character, count in replaced.items():
        left_out.add(character, "", "no text can hold it: it was replaced", count)
    check_ids(names_of(incoming / _PASSAGES)[:, 0], read_passages(incoming / _PASSAGES))
    return sources


def _unchanged(
    earlier: Passages, table: DocumentTable, rows: Mapping[str, int], incoming: Path, there: Sequence[str]
) -> set[str]:
    """Which documents that are there by their ids are the same to the letter, metadata and all."""
    if not there:
        return set()
    known = {row.id: [row.title, row.metadata] for row in table if row.id in set(there)}
    new = {row.id: [row.title, row.metadata] for row in DocumentTable(incoming)}
    texts = _texts(read_passages(incoming / _PASSAGES), names_of(incoming / _PASSAGES)[:, 1], there)
    before = _texts(earlier, names_of(earlier.path)[:, 1], there)
    return {name for name in there if known[name] == new[name] and texts.get(name) == before.get(name)}


def _texts(passages: Passages, owners: np.ndarray, ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for position in np.flatnonzero(np.isin(owners, digests(ids))).tolist():
        passage = passages[position]
        found.setdefault(passage.document, []).append(passage.text)
    return found


def _without_duplicates(run: Run, kept: np.ndarray, new: np.ndarray, incoming: Path, left_out: LeftOut) -> np.ndarray:
    """The new passages that are no duplicates, of each other or of those that stay; as `kard.data.duplicates` has it."""
    similar = run.recipe.knowledge.duplicates
    if similar is None or not len(new):
        return new
    stay, read, retriever = run.passages(), read_passages(incoming / _PASSAGES), run.retriever()
    passages = [read[place] for place in new.tolist()]
    own = duplicates(passages, similar, incoming)
    keep_for_readers(own, DocumentTable(incoming), new)
    originals = [passages[place] if place >= 0 else None for place in own.tolist()]
    remaining = set(kept.tolist())
    readers, of_new = _groups(run.searched("knowledge")), _groups(incoming)
    with progress("find duplicates", len(new), "passages") as advance:
        for begin in range(0, len(new), _AT_ONCE):
            block = passages[begin : begin + _AT_ONCE]
            for place, found in enumerate(_likely(retriever, block), start=begin):
                may = (p for p in found if p in remaining and covers(readers.get(p), of_new.get(int(new[place]))))
                same = next((stay[p] for p in may if _are_similar(passages[place], stay[p], similar)), None)
                originals[place] = same or originals[place]
            advance(len(block))
    for passage, original in zip(passages, originals, strict=True):
        if original is not None:
            reason = "duplicate" if compared(passage) == compared(original) else "near_duplicate"
            more = {"id": passage.id, "document": passage.document, "of": original.id}
            left_out.add(reason, passage.source, f"of {original.source}", **more)
    return new[[original is None for original in originals]]


def _groups(folder: Path) -> dict[int, set[str]]:
    """The groups that may read a passage, by its position; everybody may read the others."""
    table = DocumentTable(folder)
    if GROUPS not in table.keys:
        return {}
    of_row = {row: set(names) for row, names in table.values(GROUPS)}
    owners = table.owners
    return {place: of_row[int(owners[place])] for place in np.flatnonzero(np.isin(owners, list(of_row))).tolist()}


def _likely(retriever: Retriever, passages: Sequence[Passage]) -> list[list[int]]:
    """What a passage may be a duplicate of is among the first that its own text finds: no passage need be read for it."""
    return [hits.positions.tolist() for hits in retriever.search([one.full_text for one in passages], _LIKELY)]


def _are_similar(one: Passage, other: Passage, similar: float) -> bool:
    first, second = compared(one), compared(other)
    if first == second:
        return True
    sizes = sorted(len(text) for text, _ in (first, second))
    # What is much longer has more stretches than the other one can share.
    may = first[1] and second[1] and similar < 1 and sizes[0] >= _SHORTER * similar * sizes[1]
    return may and similarity(first[0], second[0]) >= similar


def _check_passage_ids(known: np.ndarray, incoming: Path, new: np.ndarray) -> None:
    same = new[np.isin(names_of(incoming / _PASSAGES)[new, 0], known)]
    if len(same):
        passage = read_passages(incoming / _PASSAGES)[int(same[0])]
        raise UserError(f"{passage.source}: passage '{passage.id}' is there already. Give its document another id.")


def _built(draft: _Draft, command: str) -> Change:
    """Make the next version, and read it from now on."""
    run, change = draft.run, draft.change
    parent = manifest_of(version_folder(run.folder, run.documents)) if run.documents else None
    table = hash_of_file(draft.incoming / "documents.jsonl")
    content = [table, digests_of(read_passages(draft.incoming / _PASSAGES).texts).tolist(), sorted(change.removed)]
    key = {
        "format": _FORMAT,
        "base": base_key(run.folder),
        "parent": parent["key"] if parent else None,
        "content": hash_of(content),
    }
    there = versions(run.folder)
    wanted = hash_of(key)
    # A command that was killed before its version was named finds it whole.
    same = (one for one in there if (manifest_of(run.folder / VERSIONS / str(one)) or {}).get("key") == wanted)
    version = next(same, max([0, run.documents, *there]) + 1)
    counts = {name: len(ids) for name, ids in _ids(change).items()}
    noted = {
        "version": version,
        "parent": run.documents,
        "base": base_key(run.folder),
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "passages": change.passages,
        **counts,
    }
    name = f"{VERSIONS}/{version}"
    build(name, run.folder / name, key, lambda folder: _write(draft, noted, folder))
    make_current(run.folder, version)
    return Change(**{**vars(change), "version": version})


def _ids(change: Change) -> dict[str, list[str]]:
    return {"added": change.added, "replaced": change.replaced, "removed": change.removed}


def _write(draft: _Draft, noted: dict[str, Any], folder: Path) -> None:
    run, knowledge = draft.run, folder / "knowledge"
    knowledge.mkdir(exist_ok=True)
    before, path = run.searched("knowledge"), knowledge / _PASSAGES
    merge_passages(path, [(run.passages(), draft.kept), (read_passages(draft.incoming / _PASSAGES), draft.new)])
    gone = {*draft.change.removed, *draft.change.replaced}
    parts = [_part(before, gone, draft.kept), _part(draft.incoming, set(draft.change.unchanged), draft.new)]
    documents = merge_documents(knowledge, parts)
    write_jsonl(knowledge / "left_out.jsonl", [*read_jsonl(before / "left_out.jsonl"), *draft.left_out.rows])
    report = {"documents": documents, "passages": draft.change.passages}
    write_json(knowledge / "report.json", {**read_json(before / "report.json"), **report})
    earlier = Earlier(run.searched("index"), draft.kept, _indexes(run.folder, [0, *versions(run.folder)]))
    build_retriever(run.recipe.retriever, read_passages(path).texts, folder / "index", earlier)
    rows = ({"change": change, "id": name} for change, names in _ids(draft.change).items() for name in names)
    write_jsonl(folder / "changes.jsonl", rows)
    write_json(folder / ABOUT, noted)


def _part(folder: Path, without: set[str], passages: np.ndarray) -> tuple[DocumentTable, set[int], np.ndarray]:
    table = DocumentTable(folder)
    return table, {row for row, one in enumerate(table) if one.id in without} if without else set(), passages
