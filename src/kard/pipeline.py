"""The stages in order: what is there is skipped, what is missing or outdated is made.

questions → knowledge → index → rationales → candidates → reranker → students → predictions → report
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from kard import lessons, prompt, reranking, stages
from kard.artifacts import (
    RUN_FORMAT,
    Artifact,
    build,
    check_whole,
    disk_full_explained,
    hash_of,
    locked,
    manifest_of,
    open_run,
    partial_key,
    read_json,
    seconds_so_far,
    write_jsonl,
)
from kard.data.sources import content_hash, published, question_files
from kard.errors import UserError, nearest
from kard.machine.memory import release_memory
from kard.machine.processes import alone, rank, wait_until
from kard.methods import Method, methods_named
from kard.models.weights import model_identity
from kard.preflight.checks import check_before
from kard.preflight.estimate import estimates
from kard.preflight.first_look import first_look
from kard.preflight.timetable import Timetable
from kard.progress import say
from kard.recipe import QuestionsSection, Recipe, RetrieverSection, Section
from kard.recipe_file import dump_recipe
from kard.teacher.collect import deciding_settings

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
    "questions": 2,
    "knowledge": 3,
    "index": 2,
    "reranker": 2,
    "students": 4,
    "predictions": 5,
    "report": 4,
}


_SECOND_LOOK = ("likelihood_weight", "likelihood_near", "likelihood_passages")  # after the reranker, by a student


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


def run_recipe(recipe: Recipe, folder: Path, until: str | None = None) -> dict[str, Any] | None:
    """Run a recipe into a folder, or go on where an earlier run stopped.

    Args:
        recipe: What to do.
        folder: The run's folder; made if it is not there.
        until: Name of the last stage to run.

    Returns:
        The content of results.json, or None where the run ended before the report, and in all processes but the first.

    Raises:
        UserError: Something that the user can mend.
    """
    check_stage(until)
    steps = plan(recipe, folder)
    if rank() > 0:
        for step in steps:
            if until is None or STAGES.index(step.stage) <= STAGES.index(until):
                _join(step, folder)
        return None
    open_run(folder)
    read, trained = recipe.evaluation.passages, recipe.student.passages
    if read > trained:
        say(
            f"evaluation.passages ({read}) is more than student.passages ({trained}): a student that was never shown so many is "
            "easily misled by them. Give both the same number."
        )
    done: list[Artifact] = []
    with locked(folder):
        last = STAGES.index(until or STAGES[-1])
        wanted = [step for step in steps if STAGES.index(step.stage) <= last]
        for step in wanted:
            if _state(step, folder) == "done":
                check_whole(folder / step.name)  # before hours go into what is made of it
        to_do = {step.stage for step in wanted if _state(step, folder) != "done"}
        check_before(recipe, folder, to_do)
        with disk_full_explained(folder):
            (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        table = timetable(recipe, folder, steps, until)
        table.begin(recipe.name, folder)
        for step in steps:
            if until is not None and STAGES.index(step.stage) > STAGES.index(until):
                break
            done.append(_run_step(step, folder, table))
            if step.name == "candidates" and not done[-1].skipped:
                for line in first_look(recipe, folder):
                    say(line)
        if until is not None and until != STAGES[-1]:
            return None
        return _report(recipe, folder, done, table)


def timetable(recipe: Recipe, folder: Path, steps: Sequence[Step], until: str | None = None) -> Timetable:
    """The time that the steps, and the report behind them, will take here; of those that are not done."""
    names = [step.name for step in steps]
    to_do = [step.name for step in steps if _state(step, folder) != "done"]
    if steps[-1].stage == "predictions":
        names.append("report")
        to_do += ["report"] if to_do or manifest_of(folder / "report") is None else []
    if until is not None:
        to_do = [name for name in to_do if STAGES.index(name.split("/")[0]) <= STAGES.index(until)]
    begun = {name: seconds_so_far(folder / name) for name in to_do}
    found = estimates(recipe, folder, to_do) if to_do else {}
    left = {name: None if all_ is None else max(all_ - begun[name], 0.1 * all_) for name, all_ in found.items()}
    return Timetable(names, left)


def _run_step(step: Step, folder: Path, table: Timetable) -> Artifact:
    path = folder / step.name
    if _state(step, folder) != "done":
        table.at(step.name)
    with nullcontext() if step.shared else alone():
        start = monotonic()
        artifact = build(step.name, path, step.key, step.make)
    if not artifact.skipped:
        release_memory()
    table.over(step.name, monotonic() - start, artifact.skipped)
    return artifact


def _join(step: Step, folder: Path) -> None:
    """What a process other than the first does: it takes part in what is shared, and waits for the rest."""
    partial = folder / f"{step.name}.partial"

    def state() -> str:
        try:
            found = _state(step, folder)
            return "done" if found == "begun" and manifest_of(partial) is not None else found
        except FileNotFoundError:  # the first process is renaming the folder
            return "to do"

    wait_until(lambda: state() in (("begun", "done") if step.shared else ("done",)))
    if state() == "begun":
        step.make(partial)
        release_memory()
    wait_until(lambda: not partial.exists() and state() == "done")


def _report(recipe: Recipe, folder: Path, done: list[Artifact], table: Timetable) -> dict[str, Any]:
    from kard.evaluation.results import build_results
    from kard.report.sheet import make_report

    inputs = {artifact.name: artifact.key for artifact in done}
    key = {
        "stage": "report",
        "version": VERSIONS["report"],
        "inputs": inputs,
        "recipe": recipe.name,
        "seed": recipe.seed,
    }
    results_path = folder / "results.json"

    def make(target: Path) -> None:
        results, mistakes = build_results(recipe, folder, done)
        write_jsonl(target / "mistakes.jsonl", mistakes)
        make_report(recipe, folder, results, mistakes, target)

    table.at("report")
    artifact = build("report", folder / "report", key, make, results_path)
    table.over("report", artifact.seconds, artifact.skipped)
    results: dict[str, Any] = read_json(results_path)
    return results


def plan(recipe: Recipe, folder: Path) -> list[Step]:
    """All steps before the report, with their keys; nothing is run, but inputs are looked at.

    Raises:
        UserError: An unknown method, a missing file, an unknown model package.
    """
    methods = methods_named(recipe.evaluation.methods)
    if not methods:
        raise UserError("evaluation.methods: no method is named. Name at least one, e.g. kard_reranker.")
    steps = list(_data_steps(recipe, folder, methods))
    keys = {step.name: step.hash for step in steps}
    if any(method.reads == "reranker" for method in methods):
        steps.append(_reranker_step(recipe, folder, keys))
        keys["reranker"] = steps[-1].hash
    return [*steps, *_student_steps(recipe, folder, methods, keys)]


def _data_steps(recipe: Recipe, folder: Path, methods: list[Method]) -> Iterator[Step]:
    questions = _questions_step(recipe)
    knowledge, index = _knowledge_steps(recipe, folder)
    with_test = not recipe.teacher.asks or any(method.needs_test_rationales for method in methods)
    with_dev = recipe.student.early_stopping is not None or recipe.reranker.early_stopping is not None
    rationales = _step(
        "rationales",
        {
            "section": deciding_settings(recipe.teacher),
            "questions": questions.hash,
            "knowledge": knowledge.hash,
            "seed": recipe.seed_of_data,
            "with_test": with_test and recipe.evaluation.split,
            "questions_explained": lessons.explained_count(recipe),
            **({"with_dev": True} if with_dev else {}),
            **({"replies": content_hash(replies, "teacher.replies")} if (replies := recipe.teacher.replies) else {}),
        },
        lambda target: stages.make_rationales(recipe, folder, with_test, target),
        f"teacher: {recipe.teacher.kind}",
    )
    candidates = _step(
        "candidates",
        {
            "rationales": rationales.hash,
            "index": index.hash,
            "depth": stages.silver_depth(recipe),
            "kappa": [recipe.reranker.rationale_candidates, recipe.reranker.question_candidates],
            "query": recipe.retriever.query,
            "fusion": _fusion(recipe.retriever),
        },
        lambda target: stages.make_candidates(recipe, folder, target),
        f"κ1 {recipe.reranker.rationale_candidates}, κ2 {recipe.reranker.question_candidates}",
    )
    yield from (questions, knowledge, index, rationales, candidates)


def _questions_step(recipe: Recipe) -> Step:
    key = {
        "section": _fields(recipe.questions, "path", "train", "dev", "test"),
        "files": question_files(recipe.questions),
        "seed": recipe.seed_of_data,
        "answer_as": recipe.student.answer_as,
        **({"rows": True} if recipe.teacher.replies else {}),
    }
    return _step("questions", key, lambda target: stages.make_questions(recipe, target), _sizes(recipe.questions))


def _knowledge_steps(recipe: Recipe, folder: Path) -> tuple[Step, Step]:
    path = recipe.knowledge.path
    distractors, about = _distractors(recipe)
    knowledge = _step(
        "knowledge",
        {
            "section": _fields(recipe.knowledge, "path", "distractors", "distractor_factor"),
            "file": content_hash(path, "knowledge.path") if path else published(recipe.knowledge.kind),
            **distractors,
        },
        lambda target: stages.make_knowledge(recipe, folder, target),
        f"passages of at most {recipe.knowledge.passage_words} words{about}",
    )
    index = _step(
        "index",
        {**_index_key(recipe.retriever), "knowledge": knowledge.hash},
        lambda target: stages.make_index(recipe, folder, target),
        recipe.retriever.kind,
    )
    return knowledge, index


def _distractors(recipe: Recipe) -> tuple[dict[str, Any], str]:
    """What of a knowledge base's key depends on its distractors, and what the dry run says of them."""
    source, factor = recipe.knowledge.distractors, recipe.knowledge.distractor_factor
    if source is None:
        return {}, ""
    if isinstance(source, Path):
        content = content_hash(source, "knowledge.distractors")
    else:
        content = _questions_step(recipe).hash if source == "rest" else published("wikivital")
    key = {"distractors": [source if isinstance(source, str) else "file", content, factor, recipe.seed_of_data]}
    return key, f", and {factor:g} times as many distractors"


