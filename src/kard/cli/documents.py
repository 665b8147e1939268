"""`kard docs`: documents come and go, nothing is trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kard.cli.output import AsJson, print_json, show
from kard.errors import printable

if TYPE_CHECKING:
    from kard.documents import Change

docs = typer.Typer(
    help="Add, replace and remove documents of a run or an export. Nothing is trained.",
    no_args_is_help=True,
)

_NAMED = 5

Target = Annotated[Path, typer.Argument(help="The folder of a run or of an export.")]
Paths = Annotated[list[Path], typer.Argument(help="Files or folders, in any format that a recipe reads.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]


@docs.command("list")
def list_documents(
    target: Target,
    version: Annotated[int | None, typer.Option(min=0, help="An earlier version (default: the current one).")] = None,
    as_json: AsJson = False,
) -> None:
    """List the documents: id, passages, title, source."""
    from kard.documents import documents_of_run

    rows = documents_of_run(target, version)
    lines = (f"{row.id}  {row.passages} passages  {row.title}  ({row.source})" for row in rows)
    show(as_json, [asdict(row) for row in rows] if as_json else None, lines)


@docs.command()
def add(target: Target, paths: Paths, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Add documents: the next answers can be read from them."""
    from kard.documents import files_to_read, put_documents

    _show(put_documents(target, files_to_read(paths), dry_run=dry_run), dry_run, as_json)


@docs.command()
def replace(target: Target, paths: Paths, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Add documents, and replace those whose id is there already."""
    from kard.documents import files_to_read, put_documents

    _show(put_documents(target, files_to_read(paths), replace=True, dry_run=dry_run), dry_run, as_json)


@docs.command()
def remove(
    target: Target,
    ids: Annotated[list[str], typer.Argument(help="Ids of documents, as 'kard docs list' shows them.")],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove documents. Older versions still hold them: 'kard docs prune' deletes these for good."""
    from kard.documents import remove_documents

    _show(remove_documents(target, ids, dry_run), dry_run, as_json)


@docs.command()
def history(target: Target, as_json: AsJson = False) -> None:
    """Show the versions of the documents; * is the one that is read."""
    from kard.documents import history as rows_of

    rows = rows_of(target)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        counts = ", ".join(f"{row[name]} {name}" for name in ("added", "replaced", "removed") if row[name])
        after = f" after {row['parent']}" if row["parent"] is not None else ""
        mark = "*" if row["current"] else " "
        said = f"{mark} {row['version']}{after}  {row['time'] or '':<25}  {row['command']}: {counts or 'no change'}"
        typer.echo(f"{said}; {row['passages']:,} passages")


@docs.command()
def rollback(
    target: Target,
    version: Annotated[int, typer.Argument(min=0, help="A version of 'kard docs history'; 0: the recipe's documents.")],
) -> None:
    """Read another version of the documents from now on."""
    from kard.documents import rollback as back

    back(target, version)
    typer.echo(f"{target}: version {version} of the documents is read now")


@docs.command()
def prune(
    target: Target,
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest versions stay, beside the current one.")] = 0,
) -> None:
    """Delete old versions of the documents for good."""
    from kard.documents import prune as delete

    gone = delete(target, keep)
    typer.echo(
        f"{target}: deleted {'version ' + ', '.join(map(str, gone)) if gone else 'nothing: no old version is there'}"
    )


def _show(change: Change, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(asdict(change))
        return
    named = {
        "added": change.added,
        "replaced": change.replaced,
        "removed": change.removed,
        "unchanged": change.unchanged,
    }
    for name, ids in named.items():
        if ids:
            more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
            typer.echo(printable(f"{name}: {', '.join(ids[:_NAMED])}{more}"))
    for reason, count in change.left_out.items():
        typer.echo(
            printable(f"left out: {count:,} {reason.replace('_', ' ')}: {change.first_left_out.get(reason, '')}")
        )
    if not change.changes:
        typer.echo(f"Nothing changes: version {change.version} is read, {change.passages:,} passages")
    elif dry_run:
        typer.echo(f"Would be the next version: {change.passages:,} passages. Nothing was changed.")
    else:
        typer.echo(f"Version {change.version} is read now: {change.passages:,} passages")
