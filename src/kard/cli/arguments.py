"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CandidateFile = Annotated[Path, typer.Argument(help="JSONL: query or queries, passages, scores; maybe relevant.")]
RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (e.g. quickstart).")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
RunOrExport = Annotated[Path, typer.Argument(help="The folder of a run or of an export.")]
MethodName = Annotated[str | None, typer.Option(help="One of the run's methods (default: its best that is no oracle).")]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="llama_cpp: an export's GGUF file; transformers: its weights; int8: them in 8 bits on CPUs (default: the recipe's).",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key. May be repeated."),
]
Filter = Annotated[
    str | None, typer.Option("--filter", metavar="JSON", help="""Documents to read, as '{"year": {"$gte": 2020}}'.""")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder (default: runs/NAME).")]
