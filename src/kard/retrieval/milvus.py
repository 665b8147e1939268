"""Retrieval by Milvus: a file runs Milvus Lite in this process, a URL is a server or cluster; the code is the same.

Terms are those of the other retrievers: their digests are stored as the words of Milvus' own BM25 function. All versions of the
documents share a collection: each knows the keys of its own passages, which rise with their positions, and leaves the others'
rows out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from kard.artifacts.files import read_json, write_json
from kard.errors import UserError
from kard.progress import progress
from kard.recipe.sections import RetrieverSection
from kard.retrieval.analysis import Analysis, analysis_for
from kard.retrieval.dense import Encoder
from kard.retrieval.hybrid import DEPTH, FUSION
from kard.retrieval.retriever import Earlier, Hits

_BLOCK = 500
_LONGEST_TEXT = 65_535
_STRONG = "Strong"
_MOST_ROWS = 16_384  # that Milvus gives at once


class Milvus:
    """A Milvus collection of passages.

    Args:
        folder: Written by `build_milvus`; says what is to be known of the collection.
        section: The recipe's.
    """

    def __init__(self, folder: Path, section: RetrieverSection) -> None:
        settings = read_json(folder / "milvus.json")
        self.kind = section.kind
        self.collection, self.keys = settings["collection"], np.fromfile(folder / "keys.i64", dtype=np.int64)
        self.size = len(self.keys)
        # Rows of other versions that may stand between this one's, and those that came later.
        self.others = int(self.keys[-1]) + 1 - self.size
        self.own = f"position <= {self.keys[-1]}"
        self.analysis = Analysis(settings["analyzer"], settings["language"])
        self.encoder = None if section.kind == "bm25" else Encoder(section.encoder)
        self.client = _client(section)
        self.client.load_collection(self.collection)

    def search(self, queries: Sequence[str], k: int, allowed: np.ndarray | None = None) -> list[Hits]:
        """The `k` best passages (of the `allowed`) for each query, equal scores by position."""
        only = self.own if allowed is None else self._among(allowed)
        found = self._found(queries, min(min(k, self.size) + self.others, _MOST_ROWS), only)
        return [Hits(hits.positions[:k], hits.scores[:k]) for hits in found]

    def _among(self, allowed: np.ndarray) -> str:
        """A condition of Milvus that names the passages, or leaves the others out where these are fewer."""
        if 2 * np.count_nonzero(allowed) <= len(allowed):
            return f"position in {self.keys[allowed].tolist()}"
        return f"{self.own} and position not in {self.keys[~allowed].tolist()}"

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Scores of given passages for each query; 0 for one that is not found (hybrid: not among the first thousand)."""
        scores = []
        for query, own in zip(queries, positions, strict=True):
            hybrid = self.kind == "hybrid"
            only = self.own if hybrid else f"position in {self.keys[np.asarray(own, dtype=np.int64)].tolist()}"
            [hits] = self._found([query], min(self.size + self.others if hybrid else len(own), DEPTH), only)
            scores.append(hits.scores_of(own))
        return scores

    def _found(self, queries: Sequence[str], limit: int, only: str) -> list[Hits]:
        """Hits of each query; Milvus asks for one with terms, and one without finds nothing by words."""
        if not queries or not limit:
            return [Hits.none() for _ in queries]
        words = _words(*self.analysis.terms(queries))
        if self.encoder is None:
            return self._searched("words", words, limit, only)
        meanings = self.encoder.queries(queries).tolist()
        if self.kind == "dense":
            return self._searched("meaning", meanings, limit, only)
        return [self._fused(*both, limit, only) for both in zip(words, meanings, strict=True)]

    def _searched(self, field: str, data: list[Any], limit: int, only: str) -> list[Hits]:
        results = [Hits.none() for _ in data]
        if asked := [place for place, value in enumerate(data) if value]:
            found = self.client.search(
                self.collection,
                data=[data[place] for place in asked],
                anns_field=field,
                limit=limit,
                filter=only,
                output_fields=["position"],
                consistency_level=_STRONG,
            )
            for place, rows in zip(asked, found, strict=True):
                results[place] = self._hits(rows)
        return results

    def _fused(self, words: str, meaning: list[float], limit: int, only: str) -> Hits:
        from pymilvus import AnnSearchRequest, RRFRanker

        depth = min(DEPTH, self.size) + self.others
        requests = [AnnSearchRequest([meaning], "meaning", {}, depth, only)]
        if words:
            requests.append(AnnSearchRequest([words], "words", {}, depth, only))
        [rows] = self.client.hybrid_search(
            self.collection,
            requests,
            RRFRanker(FUSION),
            limit=limit,
            output_fields=["position"],
            consistency_level=_STRONG,
        )
        return self._hits(rows)

    def _hits(self, rows: Any) -> Hits:
        # Milvus Lite gives BM25 scores as negative distances, a server as positive scores.
        scores = np.abs(np.array([row["distance"] for row in rows], dtype=np.float32))
        keys = np.array([row["position"] for row in rows], dtype=np.int64)
        positions = np.minimum(np.searchsorted(self.keys, keys), self.size - 1)
        own = self.keys[positions] == keys
        return Hits.ordered(positions[own], scores[own])


