"""The passages of a served run in LlamaIndex (`kard serve RUN`; `pip install llama-index-core`)."""

import json
from urllib.request import Request, urlopen

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode


class KardRetriever(BaseRetriever):
    def __init__(self, address="http://127.0.0.1:8000", k=5):
        super().__init__()
        self.url, self.k = f"{address}/v1/search", k

    def _retrieve(self, query_bundle):
        body = json.dumps({"query": query_bundle.query_str, "k": self.k}).encode()
        with urlopen(Request(self.url, body, {"Content-Type": "application/json"}), timeout=120) as reply:
            return [node_of(passage) for passage in json.load(reply)["passages"]]


def node_of(passage):
    node = TextNode(id_=passage["id"], text=passage["text"], metadata={"source": passage["source"]})
    return NodeWithScore(node=node, score=passage["reranker"])
