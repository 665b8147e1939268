"""Irrelevant passages behind those that matter: how does the size of the knowledge base tell?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from kard.data.passage import positions_of, read_passages, replace_passages
from kard.data.readers.documents import Document, LeftOut, wikivital_documents
from kard.errors import UserError
from kard.recipe import KnowledgeSection

# In front of their ids, so that none of them is taken for a passage that a question names.
MARK = "distractor:"


def distracting_documents(section: KnowledgeSection, left_out: LeftOut) -> Iterator[Document]:
    """Documents from another source, under ids of their own; none with ``distractors: rest``, whose come with the base."""
    from kard.data.readers.tables import jsonl_documents

    if isinstance(section.distractors, Path):
        documents = jsonl_documents(section.distractors, KnowledgeSection(path=section.distractors))
    else:
        documents = wikivital_documents() if section.distractors == "wikivital" else iter(())
    for document in documents:
        if document.text.strip():
            yield replace(document, id=MARK + document.id)
        else:
            left_out.add("empty", document.source, "no text in it")


def draw_distractors(section: KnowledgeSection, folder: Path, gold: Collection[str], seed: int) -> dict[str, int]:
    """Keep the base and so many times as many distractors behind it; more of them hold the fewer of the same seed.

    Args:
        section: Says where distractors come from and how many are wanted.
        folder: With the passages of base and distractors, duplicates left out, and ``left_out.jsonl``.
        gold: Ids of passages and documents that make up the base with ``distractors: rest``.
        seed: Decides which are drawn, and their order.

    Returns:
        How many passages the base has (``base``), how many distractors were drawn (``drawn``), from how many (``of``).

    Raises:
        UserError: The base is empty, or there are too few distractors.
    """
    path = folder / "passages.jsonl"
    passages = read_passages(path)
    if section.distractors == "rest":
        base = sorted({position for places in positions_of(folder, gold).values() for position in places})
    else:
        base = [position for position, passage in enumerate(passages) if not passage.id.startswith(MARK)]
    if not base:
        raise UserError(
            "knowledge.distractors: no passage for them to stand behind: with 'rest', questions have to name gold passages; "
            "otherwise documents with text have to be there. Mend knowledge.path, id_prefix or distractors."
        )
    others = np.setdiff1d(np.arange(len(passages)), base)
    wanted = round(section.distractor_factor * len(base))
    if wanted > len(others):
        raise UserError(
            f"knowledge.distractor_factor: {section.distractor_factor:g} times {len(base):,} passages asked for, "
            f"{len(others):,} distractors there are. At most {int(100 * len(others) / len(base)) / 100:g} can be had."
        )
    drawn = np.random.default_rng(seed).permutation(others)[:wanted].tolist()
    replace_passages(path, (passages[position] for position in (*base, *drawn)))
    return {"base": len(base), "drawn": len(drawn), "of": len(others)}
