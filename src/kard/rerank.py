"""`kard rerank`: train and measure a reranker alone, on a file of candidates from anywhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.artifacts import Artifact, build, check_output, hash_of_file, read_json, write_json
from kard.errors import UserError
from kard.questions.jsonl import read_user_jsonl, text_of, texts_of
from kard.recipe import RerankerSection
from kard.reranking import Judged, write_reranker_card
from kard.weights import model_identity, model_location

if TYPE_CHECKING:
    from kard.reranker.learners import CandidateSet

FORMAT = 1


@dataclass(frozen=True)
class Line:
    """A line of a file of candidates.

    Attributes:
        where: File and line, for messages.
        queries: What is asked; a passage's score is its best one over them.
        positions: The passages, in the file's order and without duplicates.
        scores: The target score of each, or nothing.
        relevant: The right passages: those that the line names, or else the one of the highest score.
    """

    where: str
    queries: tuple[str, ...]
    positions: list[int]
    scores: list[float]
    relevant: set[int]


def train_file(
    source: Path, output: Path, section: RerankerSection, seed: int = 0, dev: Path | None = None
) -> Artifact:
    """Train a reranker on a file of candidates, or go on where an earlier attempt stopped.

    Args:
        source: JSONL, see `read_candidates`; every line needs ``scores``.
        output: Gets ``model`` (an ordinary folder of sentence-transformers, with a card), ``training.json`` and
            ``retrieval.json``: how the candidates of `dev` are ranked before and after.
        section: Model and settings.
        seed: Order of the examples.
        dev: Another file of candidates.

    Raises:
        UserError: A line is wrong or has nothing to learn from, `output` holds something else, or the model cannot be loaded.
    """
    if section.early_stopping and dev is None:
        raise UserError("early_stopping: there is no dev file to look at. Name one with --dev, or set it to null.")
    texts: dict[str, int] = {}
    lines = read_candidates(source, texts)
    judged = _judged(dev, texts) if dev else None
    sets = _candidate_sets(lines)
    key = {
        "format": FORMAT,
        "section": section.model_dump(mode="json", exclude={"checkpoint_minutes", "encode_ahead"}),
        "model": model_identity(section.model),
        "files": [hash_of_file(path) for path in (source, dev) if path],
        "seed": seed,
    }
    check_output("reranker", output, key)
    return build("reranker", output, key, lambda folder: _train(folder, list(texts), sets, judged, section, seed))


def _train(
    folder: Path, texts: list[str], sets: list[CandidateSet], judged: Judged | None, section: RerankerSection, seed: int
) -> None:
    from kard.evaluation.retrieval import evaluate_ranking
    from kard.reranker import new_reranker
    from kard.reranker.training import train_reranker

    untrained = folder / "untrained"
    reranker = new_reranker(section, untrained, texts, seed)
    if section.train == "question":
        reranker.prepare([position for row in sets for position in row.positions])
    rows: list[dict[str, Any]] = []
    if judged is None:
        train_reranker(reranker, sets, section, seed, folder)
    else:
        rankings = {"given": judged.found, "reranker_untrained": judged.ranked(reranker)}
        trained = train_reranker(reranker, sets, section, seed, folder, partial(judged.hits, reranker))
        rows = evaluate_ranking(rankings | {"reranker": judged.ranked(trained)}, judged.relevant, seed)
    write_json(folder / "retrieval.json", rows)
    write_reranker_card(folder / "model", section, rows)
    for vectors in (untrained, folder / "vectors"):
        shutil.rmtree(vectors, ignore_errors=True)


def evaluate_file(model: str, source: Path) -> list[dict[str, Any]]:
    """Rank the candidates of a file; see `evaluate_ranking` for what comes back.

    Args:
        model: A folder that `train_file` or a run wrote, or any multi-vector or cross-encoder of sentence-transformers (folder,
            hub id, package:NAME).
        source: JSONL, see `read_candidates`; every line needs ``scores`` or ``relevant``.

    Raises:
        UserError: A line is wrong, or the model cannot be loaded.
    """
    from kard.evaluation.retrieval import evaluate_ranking
    from kard.reranker import open_reranker
    from kard.weights import loading_explained

    texts: dict[str, int] = {}
    judged = _judged(source, texts)
    inside = Path(model) / "model"
    location = Path(model_location(str(inside) if inside.is_dir() else model, "MODEL"))
    with tempfile.TemporaryDirectory() as vectors, loading_explained(model, "MODEL"):
        reranker = open_reranker(str(location), RerankerSection(kind=_kind(location)), Path(vectors), list(texts))
        return evaluate_ranking({"given": judged.found, "reranker": judged.ranked(reranker)}, judged.relevant)


def _kind(location: Path) -> Any:
    config = location / "config_sentence_transformers.json"
    crossed = config.exists() and read_json(config).get("model_type") == "CrossEncoder"
    return "cross_encoder" if crossed else "late_interaction"


def read_candidates(source: Path, texts: dict[str, int]) -> list[Line]:
    """Read and check a file of candidates.

    Args:
        source: JSONL with ``query`` (or ``queries``, a list), ``passages`` (texts), and maybe ``scores`` (a number a passage,
            higher is better) and ``relevant`` (places of right passages in ``passages``, from 0).
        texts: All passages so far and their positions; new ones are added.

    Raises:
        UserError: Names the file and the line of the first thing that is wrong.
    """
    lines = [_line(row, f"{source}:{number}", texts) for number, row in read_user_jsonl(source)]
    if not lines:
        raise UserError(f"{source}: holds no candidates. Add one JSON object a line.")
    return lines


def _line(row: dict[str, Any], where: str, texts: dict[str, int]) -> Line:
    if row.get("query") is not None and row.get("queries") is not None:
        raise UserError(f"{where}: has 'query' and 'queries'. Leave one of them out.")
    queries = texts_of(row, "queries", where) or (text_of(row, "query", where),)
    passages = texts_of(row, "passages", where)
    if not passages:
        raise UserError(f"{where}: 'passages' is missing or empty. Add a list of texts.")
    scores, relevant = row.get("scores") or [], row.get("relevant") or []
    if not isinstance(scores, list) or (scores and len(scores) != len(passages)) or not all(map(_is_number, scores)):
        raise UserError(f"{where}: 'scores' must be a list of {len(passages)} numbers, one a passage. Mend the line.")
    if not isinstance(relevant, list) or not all(type(p) is int and 0 <= p < len(passages) for p in relevant):
        raise UserError(f"{where}: 'relevant' must be a list of places from 0 to {len(passages) - 1}. Mend the line.")
    positions = [texts.setdefault(passage, len(texts)) for passage in passages]
    first = {position: place for place, position in reversed(list(enumerate(positions)))}
    distinct = sorted(first, key=first.__getitem__)
    best = [int(max(range(len(scores)), key=scores.__getitem__))] if scores else []
    right = {positions[place] for place in relevant or best}
    return Line(where, queries, distinct, [float(scores[first[p]]) for p in distinct] if scores else [], right)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _candidate_sets(lines: Sequence[Line]) -> list[CandidateSet]:
    from kard.reranker.learners import CandidateSet

    for line in lines:
        if not line.scores:
            raise UserError(f"{line.where}: no 'scores' to learn from. Add one number for each passage.")
        if len(line.positions) < 2:
            raise UserError(
                f"{line.where}: one passage alone has nothing to learn from. Add others, or remove the line."
            )
    return [CandidateSet(line.queries, tuple(line.positions), tuple(line.scores)) for line in lines]


def _judged(source: Path, texts: dict[str, int]) -> Judged:
    lines = read_candidates(source, texts)
    if not any(line.relevant for line in lines):
        raise UserError(
            f"{source}: no line has 'relevant' or 'scores', so nothing says which passage is right. Add them."
        )
    right = {"right": [line.relevant for line in lines]}
    return Judged([], [line.queries for line in lines], [line.positions for line in lines], right)
