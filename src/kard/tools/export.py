"""`kard export`: all that answers questions in one folder, which is laid out as a run and loads anywhere with `Kard.load`.

An export is a small run: ``kard answer``, ``batch`` and ``serve`` take it as they take a run. It has merged weights in place of
adapters, one student, no training data but the questions that it was checked with, and no path of the machine it was made on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kard.artifacts.files import read_jsonl, write_json, write_jsonl
from kard.artifacts.folders import RUN_FORMAT, build, check_output, check_run, finished, manifest_of, seal
from kard.data.question import Question, read_questions
from kard.data.sources import SOURCES
from kard.errors import UserError
from kard.kard import Kard
from kard.methods import METHODS, check_no_oracle
from kard.progress import say
from kard.prompt import render, with_examples
from kard.recipe.base import Section
from kard.recipe.file import dump_recipe, recipe_from_run
from kard.recipe.recipe import Recipe
from kard.run import GGUF, Run
from kard.tools.gguf import about_gguf, check_gguf, compare, write_gguf

CHECKED, CHECKED_GGUF = 16, 100
_VERSION = 2
_SECTIONS_WITH_PATHS = ("questions", "knowledge", "teacher", "reranker", "student")
# Of the reranker's folder how test questions were ranked, and vectors, which are written on their own; of the knowledge's what
# its documents were like, which stay where they are.
_LEFT_OUT = shutil.ignore_patterns("retrieval.json", "rankings.jsonl", "vectors", SOURCES)


def export_run(
    run: Path, folder: Path, method: str | None = None, vectors: str = "all", gguf: str | None = None
) -> int:
    """Export a finished run, and check that the export answers like the run.

    Args:
        run: The run's folder.
        folder: Where to; made if it is not there. An export that was interrupted goes on, a complete one is left as it is.
        method: The method to answer by; by default the run's best one that needs no oracle.
        vectors: ``"all"`` computes the vectors of all passages, so that nothing is written when it is used; ``"computed"``
            takes those that the run has.
        gguf: The student as a GGUF file as well, with weights of this type.

    Returns:
        How many dev questions were answered again.

    Raises:
        UserError: The run is not finished, the folder holds something else (such as an export of another run or method), an
            answer differs, or the student cannot become a GGUF file.
    """
    if vectors not in ("all", "computed"):
        raise UserError(f"--vectors {vectors}: choose all or computed.")
    if check_run(run).get("export"):
        raise UserError(f"{run}: is an export itself. Copy the folder.")
    finished(run, "report")
    kard = Kard.load(run, method, "transformers")  # vLLM has no weights to give, and would fill a GPU twice
    check_no_oracle(kard.method)
    if gguf is not None:
        check_gguf(gguf, kard.student)
    parts = _parts(kard)
    keys = [(manifest_of(run / part) or {}).get("key") for part in (*parts, "report")]
    key: dict[str, Any] = {"version": _VERSION, "parts": keys, "method": kard.method.name, "vectors": vectors}
    opened = Run.open(run)
    if opened.documents:
        key["documents"] = opened.documents_key()
    if gguf is not None:
        key["gguf"] = gguf
    check_output("export", folder, key)
    artifact = build("export", folder, key, lambda target: _write(opened, kard, parts, target, vectors, gguf))
    say(f"export: {'is there' if artifact.skipped else 'written'}")
    return len(list(read_jsonl(folder / "check.jsonl")))


def push_export(folder: Path, name: str) -> str:
    """Upload an export to the model hub (the hub's client finds your token); returns its address."""
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(name, exist_ok=True)
    return str(hub.upload_folder(repo_id=name, folder_path=folder))


def _parts(kard: Kard) -> list[str]:
    """Folders of the run that the export takes."""
    readers = ["knowledge", "index"] if kard.finder.retriever is not None else []
    reranker = ["reranker"] if kard.finder.reranker is not None else []
    calibrated = [f"predictions/{kard.method.trained_on}"] if kard.calibrations else []
    return [*readers, *reranker, *calibrated, f"students/{kard.method.trained_on}"]


def _write(opened: Run, kard: Kard, parts: Sequence[str], folder: Path, vectors: str, gguf: str | None) -> None:
    run = opened.folder
    for part in parts[:-1]:
        source = opened.searched(part) if part in ("knowledge", "index") else run / part
        left_out = shutil.ignore_patterns("*.jsonl", "retrieval.json") if part.startswith("predictions/") else _LEFT_OUT
        shutil.copytree(source, folder / part, dirs_exist_ok=True, ignore=left_out)
    _write_student(kard, folder / parts[-1])
    if gguf is not None:
        write_gguf(kard.student, kard.method.writes, folder / parts[-1] / "weights", folder / GGUF, gguf)
    if kard.finder.reranker is not None:
        _write_vectors(kard, folder, vectors)
    exported = _without_paths(recipe_from_run(run), kard)
    (folder / "recipe.yaml").write_text(dump_recipe(exported), encoding="utf-8")
    write_json(folder / "prompt.json", prompt_of(kard))
    shutil.copy(run / "results.json", folder / "results.json")
    (folder / "README.md").write_text(_card(run) + _about(folder, kard), encoding="utf-8")
    write_json(folder / "run.json", {"format": RUN_FORMAT, "export": True})
    rows = check_rows(kard, _dev_questions(run))
    write_jsonl(folder / "check.jsonl", rows)
    for part in parts:
        seal(folder / part, manifest_of(run / part) or {})
    check_export(folder)
    if gguf is not None:
        _compare_gguf(kard, folder, gguf, _dev_questions(run, CHECKED_GGUF))


def _compare_gguf(kard: Kard, folder: Path, gguf: str, questions: Sequence[Question]) -> None:
    """Answer dev questions through the GGUF file as well, and put down how many answers are the same."""
    seal(folder / GGUF, {"name": GGUF, "key": gguf, "seconds": 0.0})
    found = compare(kard, Kard.load(folder, engine="llama_cpp"), questions)
    seal(folder / GGUF, {"name": GGUF, "key": gguf, "seconds": 0.0, "compared": asdict(found)})
    with open(folder / "README.md", "a", encoding="utf-8") as card:
        card.write(about_gguf(folder / GGUF, found))
    say(f"{gguf}: {found.line()}")


def _write_student(kard: Kard, folder: Path) -> None:
    """Weights as they answer: adapters merged, in the number format of writing."""
    folder.mkdir(parents=True, exist_ok=True)
    kard.student.model.save_pretrained(folder / "weights")
    kard.student.tokenizer.save_pretrained(folder / "tokenizer")
    kard.student.tokenizer.save_pretrained(folder / "weights")  # so that transformers alone can load the folder too
    settings = replace(kard.student.settings, base="weights", adapters=False)
    write_json(folder / "student.json", asdict(settings))


def _write_vectors(kard: Kard, folder: Path, vectors: str) -> None:
    from kard.reranker.cross import CrossReranker

    assert kard.finder.reranker is not None
    if isinstance(kard.finder.reranker, CrossReranker):
        return
    store = kard.finder.reranker.vectors
    if vectors == "all":
        store.ensure(range(len(kard.finder.passages)))
    target = Run(folder, kard.recipe).own_vectors
    target.mkdir(parents=True, exist_ok=True)
    for path in (store.path, store.folder / "places.i64"):
        if path.exists():
            shutil.copy(path, target / path.name)


def _without_paths(recipe: Recipe, kard: Kard) -> Recipe:
    """The recipe with file names in place of paths, and with the methods that the export can answer by."""

    def named(section: Section) -> Section:
        values = dict(section)
        names: dict[str, Any] = {name: Path(value.name) for name, value in values.items() if isinstance(value, Path)}
        model = values.get("model")
        if model is not None and Path(model).is_absolute():
            names["model"] = Path(model).name
        return section.model_copy(update=names)

    names = [kard.method.name, *(name for name in kard.methods() if name in METHODS and name != kard.method.name)]
    sections = {name: named(section) for name, section in recipe if name in _SECTIONS_WITH_PATHS}
    evaluation = recipe.evaluation.model_copy(update={"methods": tuple(names), "knowledge": {}})
    return recipe.model_copy(update={**sections, "evaluation": evaluation, "output": None})


def _card(run: Path) -> str:
    """The run's model card, with the names of models in place of the folders that they lie in."""
    card = (run / "report" / "model_card.md").read_text(encoding="utf-8")
    recipe = recipe_from_run(run)
    for model in (recipe.student.model, recipe.reranker.model):
        if Path(model).is_absolute():
            card = card.replace(model, Path(model).name)
    return card


def prompt_of(kard: Kard) -> dict[str, Any]:
    """What the student reads, with placeholders, and how it writes: for whoever serves the weights with other software."""
    settings = kard.student.settings
    method, form = kard.method, settings.answer_as
    passages = ["{passage}"] * (kard.recipe.evaluation.passages if method.reads_passages else 0)
    template = render("{question}", ["{choice 1}", "{choice 2}"], passages, method.writes, form)
    examples = [one.shown(method.reads_passages, method.writes, form) for one in settings.examples]
    return {
        "template": with_examples(examples, template),
        "decoding": "greedy" if kard.recipe.evaluation.samples == 1 else "majority of samples",
        "answer_by": "student and reranker" if method.ranks_choices else kard.recipe.student.answer_by,
        "max_input_tokens": settings.max_input_tokens,
        "max_output_tokens": settings.max_output_tokens,
    }


def _dev_questions(run: Path, count: int = CHECKED) -> list[Question]:
    """Some dev questions, or test questions where there is no dev set."""
    for split in ("dev", "test"):
        questions = read_questions(run / "questions" / f"{split}.jsonl")[:count]
        if questions:
            return questions
    raise UserError(f"{run}: has no question to check the export with. Run its recipe with dev or test questions.")


def check_rows(kard: Kard, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Questions with what was read and written for them."""
    return [
        {
            "id": question.id,
            "question": question.question,
            "choices": list(question.choices),
            "passages": [item.passage.id for item in answer.passages],
            "text": answer.text,
        }
        for question, answer in zip(questions, kard.answer_many(questions), strict=True)
    ]


def check_export(folder: Path) -> None:
    """Load an export and answer the questions that it came with again.

    Raises:
        UserError: An answer differs.
    """
    rows = list(read_jsonl(folder / "check.jsonl"))
    questions = [Question(row["id"], row["question"], tuple(row["choices"])) for row in rows]
    again = check_rows(Kard.load(folder, engine="transformers"), questions)
    differ = [row["id"] for row, other in zip(rows, again, strict=True) if row != other]
    if differ:
        raise UserError(
            f"{folder}: answers {len(differ)} of {len(rows)} questions differently from the run, first '{differ[0]}'. "
            "Use the processor and the versions that the run was made with, or student.dtype: fp32."
        )


def _about(folder: Path, kard: Kard) -> str:
    files = sorted(file for file in folder.rglob("*.safetensors"))
    weights = "\n".join(f"- `{file.relative_to(folder)}`" for file in files)
    names = ", ".join(f"`{name}`" for name in kard.methods())
    return f"""
## This export

It is laid out as a run: put its folder in place of `RUN` above, or serve it with `kard serve RUN`. It answers by {names}, and
needs no network. `prompt.json` has the prompt with placeholders, `check.jsonl` the dev questions that it was checked with.

{weights}
"""
