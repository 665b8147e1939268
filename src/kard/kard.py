"""`Kard`: the one answering path. Predictions, `kard answer`, `kard batch` and any server go through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from kard.artifacts.files import hash_of
from kard.calibration import Calibration, log_odds, read_calibrations
from kard.citations import Citation, cite
from kard.data.filters import EVERYTHING, Restriction
from kard.data.question import Question, check_asked
from kard.data.textfile import cleaned
from kard.errors import UserError
from kard.finder import Finder, Found
from kard.methods import Method, Writes, methods_named, preferred, without_passages
from kard.prompt import check_letters, extract, holds_question, same_answer, shown_answer
from kard.run import Run

if TYPE_CHECKING:
    from kard.recipe.recipe import Recipe
    from kard.student.generation import OnText, Student, Written

_SUPPORT = 2.0  # by which the reranker's log-scores count beside the student's; chosen on dev questions


@dataclass(frozen=True)
class Answer:
    """What a student said.

    Attributes:
        question: The question's id.
        answer: The answer in words, or None where no choice could be read off the text, or it is not sure enough to be given.
        choice: Its index into the choices, or None.
        rationale: The explanation that it wrote.
        passages: What it read, best first.
        prompt: The whole text that it read.
        text: The whole text that it wrote.
        cut: The explanation ended without ``Answer:``, which was written for it.
        seconds: Its share of the time of writing.
        confidence: Calibrated (see `threshold`): how often an answer like this one is right, 0 to 1. Else how probable the
            student finds its answer among the choices, after its own explanation (None for open questions); where choices are
            ranked, how probable student and reranker together find it; of several samples, the share that came to this one. None
            where no answer was read off.
        question_cut: The question did not fit into ``student.max_input_tokens``: only its end was read.
        candidates: All that was considered, best first; `passages` are its first ones.
        threshold: From which confidence on answers are given, where confidences are calibrated; else None.
        citations: The rationale's sentences, each with what says so in `passages`; none where nothing was read.
        steps: Seconds that finding, reranking and writing took, for all questions that were answered together.
        documents: The version of the documents that was read (`kard docs history`); None where nothing is read.
    """

    question: str
    answer: str | None
    choice: int | None
    rationale: str
    passages: tuple[Found, ...]
    prompt: str
    text: str
    cut: bool
    seconds: float
    confidence: float | None = None
    question_cut: bool = False
    candidates: tuple[Found, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)
    documents: int | None = None
    threshold: float | None = None
    citations: tuple[Citation, ...] = ()

    @property
    def abstained(self) -> bool:
        """Whether an answer was withheld, because it is not sure enough; `text` has it."""
        return self.threshold is not None and self.confidence is not None and self.confidence < self.threshold

    def _repr_html_(self) -> str:
        """The answer as notebooks show it: what it is, how sure, why, and what was read."""
        from kard.notebook import answer_html

        return answer_html(self)


@dataclass(frozen=True)
class Listener:
    """Who wants to know what happens to a question before its answer is whole: what was found, and each state of the text."""

    found: Callable[[list[Found]], None]
    text: OnText


@dataclass(frozen=True)
class Kard:
    """A student with what finds its passages.

    Load one with `Kard.load`, or put one together from its parts.
    """

    method: Method
    student: Student
    finder: Finder
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    @classmethod
    def load(cls, run: str | Path, method: str | None = None, engine: str | None = None) -> Kard:
        """Load a finished run.

        Args:
            run: The run's folder.
            method: One of the run's methods; by default its best one that needs no oracle.
            engine: ``"llama_cpp"`` writes with an export's GGUF file, ``"transformers"`` with the student's weights, ``"int8"``
                with them in 8 bits on CPUs, whatever the recipe says; None: as the recipe says.

        Raises:
            UserError: The folder is no run, the run did not get that far, or it cannot be asked with this engine.
        """
        opened = Run.open(Path(run))
        chosen = _method_for(opened.recipe, method)
        student = opened.student(chosen.trained_on, engine)
        calibrations = _calibrations(opened, chosen)
        return cls(chosen, student, Finder.of(opened, [chosen], student), calibrations)

    @property
    def recipe(self) -> Recipe:
        """The run's."""
        return self.finder.recipe

    def answer(
        self, question: str, choices: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None
    ) -> Answer:
        """Answer one question, with choices or without.

        Args:
            question: The text.
            choices: The options.
            filter: A condition on the metadata of the documents that may be read, as ``{"year": {"$gte": 2020}}``.

        Raises:
            UserError: The question cannot be put to the student, or the filter is not in the right form.
        """
        asked, restriction = Question("question", question, tuple(choices or ())), Restriction.of(filter)
        return self.answer_each([(asked, self.method)], restrictions=[restriction])[0]

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions in batches; the order of the results is that of the questions."""
        return self.answer_each([(question, self.method) for question in questions])

    def answer_each(
        self,
        asked: Sequence[tuple[Question, Method]],
        listeners: Mapping[int, Listener] = MappingProxyType({}),
        restrictions: Sequence[Restriction] = (),
    ) -> list[Answer]:
        """Answer questions, each under its own method; what has to be written is written together.

        Args:
            asked: Questions and methods, of those that `methods` names.
            listeners: By place in `asked`.
            restrictions: What may be read for each of `asked`; none: everything for all.
        """
        asked = [(_whole(question), method) for question, method in asked]
        for question, _ in asked:
            check_asked(question)
        steps = {"search": 0.0, "rerank": 0.0}
        candidates: list[list[Found]] = [[] for _ in asked]
        for method in dict.fromkeys(method for _, method in asked):
            places = [place for place, (_, wanted) in enumerate(asked) if wanted == method]
            own = [restrictions[place] for place in places] if restrictions else ()
            found = self.finder.candidates(method, [asked[place][0] for place in places], steps, restrictions=own)
            for place, row in zip(places, found, strict=True):
                candidates[place] = row
        read = [row[: self.recipe.evaluation.passages] for row in candidates]
        prompts = [self.prompt(*pair, passages) for pair, passages in zip(asked, read, strict=True)]
        on_text: dict[str, OnText] = {}
        for place, listener in listeners.items():
            listener.found(candidates[place])
            on_text[prompts[place]] = _both(on_text.get(prompts[place]), listener.text)
        start = monotonic()
        written = self.write(asked, prompts, on_text=on_text)
        steps["write"] = monotonic() - start
        rows = zip(asked, prompts, candidates, strict=True)
        answers = [
            replace(self.parse(*pair, considered, written[prompt, is_ranked(*pair)]), steps=steps)
            for pair, prompt, considered in rows
        ]
        sure = (self._calibrated(answer, method) for answer, (_, method) in zip(answers, asked, strict=True))
        return [replace(answer, citations=tuple(self._citations(answer))) for answer in sure]

    def signals(self, answer: Answer) -> dict[str, float]:
        """What speaks for an answer: ``student``, the log-odds of its confidence before it is calibrated, and what speaks for the
        passage that it stands on (`Finder.signals`)."""
        own = {} if answer.confidence is None else {"student": log_odds(answer.confidence)}
        return own | self.finder.signals(answer.candidates)

    def _calibrated(self, answer: Answer, method: Method) -> Answer:
        """The answer with its calibrated confidence, withheld where that is too low."""
        calibration = self.calibrations.get(method.name)
        if calibration is None or answer.answer is None:
            return answer
        confidence, threshold = calibration.confidence(self.signals(answer)), calibration.threshold.confidence
        sure = replace(answer, confidence=confidence, threshold=threshold)
        return replace(sure, answer=None, choice=None) if sure.abstained else sure

    def _citations(self, answer: Answer) -> list[Citation]:
        if self.finder.retriever is None:
            return []
        return cite(answer.rationale, [item.row() for item in answer.passages], self.finder.retriever.analysis)

    def methods(self) -> dict[str, Method]:
        """What this student can be asked under, by name: the run's methods that share it and need no oracle, and one
        that reads nothing."""
        own = [self.method, *methods_named(self.recipe.evaluation.methods)]
        there = {
            method.name: method
            for method in own
            if method.trained_on == self.method.trained_on
            and not method.is_oracle
            and (not method.reads_passages or self.finder.retriever is not None)
            and (method.reads != "reranker" or self.finder.reranker is not None)
        }
        reads_nothing = any(method.reads == "nothing" for method in there.values())
        return there if reads_nothing else there | {"no_passages": without_passages(self.method)}

    def check(self, question: Question, method: Method | None = None, restriction: Restriction = EVERYTHING) -> None:
        """Raise UserError where a question cannot be put to this student: too long, say, or without the choices it needs, or with
        a filter that fits no document's metadata."""
        check_asked(question)
        self.finder.check(method or self.method, restriction)
        check_letters(question.choices, self.student.settings.answer_as, "question")
        self.prompt(question, method or self.method, [])

    def prompt(self, question: Question, method: Method, found: Sequence[Found]) -> str:
        """The text that the student reads for a question; to that of teacher_cot a rationale must be added
        (`prompt.with_rationale`)."""
        return self.student.prompt(
            question.question,
            question.choices,
            [item.passage.full_text for item in found],
            "rationale" if method.reads == "teacher_rationale" else method.writes,
            method.reads_passages,
        )

    def write(
        self,
        asked: Sequence[tuple[Question, Method]],
        prompts: Sequence[str],
        done: Callable[[list[Written]], None] = lambda written: None,
        known: Mapping[tuple[str, bool], Written] = MappingProxyType({}),
        share: tuple[int, int] = (0, 1),
        on_text: Mapping[str, OnText] = MappingProxyType({}),
    ) -> dict[tuple[str, bool], Written]:
        """What the student writes after each distinct prompt of a question under a method; see `Student.write`.

        Returns:
            By prompt, and whether its choices were ranked (`Written.key`).
        """
        from kard.student.generation import Writing
        from kard.student.sampling import Sampling

        section = self.recipe.evaluation
        drawn = None
        if section.samples > 1:
            seed = self.recipe.seed
            drawn = Sampling(section.samples, seed=seed)
        form = self.student.settings.answer_as
        answers: dict[tuple[Writes, bool], dict[str, list[str]]] = {}
        for (question, method), prompt in zip(asked, prompts, strict=True):
            shown = [shown_answer(question.choices, index, form) for index in range(len(question.choices))]
            answers.setdefault((method.writes, is_ranked(question, method)), {})[prompt] = shown
        written: dict[tuple[str, bool], Written] = {}
        for (writes, ranked), by_prompt in answers.items():
            how = Writing(
                writes,
                section.resources.batch_size,
                answer_by=self.recipe.student.answer_by,
                sampling=None if ranked else drawn,
                share=share,
                weigh_open=section.abstain.risk is not None and section.engine != "vllm",
                ranks_choices=ranked,
            )
            there = {prompt: one for (prompt, of), one in known.items() if of == ranked}
            written |= {one.key: one for one in self.student.write(by_prompt, how, done, there, on_text).values()}
        return written

    def parse(self, question: Question, method: Method, considered: Sequence[Found], written: Written) -> Answer:
        """Read rationale and answer off what the student wrote; of several samples the majority decides.

        Where it ranked choices y, the answer is the one with the largest log p(y | x, d) / |y| + 2 · s(y) / τ2: the mean over its
        tokens by the student, and what its passages are worth to the reranker (`Finder.support`).
        """
        form, confidence = self.student.settings.answer_as, written.confidence
        texts = written.samples or [written.text]
        if written.likelihoods:
            scores = np.array(written.likelihoods) + _SUPPORT * self.finder.support(considered)
            texts = [shown_answer(question.choices, int(scores.argmax()), form)]
            confidence = float(1 / np.exp(scores - scores.max()).sum())
        read = [extract(text, question.choices, method.writes, form) for text in texts]
        place, votes = majority([item.answer for item in read])
        best = read[place]
        choice = best.answer if isinstance(best.answer, int) else None
        answer = question.choices[choice] if choice is not None else best.answer
        assert answer is None or isinstance(answer, str)
        return Answer(
            question=question.id,
            answer=answer,
            choice=choice,
            rationale=best.rationale,
            passages=tuple(considered[: self.recipe.evaluation.passages]),
            candidates=tuple(considered),
            prompt=written.prompt,
            text=texts[place],
            cut=written.cut,
            question_cut=not holds_question(written.prompt, question.question),
            seconds=written.seconds,
            documents=self.finder.documents if method.reads_passages else None,
            confidence=votes / len(texts) if written.samples else confidence if answer is not None else None,
        )


