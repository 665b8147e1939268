"""The stages of a run: what of the recipe each reads, from which stages, and the key that says whether it is still right.

questions → knowledge → index → rationales → candidates → reranker → students → predictions → report
(knowledge → questions → index … where questions are made from the documents)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kard import prompt
from kard.artifacts.files import hash_of
from kard.artifacts.folders import RUN_FORMAT
from kard.data.readers.kinds import version_of
from kard.data.sources import content_hash
from kard.errors import UserError, nearest
from kard.methods import TRAINING_SETS, Method, TrainedOn, methods_named
from kard.models.weights import model_identity
from kard.recipe.base import Section
from kard.recipe.recipe import Recipe
from kard.recipe.sections import GENERATION, QuestionsSection, RetrieverSection
from kard.run import Run
from kard.stages.candidates import make_candidates, silver_depth
from kard.stages.index import make_index
from kard.stages.knowledge import make_knowledge
from kard.stages.predictions import make_other_knowledge, make_predictions
from kard.stages.questions import make_questions
from kard.stages.rationales import make_rationales
from kard.stages.reranker import make_reranker
from kard.stages.students import learns_questions, make_base, make_prompted, make_student, uses_reranker

STAGES = (
    "questions",
    "knowledge",
    "index",
    "rationales",
    "candidates",
    "reranker",
    "students",
    "predictions",
    "report",
)

# Raised when what a stage writes changes, so that folders of an older kind are made again.
VERSIONS = dict.fromkeys(STAGES, 1) | {
    "questions": 3,
    "knowledge": 6,
    "index": 4,
    "reranker": 2,
    "students": 4,
    "predictions": 5,
    "report": 5,
}
_WORDS = ("analyzer", "language", "k1", "b")
_RERANKER = (
    *("kind", "model", "train_questions", "interaction", "choices", "step_candidates"),
    *("tau_rationale", "tau_question", "epochs", "batch_size", "lr", "frozen_layers"),
    *("question_tokens", "passage_tokens", "vectors", "retriever_weight", "title_weight"),
)
_STUDENT = (
    *("train_questions", "answer_as", "method", "lora_rank", "lora_targets", "epochs", "early_stopping", "batch_size"),
    *("gradient_accumulation", "lr", "schedule", "dtype", "max_input_tokens", "max_output_tokens", "long_questions"),
    "trim_vocabulary",
)
_PROMPTED = (
    *("answer_as", "dtype", "max_output_tokens", "long_questions", "passages", "rationales", "train_questions"),
    "trim_vocabulary",
)
# Of the teacher, what decides the questions that it makes.
_ASKED = ("kind", "model", "base_url", "mode", "endpoint", "temperature", "max_tokens", "extra_body")
_MODELS = ("student.model", "reranker.model", "retriever.encoder", "teacher.model", "teacher.verifier")
_KINDS = ("questions.kind", "knowledge.kind")


@dataclass(frozen=True)
class Step:
    """One folder to make.

    Attributes:
        name: Its path in the run folder, e.g. ``students/rationales``; the first part is the stage.
        key: All that decides whether it is still right.
        make: Writes it into the folder that it is given.
        about: Its size, for the dry run.
        shared: All processes of the command work on it together.
    """

    name: str
    key: dict[str, Any]
    make: Callable[[Path], None]
    about: str = ""
    shared: bool = False

    @property
    def stage(self) -> str:
        return self.name.split("/")[0]

    @property
    def hash(self) -> str:
        return hash_of(self.key)


def plan(recipe: Recipe, folder: Path, until: str | None = None) -> list[Step]:
    """All steps before the report, with their keys; nothing is run, but inputs are looked at.

    Args:
        recipe: The recipe.
        folder: The run's folder.
        until: The last stage that is wanted; what only later ones need is not looked at.

    Raises:
        UserError: An unknown method, a missing file, an unknown model package.
    """
    methods = methods_named(recipe.evaluation.methods)
    if not methods:
        raise UserError("evaluation.methods: no method is named. Name at least one, e.g. kard_reranker.")
    run, keys = Run(folder, recipe, online=True), dict[str, str]()
    steps_of: dict[str, Callable[[], Iterable[Step]]] = {
        "questions": lambda: [_questions_step(run, keys)],
        "knowledge": lambda: [_knowledge_step(run, keys)],
        "index": lambda: [_index_step(run, keys)],
        "rationales": lambda: [_rationales_step(run, keys, methods)],
        "candidates": lambda: [_candidates_step(run, keys)],
        "reranker": lambda: [_reranker_step(run, keys)] if uses_reranker(recipe) else [],
        "students": lambda: _student_steps(run, keys, [method.trained_on for method in methods]),
        "predictions": lambda: _predictions_steps(run, keys, methods),
    }
    order = stages_of(recipe)
    wanted = order[: order.index(until or order[-1]) + 1]
    return [step for stage in wanted if stage in steps_of for step in steps_of[stage]()]


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """The stages in the order in which a recipe's run has them."""
    first = ("knowledge", "questions") if recipe.questions.kind == "generated" else STAGES[:2]
    return (*first, *STAGES[2:])


