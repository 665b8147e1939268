"""What the recipe's kinds stand for: which reader is taken, and, for published data, its version and whom it is from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from kard.data.metadata import FOLDER, checked_metadata
from kard.data.question import Question
from kard.data.readers.documents import Document, LeftOut, Read, files_below, read_each
from kard.data.splits import split_by_text
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection, QuestionsSection

# Of questions from the hub or a package: how many there are in train, dev and test, and the tokens of one with its choices.
SIZES = {
    "medqa": (10_178, 1_272, 1_273, 200),
    "strategyqa": (1_603, 0, 687, 20),
    "openbookqa": (4_957, 500, 500, 35),
    "arc": (3_370, 869, 3_548, 55),
    "pubmedqa": (700, 100, 200, 30),
    "wikivital": (5_409, 773, 1_545, 26),
}
SPLIT_BY_SIZE = ("pubmedqa", "wikivital")  # what dev and test do not take is train


def questions_of(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """The recipe's questions of train, dev and test."""
    if section.kind == "jsonl":
        from kard.data.readers.jsonl import read_question_files

        return read_question_files(section, seed)
    if section.kind == "wikivital":
        from kard.data.readers.wikivital import read_wikivital

        return split_by_text(read_wikivital(seed), section, seed)
    if section.kind in ("beir", "msmarco"):
        from kard.data.readers.judged import read_judged

        return read_judged(section, seed)
    if section.has_files:
        from kard.data.readers.formats import read_formats

        return read_formats(section, seed)
    from kard.data.readers.hub import read_from_hub

    return read_from_hub(section, seed)


def documents_of(section: KnowledgeSection, left_out: LeftOut) -> Iterator[Document]:
    """The recipe's documents; what has to be left out is noted."""
    if section.kind == "wikivital":
        from kard.data.readers.wikivital import wikivital_documents

        return wikivital_documents()
    if section.kind == "wikipedia":
        from kard.data.readers.wikipedia import wikipedia_documents

        return wikipedia_documents()
    assert section.path is not None
    from kard.data.readers import files, foreign, formats, judged, mediawiki, tables

    read: Read
    if section.kind in ("beir", "msmarco"):
        return read_each([section.path], partial(judged.judged_documents, kind=section.kind), left_out)
    if section.kind in ("squad", "hotpotqa", "strategyqa"):
        read = partial(formats.format_documents, kind=section.kind, seen={})
        is_saved = foreign.is_saved(section.path)
        return read_each(
            [section.path] if is_saved else files_below(section.path, formats.SUFFIXES, left_out), read, left_out
        )
    if section.kind == "files":
        suffixes, read = files.SUFFIXES, partial(files.file_documents, root=section.path)
    elif section.kind == "mediawiki":
        suffixes, read = mediawiki.SUFFIXES, mediawiki.mediawiki_documents
    else:
        suffixes, read = tables.SUFFIXES[section.kind], _rows(section.kind, section)
    read = partial(_described, read, section.path, section.metadata)
    return read_each(files_below(section.path, suffixes, left_out), read, left_out)


def _rows(kind: str, section: KnowledgeSection) -> Read:
    from kard.data.readers import tables

    columns = section.columns if kind == section.kind else {}
    if kind == "parquet":  # other columns are not read from the disk
        return partial(tables.parquet_documents, columns=columns, wanted=section.metadata)
    return partial(tables.READERS[kind], columns=columns)


def _described(
    read: Read, root: Path, wanted: Collection[str] | None, path: Path, left_out: LeftOut
) -> Iterator[Document]:
    """Documents of a file with their metadata checked, and the folder below the root that it lies in."""
    below = path.parent.relative_to(root).as_posix() if path != root else "."
    folder = {} if below == "." else {FOLDER: below}
    for document in read(path, left_out):
        metadata = checked_metadata({**folder, **document.metadata}, document.source, wanted)
        yield replace(document, metadata=metadata)


def documents_at(section: KnowledgeSection, path: Path, left_out: LeftOut) -> Iterator[Document]:
    """Documents of a file or folder that the recipe does not name, each file read by its name's end; what is below the recipe's
    folder has the ids that it would have there.

    Raises:
        UserError: There is no such file, or none that can be read.
    """
    from kard.data.readers import files, mediawiki, tables

    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Mend the path.")
    kinds: dict[str, tuple[str, ...]] = {**tables.SUFFIXES, "files": files.SUFFIXES}
    if section.kind == "mediawiki":
        kinds["mediawiki"] = mediawiki.SUFFIXES
    below = section.path if section.path is not None and section.path.is_dir() else path
    root = below if path.is_relative_to(below) else path

    def read(file: Path, left_out: LeftOut) -> Iterable[Document]:
        kind = next((kind for kind, ends in kinds.items() if file.name.lower().endswith(ends)), "")
        if kind in ("files", ""):
            return files.file_documents(file, left_out, root)
        if kind == "mediawiki":
            return mediawiki.mediawiki_documents(file, left_out)
        return _rows(kind, section)(file, left_out)

    suffixes = tuple(end for ends in kinds.values() for end in ends)
    if path.is_file() and not path.name.lower().endswith(suffixes):
        raise UserError(f"{path}: no format that is read. Name a file that ends in one of: {', '.join(suffixes)}.")
    described = partial(_described, read, root, section.metadata)
    return read_each(files_below(path, suffixes, left_out), described, left_out)


def version_of(kind: str) -> str:
    """What stands for published data in a stage's key: a package's version; what comes from the hub keeps its name."""
    if kind != "wikivital":
        return kind
    from kard.data.readers.wikivital import package_version

    return package_version()


def credit_of(kind: str) -> str:
    """Whom published data is from, and its licence; empty for a user's own files and for sets without such a duty."""
    if kind == "wikivital":
        from kard.data.readers.wikivital import CREDIT

        return CREDIT
    return "Passages: Wikipedia, CC BY-SA 4.0 (dataset wikimedia/wikipedia)." if kind == "wikipedia" else ""