def is_ranked(question: Question, method: Method) -> bool:
    """Whether a method ranks the choices of a question, and the student writes nothing."""
    return method.ranks_choices and bool(question.choices)


def _whole(question: Question) -> Question:
    """The question as a text that any tokenizer takes: a command line may hand over bytes that are none."""
    asked, *choices = cleaned([question.question, *question.choices], Counter())
    return replace(question, question=asked, choices=tuple(choices))


def _both(first: OnText | None, second: OnText) -> OnText:
    """Two questions may have the same prompt, which is written once."""
    if first is None:
        return second

    def tell(text: str) -> None:
        first(text)
        second(text)

    return tell


def majority(answers: Sequence[int | str | None]) -> tuple[int, int]:
    """The first place of the most frequent answer, and how often it is there; None is no answer, the earliest wins a tie."""
    same = [
        [place for place, other in enumerate(answers) if other is not None and same_answer(answer, other)]
        for answer in answers
    ]
    best = max(range(len(answers)), key=lambda place: (len(same[place]), -place))
    return best, len(same[best])


def answerer(run: Path, name: str | None, engine: str | None = None) -> dict[str, str]:
    """Who answers: the method that `Kard.load` would choose, and a hash of all in the run that its answers depend on; an export
    has that of its run, but for the file that llama.cpp answers from.

    Raises:
        UserError: As `Kard.load`.
    """
    opened = Run.open(run)
    recipe = opened.recipe
    method = _method_for(recipe, name)
    stages = ["knowledge", "index"] if method.reads_passages else []
    stages += ["reranker"] if method.reads == "reranker" else []
    keys = [opened.key(stage) for stage in (*stages, f"students/{method.trained_on}")]
    keys += [opened.documents_key()] if method.reads_passages and opened.documents else []
    evaluation = recipe.evaluation.model_dump(mode="json", include={"passages", "samples"})
    if (risk := recipe.evaluation.abstain.risk) is not None:
        keys += [opened.key(f"predictions/{method.trained_on}"), str(risk)]
    if engine and engine != "transformers":
        keys += [opened.gguf(engine).name]
    retriever, reranker = recipe.retriever, recipe.reranker
    searched = (retriever.query, retriever.candidates, reranker.choices, reranker.likelihood_weight)
    settings = [evaluation, recipe.student.answer_by, searched if method.reads_passages else None, recipe.seed]
    return {"method": method.name, "run": hash_of([method.name, keys, settings])[:16]}


def _calibrations(run: Run, method: Method) -> dict[str, Calibration]:
    risk = run.recipe.evaluation.abstain.risk
    return {} if risk is None else read_calibrations(run.finished(f"predictions/{method.trained_on}"), risk)


def _method_for(recipe: Recipe, name: str | None) -> Method:
    methods = {method.name: method for method in methods_named(recipe.evaluation.methods)}
    if name is not None and name not in methods:
        raise UserError(f"method '{name}' is not in this run. It has: {', '.join(methods)}.")
    chosen = name or preferred(methods)
    if chosen is None:
        raise UserError(
            "this run has only oracle methods, which cannot answer new questions. Add kard_bm25 to evaluation.methods."
        )
    return methods[chosen]