def _questions_step(run: Run, keys: dict[str, str]) -> Step:
    reads: tuple[str, ...] = ("questions", "data_seed", "student.answer_as")
    inputs: tuple[str, ...] = ()
    if run.recipe.questions.kind == "generated":
        reads, inputs = (*reads, *_named("teacher", _ASKED)), ("knowledge",)
    return _step(run, keys, "questions", reads, inputs, partial(make_questions, run), _sizes(run.recipe.questions))


def _knowledge_step(run: Run, keys: dict[str, str]) -> Step:
    about = f"passages of at most {run.recipe.knowledge.passage_words} words"
    return _step(run, keys, "knowledge", ("knowledge",), (), partial(make_knowledge, run), about)


def _index_step(run: Run, keys: dict[str, str]) -> Step:
    section = run.recipe.retriever
    shared = section.kind != "bm25" and section.milvus is None
    make = partial(make_index, run)
    return _step(run, keys, "index", _index_reads(section), ("knowledge",), make, section.kind, shared=shared)


def passage_steps(recipe: Recipe, folder: Path) -> list[Step]:
    """The steps that make passages and index alone."""
    run, keys = Run(folder, recipe, online=True), dict[str, str]()
    return [_knowledge_step(run, keys), _index_step(run, keys)]


def _index_reads(section: RetrieverSection) -> list[str]:
    """The keys that decide an index: those of other kinds do not."""
    keys = ["kind", "milvus"]
    keys += _WORDS if section.kind != "dense" else ()
    keys += ["encoder"] if section.kind != "bm25" else []
    return [f"retriever.{key}" for key in keys]


def _rationales_step(run: Run, keys: dict[str, str], methods: Sequence[Method]) -> Step:
    recipe = run.recipe
    with_test = not recipe.explainer.asks or any(method.needs_test_rationales for method in methods)
    more = {
        "explained": recipe.explained_count,
        "split": recipe.evaluation.split if with_test else None,
        "with_dev": recipe.student.early_stopping is not None,
    }
    if recipe.teacher.asks and not recipe.explainer.asks:
        more["asks_where_none_came"] = True
    make: Callable[[Path], None] = partial(make_rationales, run, with_test)
    about, verified = f"teacher: {recipe.teacher.kind}", recipe.teacher.verifier is not None
    reads, inputs = ("teacher", "data_seed"), ("questions", "knowledge")
    return _step(run, keys, "rationales", reads, inputs, make, about, more, shared=verified)


def _candidates_step(run: Run, keys: dict[str, str]) -> Step:
    section = run.recipe.reranker
    reads = ("retriever.query", "reranker.rationale_candidates", "reranker.question_candidates")
    about = f"κ1 {section.rationale_candidates}, κ2 {section.question_candidates}"
    inputs, depth = ("rationales", "index"), {"depth": silver_depth(run.recipe)}
    return _step(run, keys, "candidates", reads, inputs, partial(make_candidates, run), about, depth)


