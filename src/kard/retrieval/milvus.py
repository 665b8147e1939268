"""Retrieval by Milvus: a file runs Milvus Lite in this process, a URL is a server or cluster; the code is the same.

Terms are those of the other retrievers: their digests are stored as the words of Milvus' own BM25 function.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from kard.artifacts import read_json, write_json
from kard.errors import UserError
from kard.progress import progress
from kard.recipe import RetrieverSection
from kard.retrieval.analysis import Analysis, analysis_for
from kard.retrieval.dense import Encoder
from kard.retrieval.hybrid import DEPTH
from kard.retrieval.retriever import Hits

_BLOCK = 500
_LONGEST_TEXT = 65_535


class Milvus:
    """A Milvus collection of passages.

    Args:
        folder: Written by `build`; holds what is to be known of the collection, and of Milvus Lite its data.
        section: The recipe's.
    """

    def __init__(self, folder: Path, section: RetrieverSection) -> None:
        self.section = section
        self.settings = read_json(folder / "milvus.json")
        self.analysis = _analysis(self.settings)
        self.encoder = None if section.milvus_search == "bm25" else Encoder(section.encoder)
        self.collection = self.settings["collection"]
        self.client = _client(section, folder)
        self.client.load_collection(self.collection)

    @classmethod
    def build(cls, texts: Sequence[str], section: RetrieverSection, folder: Path) -> None:
        """Fill a new collection; a search goes to the old one until the index folder is replaced."""
        settings = folder / "milvus.json"
        encoder = None if section.milvus_search == "bm25" else Encoder(section.encoder, online=True)
        if not settings.exists():
            analysis = analysis_for(section, texts)
            names = [analysis.analyzer, analysis.stemmer, analysis.stopwords]
            made = {"collection": f"kard_{uuid4().hex}", "analysis": names, "folds": analysis.folds, "size": len(texts)}
            write_json(settings, made)
        found = read_json(settings)
        analysis, collection = _analysis(found), found["collection"]
        with _closing(section, folder) as client:
            if not client.has_collection(collection):
                _create(client, collection, section, encoder)
            # Rows are put in their order: as many as are there are done. Writing one again replaces it.
            done = client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong")[0][
                "count(*)"
            ]
            begin = max(0, int(done) // _BLOCK * _BLOCK - _BLOCK)
            with progress("fill Milvus", len(texts) - begin, "passages") as advance:
                for place in range(begin, len(texts), _BLOCK):
                    rows = list(_rows(place, texts[place : place + _BLOCK], analysis, encoder))
                    client.upsert(collection, rows)
                    advance(len(rows))
            client.flush(collection)

    @classmethod
    def load(cls, folder: Path, section: RetrieverSection) -> Milvus:
        """Connect to the collection that an index folder names."""
        return cls(folder, section)

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The `k` best passages for each query, equal scores by position."""
        found = self._found(queries, min(k, self.settings["size"]), "")
        return [Hits(hits.positions[:k], hits.scores[:k]) for hits in found]

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Scores of given passages for each query; 0 for one that is not found (hybrid: not among the first thousand)."""
        scores = []
        for query, own in zip(queries, positions, strict=True):
            only = "" if self.section.milvus_search == "hybrid" else f"position in {[int(place) for place in own]}"
            limit = self.settings["size"] if only == "" else len(own)
            [hits] = self._found([query], min(limit, DEPTH), only)
            known = dict(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True))
            scores.append(np.array([known.get(int(place), 0.0) for place in own], dtype=np.float32))
        return scores

    def _found(self, queries: Sequence[str], limit: int, only: str) -> list[Hits]:
        """Hits of each query; Milvus asks for one with terms, and one without finds nothing by words."""
        if not queries or not limit:
            return [Hits(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        data = {"words": _words(*self.analysis.terms(queries))}
        if self.encoder is not None:
            data["meaning"] = self.encoder.queries(queries).tolist()
        if self.section.milvus_search == "hybrid":
            return self._fused(data, limit)
        field = "words" if self.section.milvus_search == "bm25" else "meaning"
        return self._searched(field, data[field], limit, only)

    def _searched(self, field: str, data: list[Any], limit: int, only: str) -> list[Hits]:
        asked = [place for place, value in enumerate(data) if value]
        results = [Hits(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in data]
        if asked:
            found = self.client.search(
                self.collection,
                data=[data[place] for place in asked],
                anns_field=field,
                limit=limit,
                filter=only,
                output_fields=["position"],
                consistency_level="Strong",
            )
            for place, rows in zip(asked, found, strict=True):
                results[place] = _hits(rows)
        return results

    def _fused(self, data: dict[str, list[Any]], limit: int) -> list[Hits]:
        from pymilvus import AnnSearchRequest, RRFRanker

        results = []
        for words, meaning in zip(data["words"], data["meaning"], strict=True):
            depth = min(DEPTH, self.settings["size"])
            requests = [AnnSearchRequest([meaning], "meaning", {}, depth)]
            if words:
                requests.append(AnnSearchRequest([words], "words", {}, depth))
            ranker = RRFRanker(self.section.fusion)
            [rows] = self.client.hybrid_search(
                self.collection, requests, ranker, limit=limit, output_fields=["position"], consistency_level="Strong"
            )
            results.append(_hits(rows))
        return results


def _hits(rows: Any) -> Hits:
    positions = np.array([row["position"] for row in rows], dtype=np.int64)
    # Milvus Lite gives BM25 scores as negative distances, a server as positive scores.
    scores = np.abs(np.array([row["distance"] for row in rows], dtype=np.float32))
    order = np.lexsort((positions, -scores))
    return Hits(positions[order], scores[order])


def _analysis(settings: dict[str, Any]) -> Analysis:
    analyzer, stemmer, stopwords = settings["analysis"]
    return Analysis(analyzer, stemmer, stopwords, settings.get("folds", False))


def _words(digests: np.ndarray, numbers: np.ndarray, bounds: np.ndarray) -> list[str]:
    """Terms of texts, as an analysis gives them, as words that Milvus takes apart."""
    names = [f"t{digest:x}" for digest in digests.tolist()]
    return [" ".join(names[n] for n in numbers[first:last]) for first, last in pairwise(bounds.tolist())]


def _rows(begin: int, texts: Sequence[str], analysis: Analysis, encoder: Encoder | None) -> Iterator[dict[str, Any]]:
    meanings = encoder.documents(texts).astype(np.float32).tolist() if encoder else [None] * len(texts)
    for number, (terms, meaning) in enumerate(
        zip(_words(*analysis.indexed(texts)[:3]), meanings, strict=True), start=begin
    ):
        if len(terms) > _LONGEST_TEXT:
            raise UserError(
                "retriever.kind: milvus takes at most 3,600 words a passage. Lower knowledge.passage_words."
            )
        yield {"position": number, "terms": terms} | ({} if meaning is None else {"meaning": meaning})


def _create(client: Any, collection: str, section: RetrieverSection, encoder: Encoder | None) -> None:
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("position", DataType.INT64, is_primary=True)
    analyzer = {"tokenizer": "standard"}
    schema.add_field(
        "terms", DataType.VARCHAR, max_length=_LONGEST_TEXT, enable_analyzer=True, analyzer_params=analyzer
    )
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name="bm25", function_type=FunctionType.BM25, input_field_names=["terms"], output_field_names=["words"]
        )
    )
    indexes = client.prepare_index_params()
    settings = {"bm25_k1": section.k1, "bm25_b": section.b}
    indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=settings)
    if encoder is not None:
        schema.add_field("meaning", DataType.FLOAT_VECTOR, dim=encoder.dimension)
        indexes.add_index("meaning", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(collection, schema=schema, index_params=indexes)


def check_asked(section: RetrieverSection) -> None:
    """Look whether the user asks for the Milvus of a finished run. A received folder could name any server, and any variable
    as the one with the token: a server must be the one that ``KARD_MILVUS`` names, a file must be there.

    Raises:
        UserError: Says what to set.
    """
    address = section.milvus if section.kind == "milvus" else None
    if address is None:
        return
    if "://" in address and os.environ.get("KARD_MILVUS") != address:
        raise UserError(
            f"retriever.milvus: the index is on the server {address}, and a finished run connects to none by itself. If you "
            f"trust it: KARD_MILVUS={address} kard …"
        )
    if "://" not in address and not Path(address).exists():
        raise UserError(f"retriever.milvus: no file {address}. Put it back, or run the recipe again.")


def _address(section: RetrieverSection, folder: Path) -> str:
    return section.milvus or str(folder / "milvus.db")


def _client(section: RetrieverSection, folder: Path) -> Any:
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise UserError("retriever.kind: milvus needs pymilvus. Run: pip install 'kard[milvus]'.") from error
    address = _address(section, folder)
    try:
        return MilvusClient(address, token=os.environ.get(section.milvus_token_env, ""))
    except MilvusException as error:
        raise UserError(f"retriever.milvus: cannot open {address} ({error.message}). Check the address.") from error


@contextmanager
def _closing(section: RetrieverSection, folder: Path) -> Iterator[Any]:
    """A client whose embedded server is gone afterwards, so that the folder can be renamed and opened again."""
    client = _client(section, folder)
    try:
        yield client
    finally:
        client.close()
        address = _address(section, folder)
        if "://" not in address:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(address)
