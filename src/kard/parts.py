"""What a finished run answers with, opened from its stages: passages, retriever, reranker, student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kard.artifacts import check_whole, manifest_of, read_json
from kard.damage import damage_explained
from kard.data.passage import Passage, Passages, read_passages
from kard.errors import UserError
from kard.methods import Method
from kard.recipe import Recipe

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker
    from kard.retrieval.retriever import Retriever
    from kard.student.generation import Student


def load_student(folder: Path, recipe: Recipe, trained_on: str, online: bool = False) -> Student:
    """A trained student of a run, ready to write with the engine that the recipe names; `online` as in `load_readers`."""
    student = finished(folder, f"students/{trained_on}")
    with damage_explained(student):
        if recipe.evaluation.engine == "vllm":
            from kard.student.vllm import VllmStudent

            return VllmStudent.load(student, online)
        from kard.student.generation import Student

        return Student.load(student, online)


def load_readers(
    folder: Path, recipe: Recipe, methods: Sequence[Method], online: bool = False
) -> tuple[Sequence[Passage], Retriever | None, Reranker | CrossReranker | None]:
    """Passages, retriever and reranker of a run, as far as the methods read them.

    Args:
        folder: The run's.
        recipe: Its recipe.
        methods: Those that will be asked for.
        online: Whether a user gave this recipe to be run, and so asks for the servers and the hub's models that it names.
            A run folder may come from anywhere.
    """
    if not any(method.reads_passages for method in methods):
        return [], None, None
    passages, retriever = load_index(folder, recipe, online)
    has_reranker = any(method.reads == "reranker" for method in methods)
    reranker = load_reranker(folder, recipe, passages) if has_reranker else None
    return passages, retriever, reranker


def load_index(folder: Path, recipe: Recipe, online: bool = False) -> tuple[Passages, Retriever]:
    """Passages of a run and what finds them; `online` as in `load_readers`."""
    from kard.retrieval.index import load_retriever
    from kard.retrieval.milvus import check_asked

    if not online:
        check_asked(recipe.retriever)
    knowledge, index = finished(folder, "knowledge"), finished(folder, "index")
    with damage_explained(knowledge):
        passages = read_passages(knowledge / "passages.jsonl")
    with damage_explained(index):
        retriever = load_retriever(recipe.retriever, index)
    return passages, retriever


def load_reranker(folder: Path, recipe: Recipe, passages: Passages) -> Reranker | CrossReranker:
    """The trained reranker of a run, with the passage vectors that the run has computed so far."""
    trained, section = finished(folder, "reranker"), recipe.reranker
    own = own_vectors(folder)
    has_own = section.kind == "cross_encoder" or section.train == "both" or own.exists()
    store = own if has_own else passage_store(folder, recipe)
    with damage_explained(trained):
        temperature = read_json(trained / "training.json")["tau_question"]
        if section.kind == "cross_encoder":
            from kard.reranker.load import open_reranker

            return open_reranker(str(trained / "model"), section, store, passages.texts, temperature)
        from kard.reranker.model import trained_reranker

        return trained_reranker(trained / "model", store, passages.texts, section.vectors, temperature)


def passage_store(folder: Path, recipe: Recipe) -> Path:
    """Where the passage vectors of a run lie; another encoder or another knowledge base has another folder.

    See `own_vectors` for those of another encoder than ``reranker.model``.
    """
    from kard.models.weights import model_identity
    from kard.reranker.vectors import vectors_folder

    manifest = manifest_of(finished(folder, "knowledge"))
    assert manifest is not None
    section = recipe.reranker
    identity: object = model_identity(section.model, "reranker.model")
    if section.interaction == "paper":  # a linear layer on top, by the seed
        identity = [identity, section.interaction, recipe.seed]
    return vectors_folder(folder, identity, section.passage_tokens, manifest["key"], section.vectors)


def own_vectors(folder: Path) -> Path:
    """Where the passage vectors lie that belong to the trained reranker: those of an export, which does not need the model that
    the reranker was trained from, and those of a passage side that was trained as well."""
    return folder / "reranker" / "vectors"


def finished(folder: Path, stage: str) -> Path:
    """The folder of a stage that is complete.

    Raises:
        UserError: The run did not get that far, or a file of the stage is damaged.
    """
    path = folder / stage
    if manifest_of(path) is None:
        raise UserError(f"{path}: this stage is not finished. Run 'kard run RECIPE --output {folder}' to its end.")
    check_whole(path)
    return path