def _index_key(section: RetrieverSection) -> dict[str, Any]:
    """What decides an index: keys of other kinds do not."""
    unused = {"query", "candidates", "fusion", "milvus_token_env"}
    if section.kind != "milvus":
        unused |= {"milvus", "milvus_search"}
    if section.kind == "bm25" or (section.kind == "milvus" and section.milvus_search == "bm25"):
        unused |= {"encoder", "exact_vectors"}
        return {"section": _fields(section, *unused)}
    if section.kind == "dense":
        unused |= {"analyzer", "stemmer", "stopwords", "k1", "b"}
    return {"section": _fields(section, *unused), "encoder": model_identity(section.encoder, "retriever.encoder")}


def _fusion(section: RetrieverSection) -> int | None:
    return section.fusion if section.kind == "hybrid" or section.milvus_search == "hybrid" else None


def index_recipe(recipe: Recipe, folder: Path) -> Path:
    """Build passages and index alone; a later run finds them there. Questions are read only where they decide the passages.

    Returns:
        The index's folder.
    """
    open_run(folder)
    with locked(folder):
        with disk_full_explained(folder):
            (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        needed = [_questions_step(recipe)] if recipe.knowledge.distractors == "rest" else []
        steps = [*needed, *_knowledge_steps(recipe, folder)]
        table = timetable(recipe, folder, steps)
        table.begin(recipe.name, folder)
        for step in steps:
            _run_step(step, folder, table)
    return folder / "index"


def _reranker_step(recipe: Recipe, folder: Path, keys: dict[str, str]) -> Step:
    unused = ("checkpoint_minutes", "encode_ahead", "rationale_candidates", "question_candidates", *_SECOND_LOOK)
    key = {
        "section": _fields(recipe.reranker, *unused),
        "model": model_identity(recipe.reranker.model, "reranker.model"),
        "candidates": keys["candidates"],
        "questions": keys["questions"],
        "retriever": [recipe.retriever.candidates, recipe.retriever.query, _fusion(recipe.retriever)],
        "split": recipe.evaluation.split,
        "seed": recipe.seed,
    }
    about = f"{recipe.reranker.model}, {recipe.reranker.train_questions or 'all'} questions, {recipe.reranker.epochs:g} epochs"
    return _step("reranker", key, lambda target: reranking.make_reranker(recipe, folder, target), about)


def _student_steps(recipe: Recipe, folder: Path, methods: list[Method], keys: dict[str, str]) -> Iterator[Step]:
    model = model_identity(recipe.student.model, "student.model")
    base_key: dict[str, Any] = {"model": model}
    if recipe.student.trim_vocabulary:
        base_key |= {name: keys[name] for name in ("knowledge", "questions", "rationales")}
        base_key |= {"method": recipe.student.method, "dtype": recipe.student.dtype}
        yield _step(
            "students/base", base_key, lambda target: stages.make_base(recipe, folder, target), recipe.student.model
        )
    students: dict[str, Step] = {}
    for method in methods:
        if method.trained_on not in students:
            make = _prompted_step if method.trained_on == "nothing" else _student_step
            students[method.trained_on] = make(recipe, folder, method, keys, base_key)
    yield from students.values()
    for trained_on, student in students.items():
        own = [method for method in methods if method.trained_on == trained_on]
        yield _predictions_step(recipe, folder, own, student, keys)


def _student_step(recipe: Recipe, folder: Path, method: Method, keys: dict[str, str], base_key: dict[str, Any]) -> Step:
    inputs = {
        "answers": ("questions",),
        "answers_passages": ("questions", "index"),
        "rationales": ("questions", "rationales"),
        "rationales_silver": ("questions", "candidates"),
    }[method.trained_on]
    # Keys that leave this student as it is (those of other training sets, or of how and when it is saved) are not in its key.
    unused = ["resources", "answer_by", "train_passages"]
    unused += ["passages"] if method.trained_on in ("answers", "rationales") else []
    unused += ["rationales"] if method.trained_on.startswith("answers") else []
    key = {
        "section": _fields(recipe.student, *unused),
        "base": base_key,
        "inputs": [keys[name] for name in inputs],
        "seed": recipe.seed,
        "prompt": prompt.FORMAT,
        "query": recipe.retriever.query if method.trained_on == "answers_passages" else "",
    }
    if method.trained_on == "rationales_silver" and recipe.student.train_passages == "mixed":
        reader = keys.get("reranker", keys["index"])
        searched = [recipe.retriever.query, recipe.retriever.candidates, _fusion(recipe.retriever)]
        key["mixed"] = [reader, *searched, recipe.reranker.choices]
    if lessons.learns_questions(recipe, method.trained_on):
        key |= {"questions": True}
    about = f"{recipe.student.train_questions or 'all'} questions, {recipe.student.epochs:g} epochs"
    return _step(
        f"students/{method.trained_on}",
        key,
        lambda target: stages.make_student(recipe, folder, method.trained_on, target),
        about,
        shared=True,
    )


def _prompted_step(
    recipe: Recipe, folder: Path, method: Method, keys: dict[str, str], base_key: dict[str, Any]
) -> Step:
    section, shots = recipe.student, recipe.evaluation.shots
    key = {
        "section": [section.answer_as, section.dtype, section.max_output_tokens, section.long_questions],
        "prompt_tokens": recipe.evaluation.prompt_tokens,
        "passages": section.passages,
        "shots": shots,
        "base": base_key,
        "inputs": [keys["questions"], keys["candidates"]],
        "seed": recipe.seed,
        "prompt": prompt.FORMAT,
    }
    name = f"students/{method.trained_on}"
    return _step(name, key, lambda target: stages.make_prompted(recipe, folder, target), f"{shots} worked examples")


def _predictions_step(recipe: Recipe, folder: Path, methods: list[Method], student: Step, keys: dict[str, str]) -> Step:
    trained_on = methods[0].trained_on
    reads = {method.reads for method in methods}
    searches = any(method.reads_passages for method in methods)
    names = ["questions"]
    names += ["index", "candidates"] if searches else []
    names += ["reranker"] if "reranker" in reads else []
    names += ["rationales"] if "teacher_rationale" in reads else []
    unused = ["shots", "prompt_tokens", *(["temperature", "top_k", "top_p"] if recipe.evaluation.samples == 1 else [])]
    unused += [] if searches else ["passages"]
    key: dict[str, Any] = {
        "student": student.hash,
        "methods": [method.name for method in methods],
        "answer_by": recipe.student.answer_by,
        "section": _fields(recipe.evaluation, "methods", *unused),
        "seed": recipe.seed if recipe.evaluation.samples > 1 else None,
        "retriever": searches and [recipe.retriever.query, recipe.retriever.candidates, _fusion(recipe.retriever)],
        "inputs": {name: keys[name] for name in names},
    }
    if "reranker" in reads and recipe.reranker.second_look:
        key |= {"second_look": recipe.reranker.second_look}
    about = f"{', '.join(method.name for method in methods)} on {_evaluated(recipe)}"
    return _step(
        f"predictions/{trained_on}",
        key,
        lambda target: stages.make_predictions(recipe, folder, trained_on, methods, target),
        about,
        shared=True,
    )


def _step(name: str, key: dict[str, Any], make: Callable[[Path], None], about: str, shared: bool = False) -> Step:
    stage = name.split("/")[0]
    return Step(name, {"stage": name, "version": VERSIONS[stage], "run_format": RUN_FORMAT, **key}, make, about, shared)


def _fields(section: Section, *without: str) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude=set(without))


