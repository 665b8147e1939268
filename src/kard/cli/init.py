"""`kard init`: a project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder for your project.")],
    documents: Annotated[Path | None, typer.Option(help="Yours: a teacher makes the questions about them.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="MODEL@URL, a model at OpenAI, a .gguf file, hub id or folder.")
    ] = None,
) -> None:
    """Write a commented recipe to start from.

    With two small sample files, or for your documents.
    """
    from kard.tools.init import write_project

    if documents is not None and teacher is None:
        teacher = typer.prompt("Teacher: MODEL@URL, a model at OpenAI, a .gguf file, hub id or folder", err=True)
    typer.echo(f"Wrote {folder}: {', '.join(write_project(folder, documents, teacher))}")
    typer.echo(f"Next: kard run {folder / 'recipe.yaml'} --dry-run")