def build_milvus(texts: Sequence[str], section: RetrieverSection, folder: Path, earlier: Earlier | None = None) -> None:
    """Fill a new collection (a search goes to the old one until the index folder is replaced), or put the new passages into that
    of an earlier version."""
    settings = folder / "milvus.json"
    encoder = None if section.kind == "bm25" else Encoder(section.encoder, online=earlier is None)
    kept = np.empty(0, dtype=np.int64)
    if earlier is not None:
        kept = np.fromfile(earlier.folder / "keys.i64", dtype=np.int64)[earlier.kept]
        first = max(read_json(other / settings.name)["next"] for other in earlier.versions)
        made = {**read_json(earlier.folder / settings.name), "next": first + len(texts) - len(kept)}
        write_json(settings, made)
    elif not settings.exists():
        found = analysis_for(section, texts)
        made = {"collection": f"kard_{uuid4().hex}", "analyzer": found.analyzer, "language": found.language}
        write_json(settings, {**made, "next": len(texts)})
    known = read_json(settings)
    new = np.arange(known["next"] - (len(texts) - len(kept)), known["next"])
    np.concatenate([kept, new]).tofile(folder / "keys.i64")
    analysis, collection = Analysis(known["analyzer"], known["language"]), known["collection"]
    client = _client(section)
    try:
        if not client.has_collection(collection):
            _create(client, collection, section, encoder)
        begin = len(kept)
        if earlier is None:
            # Rows are put in their order: as many as are there are done. Writing one again replaces it.
            [row] = client.query(collection, filter="", output_fields=["count(*)"], consistency_level=_STRONG)
            begin = max(0, int(row["count(*)"]) // _BLOCK * _BLOCK - _BLOCK)
        with progress("fill Milvus", len(texts) - begin, "passages") as advance:
            for place in range(begin, len(texts), _BLOCK):
                first = int(new[place - len(kept)])
                rows = list(_rows(first, texts[place : place + _BLOCK], analysis, encoder))
                client.upsert(collection, rows)
                advance(len(rows))
        client.flush(collection)
    finally:
        client.close()


def delete_rows(section: RetrieverSection, gone: Sequence[Path], kept: Sequence[Path]) -> None:
    """Delete the rows of versions that are no more, but for those that others have.

    Args:
        section: The recipe's.
        gone, kept: Index folders.
    """
    keys = [
        np.unique(np.concatenate([np.fromfile(one / "keys.i64", dtype=np.int64) for one in some]))
        for some in (gone, kept)
    ]
    old = np.setdiff1d(keys[0], keys[1]).tolist()
    client = _client(section)
    try:
        for begin in range(0, len(old), _BLOCK):
            client.delete(read_json(kept[0] / "milvus.json")["collection"], ids=old[begin : begin + _BLOCK])
    finally:
        client.close()


def _words(digests: np.ndarray, numbers: np.ndarray, bounds: np.ndarray) -> list[str]:
    """Terms of texts, as an analysis gives them, as words that Milvus takes apart."""
    names = [f"t{digest:x}" for digest in digests.tolist()]
    return [" ".join(names[n] for n in numbers[first:last]) for first, last in pairwise(bounds.tolist())]


def _rows(begin: int, texts: Sequence[str], analysis: Analysis, encoder: Encoder | None) -> Iterator[dict[str, Any]]:
    words = _words(*analysis.indexed(texts)[:3])
    meanings = encoder.documents(texts).astype(np.float32).tolist() if encoder else [None] * len(texts)
    for number, (terms, meaning) in enumerate(zip(words, meanings, strict=True), start=begin):
        if len(terms) > _LONGEST_TEXT:
            raise UserError(
                "retriever.milvus: Milvus takes at most 3,600 words a passage. Lower knowledge.passage_words."
            )
        yield {"position": number, "terms": terms} | ({} if meaning is None else {"meaning": meaning})


def _create(client: Any, collection: str, section: RetrieverSection, encoder: Encoder | None) -> None:
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("position", DataType.INT64, is_primary=True)
    analyzer = {"enable_analyzer": True, "analyzer_params": {"tokenizer": "standard"}}
    schema.add_field("terms", DataType.VARCHAR, max_length=_LONGEST_TEXT, **analyzer)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    names: dict[str, Any] = {"input_field_names": ["terms"], "output_field_names": ["words"]}
    schema.add_function(Function(name="bm25", function_type=FunctionType.BM25, **names))
    indexes = client.prepare_index_params()
    settings = {"bm25_k1": section.k1, "bm25_b": section.b}
    indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=settings)
    if encoder is not None:
        schema.add_field("meaning", DataType.FLOAT_VECTOR, dim=encoder.dimension)
        indexes.add_index("meaning", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(collection, schema=schema, index_params=indexes)


def check_asked(section: RetrieverSection) -> None:
    """Look whether the user asks for the Milvus of a finished run. A received folder could name any server: it must be the one
    that ``KARD_MILVUS`` names; a file must be there.

    Raises:
        UserError: Says what to set.
    """
    address = section.milvus
    if address is None:
        return
    if "://" in address and os.environ.get("KARD_MILVUS") != address:
        raise UserError(
            f"retriever.milvus: the index is on the server {address}, and a finished run connects to none by itself. If you "
            f"trust it: KARD_MILVUS={address} kard …"
        )
    if "://" not in address and not Path(address).exists():
        raise UserError(f"retriever.milvus: no file {address}. Put it back, or run the recipe again.")


def _client(section: RetrieverSection) -> Any:
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise UserError("retriever.milvus needs pymilvus. Run: pip install 'kard[milvus]'.") from error
    try:
        return MilvusClient(str(section.milvus), token=os.environ.get("MILVUS_TOKEN", ""))
    except MilvusException as error:
        raise UserError(
            f"retriever.milvus: cannot open {section.milvus} ({error.message}). Check the address."
        ) from error
