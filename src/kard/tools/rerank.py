"""`kard rerank`: train and measure a reranker alone, on a file of candidates from anywhere."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.artifacts.files import hash_of_file, read_json, write_json, write_jsonl
from kard.artifacts.folders import Artifact, build, check_output, check_place, locked
from kard.data.readers.jsonl import read_user_jsonl, text_of, texts_of
from kard.errors import UserError
from kard.evaluation.ranking import Judged
from kard.models.weights import guarded, model_identity, model_location, most_tokens
from kard.progress import say
from kard.recipe.sections import RerankerSection
from kard.report.card import write_reranker_card
from kard.reranker.candidates import CandidateSet

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker

FORMAT = 2


@dataclass(frozen=True)
class Line:
    """A line of a file of candidates.

    Attributes:
        where: File and line, for messages.
        queries: What is asked; a passage's score is its best one over them.
        positions: The passages, in the file's order and without duplicates.
        scores: The target score of each, or nothing.
        relevant: The right passages: those that the line names, or else those of the highest score.
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
        output: Gets ``model`` (an ordinary folder of sentence-transformers, with a card), ``training.json``, and of `dev`
            ``retrieval.json`` (how well its candidates are ranked before and after) and ``rankings.jsonl`` (each query).
        section: Model and settings.
        seed: Order of the examples.
        dev: Another file of candidates.

    Raises:
        UserError: A line is wrong or has nothing to learn from, `output` holds something else, or the model cannot be loaded.
    """
    texts: dict[str, int] = {}
    lines = read_candidates(source, texts)
    judged = _judged(dev, texts) if dev else None
    sets = _candidate_sets(lines)
    key = {
        "format": FORMAT,
        "section": section.model_dump(mode="json"),
        "model": model_identity(section.model, "reranker.model"),
        "files": [hash_of_file(path) for path in (source, dev) if path],
        "seed": seed,
    }
    check_output("reranker", output, key)
    with locked(output, beside=True):
        return build("reranker", output, key, lambda folder: _train(folder, list(texts), sets, judged, section, seed))


def _train(
    folder: Path, texts: list[str], sets: list[CandidateSet], judged: Judged | None, section: RerankerSection, seed: int
) -> None:
    from kard.evaluation.retrieval import evaluate_ranking
    from kard.reranker.load import new_reranker
    from kard.reranker.training import remove_checkpoints, train_reranker

    untrained = folder / "untrained"
    reranker = new_reranker(section, untrained, texts, seed)
    if not section.learns_passages:
        reranker.prepare([position for row in sets for position in row.positions])
    rows: list[dict[str, Any]] = []
    if judged is None:
        train_reranker(reranker, sets, section, seed, folder)
    else:
        rankings = {"given": judged.found, "reranker_untrained": judged.ranked(reranker)}
        trained = train_reranker(reranker, sets, section, seed, folder)
        rankings["reranker"] = judged.ranked(trained)
        rows = evaluate_ranking(rankings, judged.relevant, seed)
        write_jsonl(folder / "rankings.jsonl", _ranked_queries(judged, rankings))
    write_json(folder / "retrieval.json", rows)
    write_reranker_card(folder / "model", section, rows, from_file=True)
    remove_checkpoints(folder)
    for vectors in (untrained, folder / "vectors"):
        shutil.rmtree(vectors, ignore_errors=True)


def _ranked_queries(judged: Judged, rankings: Mapping[str, Sequence[Sequence[int]]]) -> Iterator[dict[str, Any]]:
    """For each query the place of its first right passage in each order (null: there is none), and those orders."""
    from kard.evaluation.retrieval import first_rank

    for number, queries in enumerate(judged.queries):
        place = {position: index for index, position in enumerate(judged.found[number])}
        orders = {name: ranking[number] for name, ranking in rankings.items()}
        yield {
            "queries": list(queries),
            "ranks": {name: first_rank(order, judged.relevant["right"][number]) for name, order in orders.items()},
            "orders": {name: [place[position] for position in order] for name, order in orders.items()},
        }


def evaluate_file(model: str, source: Path, queries: Path | None = None) -> list[dict[str, Any]]:
    """Rank the candidates of a file; see `evaluate_ranking` for what comes back.

    Args:
        model: A folder that `train_file` or a run wrote, any multi-vector or cross-encoder of sentence-transformers or
            transformers (folder, hub id, package:NAME), or a plain encoder, whose token vectors are compared as they are.
        source: JSONL, see `read_candidates`; every line needs ``scores`` or ``relevant``.
        queries: Gets each query's result, one JSON object a line: ``queries``, ``ranks`` (of the first right passage) and
            ``orders`` (of the file's distinct candidates, from 0).

    Raises:
        UserError: A line is wrong, or the model cannot be loaded.
    """
    from kard.evaluation.retrieval import evaluate_ranking
    from kard.models.weights import loading_explained

    texts: dict[str, int] = {}
    judged = _judged(source, texts)
    if queries is not None:
        check_place(queries)
        if queries.exists():
            raise UserError(f"{queries}: exists. Name another file, or remove this one.")
    with tempfile.TemporaryDirectory() as vectors, loading_explained(model, "MODEL"):
        name, reranker = _opened(model, Path(vectors), list(texts))
        rankings = {"given": judged.found, name: judged.ranked(reranker)}
    if queries is not None:
        write_jsonl(queries, _ranked_queries(judged, rankings))
    return evaluate_ranking(rankings, judged.relevant)


def _opened(model: str, vectors: Path, texts: list[str]) -> tuple[str, Reranker | CrossReranker]:
    """A reranker of whatever kind a folder or a model on the hub is, and what its ranking is called."""
    from sentence_transformers.util import load_file_path
    from transformers import AutoConfig

    from kard.reranker.cross import check_single_score, is_classifier
    from kard.reranker.load import new_reranker, open_reranker

    inside = Path(model) / "model"
    location = model_location(str(inside) if inside.is_dir() else model, "MODEL")
    described = load_file_path(location, "config_sentence_transformers.json")
    kind = read_json(Path(described)).get("model_type") if described else None
    listed = load_file_path(location, "modules.json")
    modules = [row["type"].rpartition(".")[2] for row in read_json(Path(listed))] if listed else []
    if kind == "MultiVectorEncoder" or (modules and kind != "CrossEncoder" and "Pooling" not in modules):
        return "reranker", open_reranker(location, RerankerSection(), vectors, texts)
    config = AutoConfig.from_pretrained(location, **guarded(location))
    if kind == "CrossEncoder" or is_classifier(config):
        check_single_score(config, model, "MODEL")
        return "reranker", open_reranker(location, RerankerSection(kind="cross_encoder"), vectors, texts)
    if "HF_ColBERT" in (config.architectures or ()):
        return "reranker", open_reranker(location, RerankerSection(), vectors, texts)
    say(f"{model} is no reranker: the vectors of its tokens are compared as they are, as those of an untrained one")
    section = RerankerSection()
    reads = most_tokens(config) or section.passage_tokens
    lengths = {
        "question_tokens": min(reads, section.question_tokens),
        "passage_tokens": min(reads, section.passage_tokens),
    }
    return "reranker_untrained", new_reranker(RerankerSection(model=location, **lengths), vectors, texts, seed=0)


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
    scores, relevant = row.get("scores"), row.get("relevant")
    if scores is not None and (not isinstance(scores, list) or len(scores) != len(passages)):
        raise UserError(f"{where}: 'scores' must be a list of {len(passages)} numbers, one a passage. Mend the line.")
    numbers = [_number(score, where) for score in scores or []]
    if relevant is not None and not (isinstance(relevant, list) and all(_is_place(p, len(passages)) for p in relevant)):
        raise UserError(f"{where}: 'relevant' must be a list of places from 0 to {len(passages) - 1}. Mend the line.")
    positions = [texts.setdefault(passage, len(texts)) for passage in passages]
    distinct = list(dict.fromkeys(positions))
    # A passage that stands there twice has its higher score: the other may be of a worse search.
    best: dict[int, float] = {}
    for position, number in zip(positions, numbers, strict=False):  # a line need not have scores
        best[position] = max(number, best.get(position, number))
    # Without names those of the highest score are right; where all have the same one, it says nothing.
    top = max(best.values(), default=0.0)
    highest = {position for position, score in best.items() if score == top}
    right = highest if relevant is None else {positions[place] for place in relevant}
    if relevant is None and len(highest) == len(distinct) > 1:
        right = set()
    return Line(where, queries, distinct, [best[p] for p in distinct] if best else [], right)


def _number(value: Any, where: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(number := float(value)):
            return number
    except OverflowError:
        pass
    raise UserError(f"{where}: 'scores' holds {str(value)[:40]!r}, which is no finite number. Mend the line.")


def _is_place(value: Any, count: int) -> bool:
    return type(value) is int and 0 <= value < count


def _candidate_sets(lines: Sequence[Line]) -> list[CandidateSet]:
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
