"""Without a terminal, progress is plain lines with an ETA on standard error."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import pytest

from kard import progress as progress_module
from kard.progress import duration, progress, say


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (7.2, "7 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_are_for_people(seconds, shown):
    assert duration(seconds) == shown


def test_lines_say_how_far_and_how_long(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    with progress("train student", 4000, "steps") as advance:
        time.sleep(0.02)
        advance(1000)
        advance(2000)
        advance(1000)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 2  # the last one would say nothing
    assert re.fullmatch(r"  train student: 1,000/4,000 steps, ETA \d+ s", lines[0])
    assert re.fullmatch(r"  train student: 3,000/4,000 steps, ETA \d+ s", lines[1])


def clock(*seconds: float) -> SimpleNamespace:
    """A time module whose clock shows these seconds one after the other."""
    shown = iter(seconds)
    return SimpleNamespace(monotonic=lambda: next(shown))


def test_the_eta_is_the_time_per_step_times_the_steps_left(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "time", clock(0, 30, 60))
    with progress("x", 100) as advance:
        advance(10)
        advance(50)
    assert capsys.readouterr().err.splitlines() == ["  x: 10/100 items, ETA 4 min 30 s", "  x: 60/100 items, ETA 40 s"]


def test_lines_come_at_most_every_ten_seconds(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "time", clock(*range(100)))
    with progress("x", 100) as advance:
        for _ in range(35):
            advance(1)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["10/100", "20/100", "30/100"]


def test_nothing_done_yet_is_no_division_by_zero(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    with progress("x", 5) as advance:
        advance(0)
    assert capsys.readouterr().err == "  x: 0/5 items, ETA 0 s\n"


@pytest.mark.parametrize("total", [0, -1])
def test_no_steps_show_nothing(capsys, monkeypatch, total):
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    with progress("x", total) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text", ["plain", "[bold]a[/bold] [/x] [1, 2]", "an :apple: a day", "Straße 你好", "x" * 500, "/a b/é.jsonl:3: 'x'"]
)
def test_what_is_said_is_shown_as_it_is_in_one_line(capsys, text):
    say(text)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", text + "\n")
