"""`kard init`: a commented recipe and two sample files to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml

from kard.errors import UserError

_FILES = ("recipe.yaml", "questions.jsonl", "passages.jsonl")


def write_project(folder: Path) -> None:
    """Write ``recipe.yaml``, ``questions.jsonl`` and ``passages.jsonl``.

    Raises:
        UserError: One of them is there already, or `folder` is a file.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file. Name a new folder.")
    for file in _FILES:
        if (folder / file).exists():
            raise UserError(f"{folder / file}: is there already. Name a new folder, or remove the file.")
    folder.mkdir(parents=True, exist_ok=True)
    name = yaml.safe_dump({"name": folder.resolve().name or "my-project"}, allow_unicode=True, width=1000)
    for file in _FILES:
        text = (resources.files("kard") / "tools" / "project" / file).read_text(encoding="utf-8")
        (folder / file).write_text(text.replace("name: NAME\n", name), encoding="utf-8")
