"""What commands print: lines and tables for people, or one JSON value for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from kard.errors import printable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def show(as_json: bool, value: Any, shown: Iterable[Any]) -> None:
    """Print the value as JSON, or what people are shown of it: lines, and tables of rich."""
    if as_json:
        print_json(value)
        return
    for part in shown:
        if isinstance(part, str):
            typer.echo(printable(part))
        else:
            from rich.console import Console

            Console().print(part)
