"""All benchmarks, one after the other: their last lines in benchmarks/results.json, their table in docs/results.md.

Usage: python benchmarks/all.py [--quick]   (or: make benchmark, make benchmark OPTIONS=--quick)

`serve.py` asks a finished quickstart in runs/quickstart. One that fails does not keep the others from being measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kard.artifacts.files import write_json
from kard.evaluation.results import environment
from kard.progress import duration
from kard.recipe.file import load_recipe

HERE = Path(__file__).parent
NAMES = ("bm25", "index", "rerank", "train", "write", "teacher", "serve")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="all in their smaller sizes")
    quick = parser.parse_args().quick
    machine = environment(load_recipe("quickstart", []))
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for number, name in enumerate(NAMES, start=1):
        print(f"{name} ({number} of {len(NAMES)})", flush=True)
        start = time.monotonic()
        row = measured(name, ["--quick"] if quick else [])
        seconds = round(time.monotonic() - start)
        print(f"{name}: {'failed' if row is None else 'took'} {duration(seconds)}", flush=True)
        if row is None:
            failed.append(name)
            continue
        rows.append({**row, "seconds": seconds})
        write_json(HERE / "results.json", {"quick": quick, "environment": machine, "benchmarks": rows})
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}. Run 'python benchmarks/{failed[0]}.py' alone to see why.")


def measured(name: str, options: list[str]) -> dict[str, Any] | None:
    """The line that a benchmark ends with, all of them shown; None where it fails."""
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    line = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    row: dict[str, Any] | None = json.loads(line) if process.returncode == 0 else None
    return row


if __name__ == "__main__":
    main()
