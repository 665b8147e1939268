"""`kard review` and `kard questions`: people read a run's questions, and take them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

questions = typer.Typer(help="Take a run's questions elsewhere.", no_args_is_help=True)

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
Decided = Annotated[
    Path | None, typer.Option(help="Decisions of kard review (default: reviewed.jsonl beside the run).")
]


def review(
    run: RunFolder,
    decisions: Decided = None,
    reviewer: Annotated[str, typer.Option(envvar="USER", help="Your name, which each decision carries.")] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8001,
) -> None:
    """Read questions on a local page, and decide on them.

    Accept, mend or reject them, keyboard first. Every decision is on the disk before the next question comes.
    """
    from kard.serving.settings import check_packages

    check_packages("kard review")
    from kard.serving.review import review as review_run

    review_run(run, decisions, reviewer, port)


@questions.command()
def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="JSONL to write, which questions.kind: jsonl reads.")],
    decisions: Decided = None,
    split: Annotated[str | None, typer.Option(help="Only those of train, dev or test.")] = None,
    reviewed: Annotated[bool, typer.Option("--reviewed", help="Only what somebody accepted or mended.")] = False,
) -> None:
    """Write a run's questions as an ordinary file.

    As people have decided, with rationales and gold passages. Without a decision, those go that were kept.
    """
    from kard.reviews import export_questions

    counts = export_questions(run, file, decisions, split, reviewed)
    typer.echo(f"{file}: {counts.pop('written'):,} questions")
    for why, count in counts.items():
        typer.echo(f"  not written: {count:,} {why}")