def _sizes(section: QuestionsSection) -> str:
    sizes = {"train": section.train_size, "dev": section.dev_size, "test": section.test_size}
    return ", ".join(f"{name} {size or 'all'}" for name, size in sizes.items())


def _evaluated(recipe: Recipe) -> str:
    return f"{recipe.evaluated_size or 'all'} {recipe.evaluation.split} questions"


def check_stage(until: str | None) -> None:
    """Raise UserError unless this is a stage, or None."""
    if until is not None and until not in STAGES:
        raise UserError(f"--until {until}: no such stage{nearest(until, STAGES)}. Stages: {', '.join(STAGES)}.")


def _state(step: Step, folder: Path) -> str:
    found = manifest_of(folder / step.name)
    if found is not None and found.get("key") == step.hash:
        return "done"
    if partial_key(folder / step.name) == step.hash:
        return "begun"
    return "outdated" if found is not None else "to do"


@dataclass(frozen=True)
class StepState:
    """A line of ``kard status`` and of the dry run; seconds are those of the last time, None where it never ran."""

    name: str
    state: str
    about: str
    seconds: float | None


def states(recipe: Recipe, folder: Path) -> list[StepState]:
    """What is done, begun, outdated or to do."""
    rows = []
    for step in plan(recipe, folder):
        found = manifest_of(folder / step.name)
        check_whole(folder / step.name)
        rows.append(StepState(step.name, _state(step, folder), step.about, float(found["seconds"]) if found else None))
    report = manifest_of(folder / "report")
    check_whole(folder / "report")
    done = report is not None and all(row.state == "done" for row in rows)
    seconds = float(report["seconds"]) if report else None
    rows.append(StepState("report", "done" if done else "to do", ", ".join(recipe.evaluation.methods), seconds))
    return rows