def _reranker_step(run: Run, keys: dict[str, str]) -> Step:
    section = run.recipe.reranker
    reads = (*_searched(run.recipe), *_named("reranker", _RERANKER), "evaluation.split", "seed")
    about = f"{section.model}, {section.train_questions or 'all'} questions, {section.epochs:g} epochs"
    inputs, make = ("candidates", "questions"), partial(make_reranker, run)
    return _step(run, keys, "reranker", reads, inputs, make, about, shared=True)


def _student_steps(run: Run, keys: dict[str, str], trained: Sequence[TrainedOn]) -> Iterator[Step]:
    section = run.recipe.student
    if section.trim_vocabulary:
        reads, inputs = _named("student", ("model", "method", "dtype")), ("knowledge", "questions", "rationales")
        yield _step(run, keys, "students/base", reads, inputs, partial(make_base, run), section.model)
    for trained_on in dict.fromkeys(trained):
        make = _prompted_step if trained_on == "nothing" else _student_step
        yield make(run, keys, trained_on, ["students/base"] if section.trim_vocabulary else [])


def _prompted_step(run: Run, keys: dict[str, str], trained_on: TrainedOn, base: list[str]) -> Step:
    reads = (*_named("student", ("model", *_PROMPTED)), "evaluation.shots", "seed")
    reads += ("reranker.train_questions",)  # that many are explained
    inputs, about = ["questions", "candidates", *base], f"{run.recipe.evaluation.shots} worked examples"
    more = {"prompt": prompt.FORMAT}
    return _step(run, keys, f"students/{trained_on}", reads, inputs, partial(make_prompted, run), about, more)


def _student_step(run: Run, keys: dict[str, str], trained_on: TrainedOn, base: list[str]) -> Step:
    section, of = run.recipe.student, TRAINING_SETS[trained_on]
    reads, inputs = [*_named("student", ("model", *_STUDENT)), "seed"], ["questions", *base]
    reads += ["student.quantized"] if section.quantized else []
    more: dict[str, Any] = {"prompt": prompt.FORMAT}
    if of.from_rationales:
        reads += ["student.rationales"]
        inputs += ["rationales" if of.reads == "nothing" else "candidates"]
    if of.reads != "nothing":
        reads += ["student.passages"]
    if of.reads == "question":
        reads += ["retriever.query"]
        inputs += ["index"]
    if of.reads == "silver":
        more["asks"] = learns_questions(run.recipe, trained_on)
    about = f"{section.train_questions or 'all'} questions, {section.epochs:g} epochs"
    make = partial(make_student, run, trained_on)
    return _step(run, keys, f"students/{trained_on}", reads, inputs, make, about, more, shared=True)


def _predictions_steps(run: Run, keys: dict[str, str], methods: Sequence[Method]) -> Iterator[Step]:
    """One of each student, and those over other knowledge bases."""
    trained = dict.fromkeys(method.trained_on for method in methods)
    groups = [[method for method in methods if method.trained_on == trained_on] for trained_on in trained]
    for group in groups:
        yield _predictions_step(run, keys, group)
    for name, section in run.recipe.evaluation.knowledge.items():
        more = {"knowledge": _of_section("knowledge", section)}
        make, about = partial(make_other_knowledge, run, section), f"{name}: passages and index"
        reads = _index_reads(run.recipe.retriever)
        yield _step(run, keys, f"predictions/over_{name}", reads, (), make, about, more)
        asked = ([one for one in group if one.reads_passages and not one.is_oracle] for group in groups)
        for group in asked:
            if group:
                yield _predictions_step(replace(run, over=name), keys, group)


