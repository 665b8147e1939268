"""Batches: who is answered together, and what happens while nobody asks."""

from __future__ import annotations

import threading
import time

import pytest

from kard.data.filters import EVERYTHING
from kard.serving import worker
from kard.serving.metrics import Metrics
from kard.serving.settings import Settings
from kard.serving.worker import Job, Worker


@pytest.mark.parametrize(("share", "together"), [(10.0, 2), (0.0, 1)])
def test_who_has_just_been_answered_is_waited_for(slow, questions, monkeypatch, share, together):
    kard, student = slow
    monkeypatch.setattr(worker, "_WAIT_SHARE", share)
    working = Worker(kard, Settings(batch_size=2, gather_seconds=0.0, queue=8), Metrics())
    working.start()
    first, waiting, again = (Job(question, kard.method, EVERYTHING) for question in questions[:3])
    student.may_go_on.clear()
    working.submit(first)
    while not student.batches[1:]:
        time.sleep(0.01)
    working.submit(waiting)
    time.sleep(0.2)  # so long the batch takes
    student.may_go_on.set()
    first.future.result(30)
    time.sleep(0.1)
    working.submit(again)
    for job in (waiting, again):
        job.future.result(30)
    working.stop()
    assert student.batches[2] == together


def test_memory_is_given_back_once_nobody_has_asked_for_a_while(kard, questions, monkeypatch):
    released = []
    again = threading.Event()
    monkeypatch.setattr(worker, "_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(worker, "release_memory", lambda cycles: (released.append(cycles), again.set()))
    working = Worker(kard, Settings(batch_size=2, gather_seconds=0.0, queue=8), Metrics())
    working.start()
    assert again.wait(10)
    time.sleep(0.3)
    assert released == [False]  # once, not again and again
    again.clear()
    job = Job(questions[0], kard.method, EVERYTHING)
    working.submit(job)
    assert job.future.result(30).answer is not None
    assert again.wait(10)
    working.stop()
