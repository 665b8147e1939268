"""`kard serve`, `kard mcp` and `kard export`: a run for others to ask."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from kard.cli.arguments import EngineName, MethodName, RunFolder, RunOrExport
from kard.errors import UserError


def serve(
    run: RunOrExport,
    method: MethodName = None,
    engine: EngineName = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="File with an API key a line, groups behind it; KARD_API_KEYS works too.")
    ] = None,
    admin_keys: Annotated[
        Path | None, typer.Option(help="Another file of keys: they add and remove documents (/v1/documents).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most questions answered together.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="How many requests may wait; more are answered 429.")] = 128,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until a request is given up.")] = 120.0,
    max_bytes: Annotated[int, typer.Option(min=1024, help="Longer request bodies are refused.")] = 65536,
) -> None:
    """Serve a page to ask on, and an API for any OpenAI client."""
    from kard.serving.settings import Settings, check_packages, read_keys

    check_packages("kard serve")
    known = read_keys(keys, os.environ.get("KARD_API_KEYS"))
    from kard.artifacts.folders import check_run
    from kard.data.sources import warn_of_changes
    from kard.serving.server import serve as serve_run

    check_run(run)
    warn_of_changes(run)
    admins = tuple(read_keys(admin_keys, None)) if admin_keys else ()
    settings = Settings(
        batch_size=batch_size, queue=queue, timeout=timeout, most_bytes=max_bytes, keys=known, admin_keys=admins
    )
    serve_run(run, method, host, port, settings, engine)


def mcp(
    run: RunOrExport,
    method: MethodName = None,
    engine: EngineName = None,
) -> None:
    """Offer answers, search and documents to assistants.

    A server of the Model Context Protocol on standard input and output; an assistant's settings name this command.
    """
    if not find_spec("mcp"):
        raise UserError("kard mcp: its package is not installed. Run: pip install 'kard[mcp]'.")
    from kard.data.sources import warn_of_changes
    from kard.kard import Kard
    from kard.tools.mcp import create_server

    warn_of_changes(run)
    create_server(Kard.load(run, method, engine), run).run()


def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="A new folder for the export.")],
    method: MethodName = None,
    vectors: Annotated[
        str, typer.Option(help="Passage vectors to ship: all (then nothing is written later), or computed so far.")
    ] = "all",
    gguf: Annotated[
        str | None, typer.Option(metavar="TYPE", help="For llama.cpp and Ollama as well: f16, q8_0 or q4_k_m.")
    ] = None,
    push: Annotated[str | None, typer.Option(help="Upload it to the model hub as OWNER/NAME.")] = None,
) -> None:
    """Write a folder that answers anywhere, offline.

    Test questions are answered again from it, to check that it answers the same.
    """
    from kard.tools.export import export_run, push_export

    count = export_run(run, folder, method, vectors, gguf)
    typer.echo(f"{folder}: complete; {count:,} questions were answered again, all the same")
    if push is not None:
        typer.echo(f"Uploaded: {push_export(folder, push)}")