def _predictions_step(run: Run, keys: dict[str, str], methods: list[Method]) -> Step:
    recipe, section = run.recipe, run.recipe.evaluation
    trained_on = methods[0].trained_on
    reads = ["student.answer_by", *_named("evaluation", ("split", "engine", "samples"))]
    reads += ["evaluation.vllm"] if section.vllm else []
    inputs = ["questions", f"students/{trained_on}"]
    if section.samples > 1:
        reads += ["seed"]
    if any(method.reads_passages for method in methods):
        reads += ["evaluation.passages", *_searched(recipe)]
        inputs += [f"predictions/over_{run.over}"] if run.over else ["index", "candidates"]
    if any(method.reads == "reranker" for method in methods):
        reads += ["reranker.likelihood_weight", "reranker.choices"]
        inputs += ["reranker"]
    if any(method.reads == "teacher_rationale" for method in methods):
        inputs += ["rationales"]
    names = [method.name for method in methods]
    about = f"{', '.join(names)} on {recipe.evaluated_size or 'all'} {section.split} questions"
    more: dict[str, Any] = {"methods": names}
    if section.abstain.risk is not None:  # how large it is changes no prediction
        more |= {"calibrated": 1}
        about += "" if run.over else " and the dev questions"
        if recipe.questions.kind == "generated" and "unanswerable" in recipe.questions.kinds and not run.over:
            more |= {"unanswerable": 1}
        inputs += [f"predictions/{trained_on}"] if run.over else []
    make = partial(make_predictions, run, trained_on, methods)
    name = f"predictions/{trained_on}{f'_over_{run.over}' if run.over else ''}"
    return _step(run, keys, name, reads, inputs, make, about, more, shared=True)


def _step(
    run: Run,
    keys: dict[str, str],
    name: str,
    reads: Sequence[str],
    inputs: Sequence[str],
    make: Callable[[Path], None],
    about: str,
    more: Mapping[str, Any] | None = None,
    shared: bool = False,
) -> Step:
    """A step, from the recipe's keys and the steps that it reads, and what else decides it; its own key is put into `keys`."""
    key = {
        "step": name,
        "version": VERSIONS[name.split("/")[0]],
        "run_format": RUN_FORMAT,
        "recipe": {read: value_of(run.recipe, read) for read in reads},
        "inputs": {one: keys[one] for one in inputs},
        **(more or {}),
    }
    step = Step(name, key, make, about, shared)
    keys[name] = step.hash
    return step


def _named(section: str, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{section}.{key}" for key in keys)


def _searched(recipe: Recipe) -> tuple[str, ...]:
    """The keys that decide what is found for a question in an index."""
    return ("retriever.kind", "retriever.query", "retriever.candidates")


def _sizes(section: QuestionsSection) -> str:
    return ", ".join(f"{name} {size or 'all'}" for name, size in section.sizes.items())


def check_stage(until: str | None) -> None:
    """Raise UserError unless this is a stage, or None."""
    if until is not None and until not in STAGES:
        raise UserError(f"--until {until}: no such stage{nearest(until, STAGES)}. Stages: {', '.join(STAGES)}.")


def value_of(recipe: Recipe, name: str) -> Any:
    """What a section, or a key as ``section.key``, says; files and models count by their content, and ``resources``, which no
    result depends on, not at all."""
    section, _, key = name.partition(".")
    value = {**dict(recipe), "data_seed": recipe.seed_of_data}[section]
    if not isinstance(value, Section):
        return value
    found = _of_section(section, value, key)
    if section == "questions" and recipe.questions.kind != "generated":
        found = {field: own for field, own in found.items() if field not in GENERATION}
    if section == "questions" and not key and not found["columns"]:  # so that keys stay as they are without it
        del found["columns"]
    return found[key] if key else found


def _of_section(name: str, section: Section, key: str = "") -> dict[str, Any]:
    """What counts of a section, or of one of its keys."""
    found = {field: _content(f"{name}.{field}", inner) for field, inner in section if key in ("", field)}
    found.pop("resources", None)
    return found


def _content(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return content_hash(value, name)
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if name in _KINDS:
        return version_of(value)
    return model_identity(value, name) if name in _MODELS and value is not None else value
