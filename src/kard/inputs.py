"""What stands for a run's inputs in the keys of its stages: hashes of files, versions of what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kard.artifacts import identity_of_file
from kard.errors import UserError
from kard.knowledge.documents import LeftOut, walk
from kard.recipe import QuestionsSection


def question_files(section: QuestionsSection) -> Any:
    """Of the files that questions come from, by key."""
    if section.kind != "jsonl":
        return published(section.kind)
    files = {"path": section.path, "train": section.train, "dev": section.dev, "test": section.test}
    return {name: _file_identity(path, f"questions.{name}") for name, path in files.items() if path}


def _file_identity(path: Path, key: str) -> Any:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file ({key}). Mend the path; a relative one is meant from the recipe's folder."
        )
    return identity_of_file(path)


def content_hash(path: Path, key: str) -> Any:
    """Of a file, or of all files that readers look at; a large one counts by its size and time, so that no dump is read twice."""
    if not path.is_dir():
        return _file_identity(path, key)
    return {file.relative_to(path).as_posix(): content_hash(file, key) for file in walk(path, LeftOut())}


def published(kind: str) -> str:
    """What stands for data that comes with a package, or from the hub, where a name stays with what was published."""
    if kind not in ("wikivital", "wikiyears"):
        return kind
    from kard.questions.wikivital import package_version

    return package_version()
