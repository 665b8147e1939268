"""What stands for a run's inputs in the keys of its stages: hashes of files, versions of what was published; and whether they
have changed since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kard.artifacts.files import hash_of, identity_of_file, read_json, write_json
from kard.data.readers.documents import LeftOut, walk
from kard.data.readers.kinds import credit_of
from kard.errors import UserError
from kard.progress import say
from kard.recipe.base import Section
from kard.recipe.file import recipe_from_run
from kard.recipe.recipe import Recipe
from kard.recipe.sections import KnowledgeSection, QuestionsSection

SOURCES = "sources.json"


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


def remember_sources(section: QuestionsSection | KnowledgeSection, folder: Path) -> None:
    """Note in a stage's folder what the files of its section are like, so that it shows when they have changed, and whom the
    data is from."""
    files = [{"looks": _looks(path), "content": hash_of(content_hash(path, ""))} for path in _sources(section)]
    write_json(folder / SOURCES, {"files": files, "credit": credit_of(section.kind)})


def credits_of(run: Path) -> list[str]:
    """Whom questions and knowledge of a run are from, where that has to be said."""
    found = (run / stage / SOURCES for stage in ("questions", "knowledge"))
    lines = [read_json(path)["credit"] for path in found if path.exists()]
    return [line for line in dict.fromkeys(lines) if line]


def warn_of_changes(run: Path, questions: bool = False) -> None:
    """Say which documents (and `questions`) are others now than those that a run was made from. A run that was made elsewhere,
    and whose files are not here, has nothing to compare."""
    recipe: Recipe = recipe_from_run(run)
    stages: dict[str, Section] = {"knowledge": recipe.knowledge} | (
        {"questions": recipe.questions} if questions else {}
    )
    for stage, section in stages.items():
        known = run / stage / SOURCES
        rows = read_json(known)["files"] if known.exists() else []
        for path, row in zip(_sources(section), rows, strict=False):
            if path.is_absolute() and path.exists() and _has_changed(path, row):
                say(
                    f"{path.name} has changed since {run / stage} was made: answers come from what it was. "
                    f"Run: kard run {run / 'recipe.yaml'} --output {run}"
                )


def _has_changed(path: Path, row: dict[str, str]) -> bool:
    return row["looks"] != _looks(path) and row["content"] != hash_of(content_hash(path, ""))


def _sources(section: Section) -> list[Path]:
    return [value for name, value in section if isinstance(value, Path)]


def _looks(path: Path) -> str:
    """Sizes and times of a file or of all files in a folder: read in no time, and another where a content is another."""
    files = walk(path, LeftOut()) if path.is_dir() else [path]
    states = ((file, file.stat()) for file in files)
    return hash_of([[file.relative_to(path).as_posix(), at.st_size, at.st_mtime_ns] for file, at in states])
