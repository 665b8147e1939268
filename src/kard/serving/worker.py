"""The one thread that owns the model: requests wait in a bounded queue and are answered in batches."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from time import monotonic

from kard.data.question import Question
from kard.errors import UserError
from kard.finder import Found
from kard.kard import Answer, Kard, Listener
from kard.machine.memory import release_memory
from kard.methods import Method
from kard.serving.metrics import Metrics
from kard.student.generation import Writing

_log = logging.getLogger("kard.serving")
_IDLE_SECONDS = 60
# Who has just been answered may ask again at once: so long, as a share of the last batch's time, the next one waits for them.
_WAIT_SHARE = 0.02
_WARM_UP = Question(id="warm up", question="Is it warm?", choices=("yes", "no"))


class QueueFull(Exception):
    """No place in the queue; `retry_after` seconds should make one free."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full, try again in {retry_after} s")
        self.retry_after = retry_after


class Stopping(Exception):
    """The server is stopping and takes no more requests."""


class Failed(Exception):
    """A question at which the server failed; why is in its log alone."""


@dataclass(frozen=True)
class Done:
    """What came of a job.

    Attributes:
        found: All passages that were considered, best first.
        milliseconds: Of each step: waiting in the queue, and search, rerank, write of the batch.
        answer: None where a search was asked for.
        prompt_tokens: Tokens that the student read.
        completion_tokens: Tokens that it wrote.
    """

    found: Sequence[Found]
    milliseconds: dict[str, float]
    answer: Answer | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Job:
    """A question in the queue; `future` gives what came of it, and is cancelled by whoever no longer waits for it."""

    question: Question
    method: Method
    only_search: bool = False
    listener: Listener | None = None
    future: Future[Done] = field(default_factory=Future)
    accepted: float = field(default_factory=monotonic)


