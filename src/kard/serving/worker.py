"""The one thread that owns the model: requests wait in a bounded queue and are answered in batches."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Thread
from time import monotonic

from torch import Tensor

from kard.artifacts.versions import current_path
from kard.data.filters import Restriction
from kard.data.question import Question
from kard.errors import UserError
from kard.finder import Found
from kard.kard import Answer, Kard, Listener
from kard.machine.memory import release_memory
from kard.methods import Method
from kard.run import Run
from kard.serving.metrics import Metrics
from kard.serving.refusal import Refusal
from kard.serving.settings import Settings
from kard.student.generation import Writing

_log = logging.getLogger("kard.serving")
_IDLE_SECONDS = 60
# Who has just been answered may ask again at once: so long, as a share of the last batch's time, the next one waits for them.
_WAIT_SHARE = 0.02
_WARM_UP = Question(id="warm up", question="Is it warm?", choices=("yes", "no"))


@dataclass(frozen=True)
class Done:
    """What came of a job.

    Attributes:
        found: All passages that were considered, best first.
        milliseconds: Of each step: waiting in the queue, and search, rerank, write of the batch.
        answer: None where a search was asked for.
        prompt_tokens: Tokens that the student read.
        completion_tokens: Tokens that it wrote.
        scores: How likely each token is where the answer stands, and behind each of those that were asked about.
    """

    found: Sequence[Found]
    milliseconds: dict[str, float]
    answer: Answer | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    scores: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """A question in the queue; `future` gives what came of it, and is cancelled by whoever no longer waits for it.

    `scored` are tokens that might stand in the place of the answer, where it is asked how likely they are.
    """

    question: Question
    method: Method
    restriction: Restriction
    only_search: bool = False
    listener: Listener | None = None
    scored: Sequence[int] = ()
    future: Future[Done] = field(default_factory=Future)
    accepted: float = field(default_factory=monotonic)


class Worker:
    """Answers jobs in batches, in a thread of its own.

    Args:
        kard: What answers.
        settings: Sizes of batches and queue. After a long batch the next one waits for others a fiftieth of that one's time,
            where that is longer than `gather_seconds`.
        metrics: Counts every batch.
        run: Where `kard` was loaded from; a new version of its documents is read from the next batch on.
    """

    def __init__(self, kard: Kard, settings: Settings, metrics: Metrics, run: Path | None = None) -> None:
        self.kard = kard
        self.run = run
        self._documents: tuple[int, int] | None = None
        self.settings = settings
        self.metrics = metrics
        self.accepted = 0
        self._jobs: deque[Job] = deque()
        self._changed = Condition()
        self._stopping = False
        self._last_seconds = 0.0
        self._seconds_each = 0.5
        self._warm: Future[None] = Future()
        self._thread = Thread(target=self._run, name="kard-worker", daemon=True)

    def start(self) -> None:
        """Start the thread, once it has set up what is set up at the first use: the first user shall not wait for it."""
        self._thread.start()
        self._warm.result()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._jobs)

    def check_alive(self) -> None:
        """Check that jobs are taken and answered.

        Raises:
            Refusal: The server is about to end.
        """
        if self._stopping or not self._thread.is_alive():
            raise Refusal(503, "the server is stopping. Try again later.", "stopping")

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            Refusal: Too many are waiting, or the server is about to end.
        """
        most = self.settings.queue
        with self._changed:
            self.check_alive()
            if len(self._jobs) >= most:  # who has gone keeps no place
                self._jobs = deque(waiting for waiting in self._jobs if not waiting.future.cancelled())
            if len(self._jobs) >= most:
                self.metrics.refused.inc()
                seconds = min(60, max(1, math.ceil(len(self._jobs) * self._seconds_each)))
                message = f"the queue is full, try again in {seconds} s."
                raise Refusal(429, message, "queue_full", headers={"retry-after": str(seconds)})
            self._jobs.append(job)
            self.accepted += 1
            self._changed.notify()

    def stop(self) -> None:
        """Take no more jobs, answer those that wait, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._prepare(self.kard)
            self.kard.finder.candidates(self.kard.method, [_WARM_UP], {})
            self.kard.student.write({_WARM_UP.question: _WARM_UP.choices}, Writing("answer", 1))
        except Exception as error:
            self._warm.set_exception(error)
            return
        self._warm.set_result(None)
        while batch := self._next_batch():
            self._take_new_documents()
            start = monotonic()
            running = [job for job in batch if job.future.set_running_or_notify_cancel()]
            self._answer([job for job in running if self._can_be_asked(job)], start)
            if running:
                self._last_seconds = monotonic() - start
                self._seconds_each += 0.3 * (self._last_seconds / len(running) - self._seconds_each)
                self.metrics.batch(len(running), self._last_seconds)

    def _prepare(self, kard: Kard) -> None:
        """Read what the documents' metadata says of each key's groups: no asker shall wait for it."""
        if (access := kard.finder.access) is not None:
            for groups in (frozenset[str](), *self.settings.keys.values()):
                access.keys(groups)

    def _take_new_documents(self) -> None:
        """Go over to the version of the documents that is current now; where that fails, the one that is read stays."""
        state = _state(self.run)
        if self.run is None or state == self._documents:
            return
        self._documents = state
        try:
            opened = Run.open(self.run)
            if opened.documents != self.kard.finder.documents:
                taken = replace(self.kard, finder=self.kard.finder.over(opened))
                check_examples(taken)
                self._prepare(taken)
                self.kard = taken
        except Exception:
            _log.exception(
                "the new version of the documents cannot be read; the questions are answered from the one before"
            )

    def _next_batch(self) -> list[Job]:
        """The next jobs, oldest first; none once the queue is empty and the server stops."""
        size = self.settings.batch_size
        with self._changed:
            if not self._changed.wait_for(lambda: self._jobs or self._stopping, _IDLE_SECONDS):
                release_memory(cycles=False)  # not after each batch: getting it again is a tenth of the next one's time
                self._changed.wait_for(lambda: self._jobs or self._stopping)
            wait = max(self.settings.gather_seconds, _WAIT_SHARE * self._last_seconds)
            self._changed.wait_for(lambda: len(self._jobs) >= size or self._stopping, wait)
            return [self._jobs.popleft() for _ in range(min(size, len(self._jobs)))]

    def _can_be_asked(self, job: Job) -> bool:
        """Whether a question can be put to the student; where not, that is its own asker's error alone."""
        try:
            self.kard.check(job.question, job.method, job.restriction)
        except UserError as error:
            job.future.set_exception(error)
        except Exception:
            self._fail(job)
        return not job.future.done()

    def _answer(self, jobs: Sequence[Job], start: float) -> None:
        """Answer jobs together, and where that fails, each half alone: in the end only the question fails that the others
        failed for."""
        try:
            results = self._done(jobs, start)
        except Exception:
            # Whatever went wrong, these askers must hear of it and the thread must go on with the next batch. It is no fault of
            # a question's asker, also where it is a UserError, such as a full disk: that is the server's own user's.
            if len(jobs) == 1:
                self._fail(jobs[0])
                return
        else:
            for job, done in zip(jobs, results, strict=True):
                job.future.set_result(done)
            return
        _log.warning("a batch of %d failed; each half of it is answered alone", len(jobs))
        half = len(jobs) // 2
        self._answer(jobs[:half], start)
        self._answer(jobs[half:], start)

    def _fail(self, job: Job) -> None:
        """Write the exception at hand into the log, and tell the asker where it is."""
        asked = job.question
        _log.exception("a question failed (%s): %.300r, choices %.300r", job.method.name, asked.question, asked.choices)
        message = "the server failed at this question; its log says why. Ask it in other words."
        job.future.set_exception(Refusal(500, message, "failed"))

    def _done(self, jobs: Sequence[Job], start: float) -> list[Done]:
        asked = [job for job in jobs if not job.only_search]
        listeners = {place: job.listener for place, job in enumerate(asked) if job.listener is not None}
        questions = [(job.question, job.method) for job in asked]
        restrictions = [job.restriction for job in asked]
        answers = iter(self.kard.answer_each(questions, listeners, restrictions) if questions else ())
        return [
            self._searched(job, start) if job.only_search else self._answered(job, next(answers), start) for job in jobs
        ]

    def _answered(self, job: Job, answer: Answer, start: float) -> Done:
        read, written = (len(self.kard.student.tokenizer(text).input_ids) for text in (answer.prompt, answer.text))
        times = _times(job, start, {name: answer.steps[name] for name in _steps(job.method)})
        self.metrics.answered(times, [read, written])
        scores = None
        if job.scored:
            scores = self.kard.student.following(answer.prompt, answer.rationale, job.method.writes, job.scored)
        return Done(answer.candidates, times, answer, read, written, scores)

    def _searched(self, job: Job, start: float) -> Done:
        steps: dict[str, float] = {}
        [found] = self.kard.finder.candidates(job.method, [job.question], steps, restrictions=[job.restriction])
        return Done(found, _times(job, start, steps))


def is_guarded(kard: Kard) -> bool:
    """Whether some of the documents may be read by their groups alone."""
    return kard.finder.access is not None and kard.finder.access.has_groups


def check_examples(kard: Kard) -> None:
    """Raise UserError where prompts show worked examples, which may tell what is in documents that not everybody may read."""
    if is_guarded(kard) and kard.student.settings.examples:
        raise UserError(
            f"{kard.method.name}: its prompt shows worked examples, and some documents may be read by their groups alone. "
            "Serve another method."
        )


def _state(run: Path | None) -> tuple[int, int] | None:
    """What is another one as soon as another version of a run's documents is named."""
    path = current_path(run) if run is not None else None
    try:
        found = path.stat() if path is not None else None
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found is not None else None


def _steps(method: Method) -> tuple[str, ...]:
    """The steps that a method takes; others of its batch may take more."""
    if not method.reads_passages:
        return ("write",)
    return ("search", "rerank", "write") if method.reads == "reranker" else ("search", "write")


def _times(job: Job, start: float, steps: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds in the queue and of each step, from seconds."""
    seconds = {"queue": start - job.accepted, **steps}
    return {name: round(1000 * value, 1) for name, value in seconds.items()}
