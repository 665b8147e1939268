"""`kard init`: a commented recipe to start from, with two sample files, or for a folder of documents."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from kard.data.readers import files, mediawiki, tables
from kard.data.readers.documents import LeftOut, walk
from kard.data.textfile import PACKED
from kard.errors import UserError

_FILES = ("recipe.yaml", "questions.jsonl", "passages.jsonl")
# The formats of documents, by what names of files end in.
_SUFFIXES = {"files": files.SUFFIXES, "mediawiki": mediawiki.SUFFIXES, **tables.SUFFIXES}


def write_project(folder: Path, documents: Path | None = None, teacher: str | None = None) -> list[str]:
    """Write ``recipe.yaml`` with ``questions.jsonl`` and ``passages.jsonl``, or for questions that a teacher makes.

    Args:
        folder: The project's.
        documents: A file, or a folder of files, of a format that knowledge is read from.
        teacher: Who asks about them, as `teacher_of` takes it.

    Returns:
        Names of the files.

    Raises:
        UserError: One of them is there already, `folder` is a file, or there is no document.
    """
    if (documents is None) != (teacher is None):
        raise UserError("--documents and --teacher: the teacher asks about the documents. Name both, or neither.")
    if documents is None or teacher is None:
        return _write(folder, {file: _template(file) for file in _FILES})
    path = os.path.relpath(documents.resolve(), folder.resolve())
    sections = {"knowledge": {"kind": kind_of(documents), "path": path}, "teacher": teacher_of(teacher)}
    text = _template("documents.yaml")
    for name, section in sections.items():
        lines = yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=1000).splitlines()
        text = text.replace(f"  {name.upper()}\n", "".join(f"  {line}\n" for line in lines))
    return _write(folder, {"recipe.yaml": text})


def kind_of(documents: Path) -> str:
    """The ``knowledge.kind`` of a file, or of most files in a folder.

    Raises:
        UserError: There is no such file or folder, or nothing in it that can be read.
    """
    if not documents.exists():
        raise UserError(f"{documents}: no such file or folder (--documents). Mend the path.")
    names = [path.name.lower() for path in ([documents] if documents.is_file() else walk(documents, LeftOut()))]
    counts = {kind: sum(name.endswith(ends) for name in names) for kind, ends in _SUFFIXES.items()}
    best = max(counts, key=lambda kind: counts[kind])
    if not counts[best]:
        shown = ", ".join(dict.fromkeys(end for ends in _SUFFIXES.values() for end in ends if not end.endswith(PACKED)))
        raise UserError(f"{documents}: holds {len(names)} files, none that can be read ({shown}). Name another folder.")
    return best


def teacher_of(name: str) -> dict[str, Any]:
    """The keys of the recipe's ``teacher``.

    Args:
        name: ``MODEL@URL`` (a model at an endpoint), a ``.gguf`` file, a folder, hub id (with a slash) or ``package:NAME`` that
            transformers loads, or else the name of a model at OpenAI.
    """
    model, at, url = name.rpartition("@http")
    if at and model:
        return {"kind": "openai", "model": model, "base_url": f"http{url}"}
    if name.startswith(("http://", "https://")):
        raise UserError(f"--teacher {name}: names no model. Write MODEL@{name}.")
    if name.lower().endswith(".gguf"):
        return {"kind": "llama_cpp", "model": os.path.abspath(name)}
    if Path(name).is_dir():
        return {"kind": "transformers", "model": os.path.abspath(name)}
    if "/" in name or name.startswith("package:"):
        return {"kind": "transformers", "model": name}
    return {"kind": "openai", "model": name, "temperature": None}


def _template(file: str) -> str:
    return (resources.files("kard") / "tools" / "project" / file).read_text(encoding="utf-8")


def _write(folder: Path, contents: dict[str, str]) -> list[str]:
    if folder.is_file():
        raise UserError(f"{folder}: is a file. Name a new folder.")
    for file in contents:
        if (folder / file).exists():
            raise UserError(f"{folder / file}: is there already. Name a new folder, or remove the file.")
    folder.mkdir(parents=True, exist_ok=True)
    name = yaml.safe_dump({"name": folder.resolve().name or "my-project"}, allow_unicode=True, width=1000)
    for file, text in contents.items():
        (folder / file).write_text(text.replace("name: NAME\n", name), encoding="utf-8")
    return list(contents)