class Worker:
    """Answers jobs in batches, in a thread of its own.

    Args:
        kard: What answers.
        batch_size: How many questions are answered together at most.
        gather_seconds: How long a batch waits for others at least; after a long batch it waits a fiftieth of that one's time.
        capacity: How many jobs may wait.
        metrics: Is told about every batch.
    """

    def __init__(self, kard: Kard, batch_size: int, gather_seconds: float, capacity: int, metrics: Metrics) -> None:
        self.kard = kard
        self.batch_size = batch_size
        self.gather_seconds = gather_seconds
        self._last_seconds = 0.0
        self.capacity = capacity
        self.metrics = metrics
        self.accepted = 0
        self._jobs: deque[Job] = deque()
        self._changed = Condition()
        self._stopping = False
        self._seconds_each = 0.5
        self._warm: Future[None] = Future()
        self._thread = Thread(target=self._run, name="kard-worker", daemon=True)

    def start(self) -> None:
        """Start the thread, once it has set up what is set up at the first use: the first user shall not wait for it."""
        self._thread.start()
        self._warm.result()

    @property
    def alive(self) -> bool:
        """Whether jobs are taken and answered."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            QueueFull: Too many are waiting.
            Stopping: The server is about to end.
        """
        with self._changed:
            if not self.alive:
                raise Stopping
            if len(self._jobs) >= self.capacity:
                self._jobs = deque(
                    job for job in self._jobs if not job.future.cancelled()
                )  # who has gone keeps no place
            if len(self._jobs) >= self.capacity:
                self.metrics.refused.inc()
                raise QueueFull(min(60, max(1, math.ceil(len(self._jobs) * self._seconds_each))))
            self._jobs.append(job)
            self.accepted += 1
            self._changed.notify()

    def stop(self) -> None:
        """Take no more jobs, answer those that wait, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _warm_up(self) -> None:
        self.kard.finder.candidates(self.kard.method, [_WARM_UP], {})
        self.kard.student.write({_WARM_UP.question: _WARM_UP.choices}, Writing("answer", 1))

    def _run(self) -> None:
        try:
            self._warm_up()
        except Exception as error:
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        while batch := self._next_batch():
            start = monotonic()
            running = [job for job in batch if job.future.set_running_or_notify_cancel()]
            for job, done in zip(running, self._answer(running, start), strict=True):
                if isinstance(done, Done):
                    job.future.set_result(done)
                else:
                    job.future.set_exception(done)
            if running:
                self._last_seconds = monotonic() - start
                self._seconds_each += 0.3 * (self._last_seconds / len(running) - self._seconds_each)
                self.metrics.batch(len(running), self._last_seconds)

    def _next_batch(self) -> list[Job]:
        """The next jobs, oldest first; none once the queue is empty and the server stops."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._jobs or self._stopping, _IDLE_SECONDS):
                release_memory(cycles=False)  # not after each batch: getting it again is a tenth of the next one's time
                self._changed.wait_for(lambda: self._jobs or self._stopping)
            wait = max(self.gather_seconds, _WAIT_SHARE * self._last_seconds)
            self._changed.wait_for(lambda: len(self._jobs) >= self.batch_size or self._stopping, wait)
            return [self._jobs.popleft() for _ in range(min(self.batch_size, len(self._jobs)))]

    def _answer(self, jobs: Sequence[Job], start: float) -> list[Done | Exception]:
        """What came of each job; a question that cannot be put to the student is its own asker's error alone."""
        errors = [self._error(job) for job in jobs]
        done = iter(self._halved([job for job, error in zip(jobs, errors, strict=True) if error is None], start))
        return [error or next(done) for error in errors]

    def _error(self, job: Job) -> Exception | None:
        try:
            self.kard.check(job.question, job.method)
        except UserError as error:
            return error
        except Exception:
            return self._failed(job)
        return None

    def _halved(self, jobs: Sequence[Job], start: float) -> list[Done | Exception]:
        """What came of jobs that are answered together, and where that fails, each half alone: in the end only the question
        fails that the others failed for."""
        if not jobs:
            return []
        try:
            return list(self._done(jobs, start))
        except Exception:
            # Whatever went wrong, these askers must hear of it and the thread must go on with the next batch. It is no fault of
            # a question's asker, also where it is a UserError, such as a full disk: that is the server's own user's.
            if len(jobs) == 1:
                return [self._failed(jobs[0])]
            _log.warning("a batch of %d failed; each half of it is answered alone", len(jobs))
        half = len(jobs) // 2
        return [*self._halved(jobs[:half], start), *self._halved(jobs[half:], start)]

    def _failed(self, job: Job) -> Failed:
        """Write the exception at hand into the log, and say what its asker is told."""
        question = job.question
        _log.exception(
            "a question failed (%s): %.300r, choices %.300r", job.method.name, question.question, question.choices
        )
        return Failed("the server failed at this question; its log says why. Ask it in other words.")

    def _done(self, jobs: Sequence[Job], start: float) -> list[Done]:
        found = {id(job): self._searched(job, start) for job in jobs if job.only_search}
        asked = [job for job in jobs if not job.only_search]
        listeners = {place: job.listener for place, job in enumerate(asked) if job.listener is not None}
        answers = self.kard.answer_each([(job.question, job.method) for job in asked], listeners) if asked else []
        for job, answer in zip(asked, answers, strict=True):
            tokens = [len(self.kard.student.tokenizer(text).input_ids) for text in (answer.prompt, answer.text)]
            steps = {name: _ms(answer.steps[name]) for name in _steps(job.method)}
            times = {"queue": _ms(start - job.accepted), **steps}
            found[id(job)] = Done(answer.candidates, times, answer, *tokens)
            self.metrics.answered(times, tokens)
        return [found[id(job)] for job in jobs]

    def _searched(self, job: Job, start: float) -> Done:
        steps: dict[str, float] = {}
        [found] = self.kard.finder.candidates(job.method, [job.question], steps)
        times = {"queue": _ms(start - job.accepted), **{name: _ms(seconds) for name, seconds in steps.items()}}
        return Done(found, times)


def _steps(method: Method) -> tuple[str, ...]:
    """The steps that a method takes; others of its batch may take more."""
    if not method.reads_passages:
        return ("write",)
    return ("search", "rerank", "write") if method.reads == "reranker" else ("search", "write")


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
