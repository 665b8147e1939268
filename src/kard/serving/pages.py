"""Pages and what belongs to them: files of the package, or texts, each at its path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from fastapi import FastAPI, Response
from starlette.routing import Route

Pages = dict[str, tuple[str, str]]  # by path: a text, and its media type


def page_files(names: Mapping[str, tuple[str, str]]) -> Pages:
    """Files of the folder ``page``, by path with their names and media types."""
    folder = resources.files("kard") / "serving" / "page"
    return {path: ((folder / name).read_text(encoding="utf-8"), kind) for path, (name, kind) in names.items()}


def add_pages(app: FastAPI, pages: Pages) -> None:
    """Let an application answer with pages."""
    for path, (content, kind) in pages.items():
        page = Response(content, media_type=kind, headers={"cache-control": "no-cache"})
        app.router.routes.append(Route(path, page, methods=["GET"], include_in_schema=False))
