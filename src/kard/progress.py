"""Progress of long work: a bar with an ETA on a terminal, plain lines with an ETA anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

from rich.console import Console

from kard.errors import printable
from kard.machine.processes import rank

LINE_EVERY_SECONDS = 10.0
SILENT_SECONDS = 1.0

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True, quiet=rank() > 0)

Advance = Callable[[int], None]


def say(text: str) -> None:
    """Print one line about the work to standard error, where it does not mix with results."""
    console.print(printable(text), markup=False)


@contextmanager
def unsaid() -> Iterator[None]:
    """Looking ahead: what is read meanwhile is read again, and the stage that reads it says what there is to say."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``7 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say what is waited for, where it takes longer than a second."""
    timer = Timer(SILENT_SECONDS, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def progress(label: str, total: int, unit: str = "items") -> Iterator[Advance]:
    """Show how far a loop of `total` steps is; yields a function that is called with the number of steps done.

    Args:
        label: What is being done, e.g. ``"train student"``.
        total: Number of steps; 0 shows nothing.
        unit: What a step is, for the plain lines.
    """
    if total <= 0:
        yield lambda steps: None
    elif console.is_terminal:
        with _bar(label, total) as advance:
            yield advance
    else:
        yield _plain_lines(label, total, unit)


@contextmanager
def _bar(label: str, total: int) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.update(task, advance=steps)


def _plain_lines(label: str, total: int, unit: str) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS and done < total:
            last = now
            remaining = (now - start) / done * (total - done) if done else 0.0
            say(f"  {label}: {done:,}/{total:,} {unit}, ETA {duration(remaining)}")
            sys.stderr.flush()

    return advance
